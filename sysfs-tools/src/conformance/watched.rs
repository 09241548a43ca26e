//! The examination in a process of its own.
//!
//! A device can keep a call for ever, and with it the process that made the call, which not even a signal ends. So
//! another process waits, for a bounded time, and tells of it.

use super::calls::{Calls, System};
use super::device::Subject;
use super::report::{Ended, Outcome, Report, Verdict};
use super::{drive, item, names, sys};
use crate::Error;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// One line of what the examining process tells.
#[derive(Serialize, Deserialize)]
enum Told {
    /// It makes this call.
    Calls(String),
    /// The call returned.
    Returned,
    /// The next rule is done.
    Rule { verdict: Verdict, words: String },
    /// The file cannot be driven.
    Refused(i32),
}

/// The system's calls, each told of before and after.
struct Telling {
    to: File,
}

impl Telling {
    fn tell(&self, told: &Told) {
        let mut line = serde_json::to_vec(told).unwrap_or_default();
        line.push(b'\n');
        // Without a listener there is nothing to tell.
        let _ = (&self.to).write_all(&line);
    }

    fn around<T>(&self, name: String, call: impl FnOnce() -> T) -> T {
        self.tell(&Told::Calls(name));
        let result = call();
        self.tell(&Told::Returned);
        result
    }
}

impl Calls for Telling {
    fn open(&self, path: &Path) -> nix::Result<File> {
        self.around("open".to_owned(), || System.open(path))
    }

    fn ioctl(&self, file: &File, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        self.around(call_name(cmd), || System.ioctl(file, cmd, argument))
    }

    fn ioctl_elsewhere(&self, file: &File, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        self.around(format!("{} of another process", call_name(cmd)), || System.ioctl_elsewhere(file, cmd, argument))
    }

    fn ioctl_nowhere(&self, file: &File, cmd: u32) -> nix::Result<()> {
        self.around(format!("{} with a bad address", call_name(cmd)), || System.ioctl_nowhere(file, cmd))
    }

    fn write(&self, file: &File, bytes: &[u8]) -> nix::Result<usize> {
        self.around("write".to_owned(), || System.write(file, bytes))
    }

    fn read(&self, file: &File, into: &mut [u8]) -> nix::Result<usize> {
        self.around("read".to_owned(), || System.read(file, into))
    }
}

fn call_name(cmd: u32) -> String {
    vhost_abi::command::find(cmd).map_or_else(|| format!("ioctl {cmd:#x}"), |(name, _)| name.to_owned())
}

/// Drives the file at `path` through all rules. The device must not be in use. A call that takes longer than `limit`
/// breaks the rule that it was made for, and ends the examination.
///
/// The program must have one thread: it forks.
pub fn examine(path: &Path, limit: Duration) -> Result<Report, Error> {
    let refused = |errno| Error::Read { path: path.to_owned(), errno };
    let (from, to) = pipe2(OFlag::O_CLOEXEC).map_err(refused)?;
    let child = sys::Child::new(|| tell_all(path, to.try_clone())).map_err(refused)?;
    // The end of the child is the end of the pipe.
    drop(to);
    let mut listener = Listener::new(from, limit);
    let (mut items, mut lost) = (Vec::new(), None);
    for name in names() {
        let heard = match &lost {
            Some(words) => Heard::Outcome(Err(Ended::Skipped(String::clone(words)))),
            None => listener.rule(),
        };
        let outcome = match heard {
            Heard::Outcome(outcome) => outcome,
            Heard::Refused(errno) => return Err(refused(errno)),
            Heard::Nothing(words) => {
                lost = Some(format!("after {}: {words}", name.0));
                Err(Ended::Failed(words))
            }
        };
        items.push(item(name, outcome));
    }
    drop(child);
    Ok(Report::new(path.to_string_lossy().into_owned(), items))
}

/// What the child does.
fn tell_all(path: &Path, to: io::Result<OwnedFd>) {
    let Ok(to) = to else { return };
    let telling = Rc::new(Telling { to: to.into() });
    let subject = Subject { path: path.to_owned(), calls: Rc::clone(&telling) as Rc<dyn Calls> };
    let done = drive(&subject, &mut |item| {
        let words = item.seen.or(item.reason).unwrap_or_default();
        telling.tell(&Told::Rule { verdict: item.verdict, words });
    });
    if let Err(errno) = done {
        telling.tell(&Told::Refused(errno as i32));
    }
}

/// What comes of waiting for a rule.
#[derive(Debug, PartialEq)]
enum Heard {
    Outcome(Outcome),
    Refused(Errno),
    /// Why nothing will come any more.
    Nothing(String),
}

/// Why there is no next line.
enum Silence {
    /// None came in time.
    Late,
    /// The child is gone.
    Ended,
}

struct Listener {
    from: BufReader<File>,
    limit: Duration,
    /// The last call that was told of.
    last: String,
    returned: bool,
}

impl Listener {
    fn new(from: OwnedFd, limit: Duration) -> Self {
        Self { from: BufReader::new(from.into()), limit, last: "its begin".to_owned(), returned: true }
    }

    /// Waits for the next rule to be done.
    fn rule(&mut self) -> Heard {
        loop {
            match self.line() {
                Ok(Told::Calls(name)) => (self.last, self.returned) = (name, false),
                Ok(Told::Returned) => self.returned = true,
                Ok(Told::Rule { verdict: Verdict::Pass, words }) => return Heard::Outcome(Ok(words)),
                Ok(Told::Rule { verdict: Verdict::Fail, words }) => return Heard::Outcome(Err(Ended::Failed(words))),
                Ok(Told::Rule { verdict: Verdict::Skip, words }) => return Heard::Outcome(Err(Ended::Skipped(words))),
                Ok(Told::Refused(errno)) => return Heard::Refused(Errno::from_raw(errno)),
                Err(silence) => return Heard::Nothing(self.words(&silence)),
            }
        }
    }

    fn words(&self, silence: &Silence) -> String {
        let (last, limit) = (&self.last, self.limit);
        match (silence, self.returned) {
            (Silence::Late, false) => format!("{last} did not return within {limit:?}"),
            (Silence::Late, true) => format!("the examination stands still after {last}"),
            (Silence::Ended, false) => format!("the examination broke off in {last}"),
            (Silence::Ended, true) => format!("the examination broke off after {last}"),
        }
    }

    fn line(&mut self) -> Result<Told, Silence> {
        if self.from.buffer().is_empty() {
            let mut fds = [PollFd::new(self.from.get_ref().as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(self.limit).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, timeout) == Ok(0) {
                return Err(Silence::Late);
            }
        }
        let mut line = String::new();
        let read = self.from.read_line(&mut line).ok().filter(|read| *read > 0);
        read.and_then(|_| serde_json::from_str(&line).ok()).ok_or(Silence::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_heard_and_a_call_without_an_end_is_named() {
        let (from, to) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let telling = Telling { to: to.into() };
        let mut listener = Listener::new(from, Duration::from_millis(20));
        telling.around("open".to_owned(), || ());
        let skipped = |words: &str| Heard::Outcome(Err(Ended::Skipped(words.to_owned())));
        telling.tell(&Told::Rule { verdict: Verdict::Skip, words: "nothing there".to_owned() });
        assert_eq!(listener.rule(), skipped("nothing there"));
        assert_eq!(listener.rule(), Heard::Nothing("the examination stands still after open".to_owned()));
        telling.tell(&Told::Calls("VHOST_SET_OWNER".to_owned()));
        assert_eq!(listener.rule(), Heard::Nothing("VHOST_SET_OWNER did not return within 20ms".to_owned()));
        drop(telling);
        assert_eq!(listener.rule(), Heard::Nothing("the examination broke off in VHOST_SET_OWNER".to_owned()));
    }

    #[test]
    fn calls_are_called_by_their_names() {
        assert_eq!(call_name(vhost_abi::command::VHOST_VDPA_SUSPEND), "VHOST_VDPA_SUSPEND");
        assert_eq!(call_name(0xaf6f), "ioctl 0xaf6f");
    }
}
