//! Lines for any number of readers, none of which can slow the writer.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag};
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room for events while a reader is busy; what the kernel grants may be less.
const PIPE_SIZE: i32 = 256 * 1024;

/// More readers than this are refused with EMFILE.
const MAX_SUBSCRIBERS: usize = 64;
/// Of which one user other than the superuser may be so many.
const MAX_PER_USER: usize = 16;
const ROOT: u32 = 0;

/// Publishes lines to subscribers, each behind a pipe of its own.
///
/// A reader that does not keep up loses lines; the next line it gets says how many: `{"event":"lost","count":N}`.
#[derive(Debug, Default)]
pub struct Broadcast {
    count: AtomicUsize,
    subscribers: Mutex<Vec<Subscriber>>,
}

#[derive(Debug)]
struct Subscriber {
    uid: u32,
    pipe: OwnedFd,
    /// The rest of a line of which the pipe took only a part.
    unsent: Vec<u8>,
    lost: u64,
}

impl Broadcast {
    /// A broadcast without subscribers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether anybody listens: one atomic load. Ask before building a costly line.
    pub fn is_heard(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// A new subscriber of user `uid`: the read end of a pipe that gets every line published from now on. Reads on it block until a
    /// line comes, and end when the broadcast is dropped. EMFILE when the user has its share of pipes.
    pub fn subscribe(&self, uid: u32) -> io::Result<OwnedFd> {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(Subscriber::is_alive);
        if !has_room(&subscribers, uid) {
            self.count.store(subscribers.len(), Ordering::Relaxed);
            return Err(Errno::EMFILE.into());
        }
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        // Only the writer must never block; a reader that wants to wait may.
        nix::fcntl::fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // A smaller pipe is no failure, it only loses lines earlier.
        let _ = nix::fcntl::fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        subscribers.push(Subscriber { uid, pipe: writer, unsent: Vec::new(), lost: 0 });
        self.count.store(subscribers.len(), Ordering::Relaxed);
        Ok(reader)
    }

    /// Sends `line` (without its newline) to everybody who listens. Never blocks.
    pub fn publish(&self, line: &str) {
        if !self.is_heard() {
            return;
        }
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        let mut subscribers = self.subscribers.lock();
        subscribers.retain_mut(|subscriber| subscriber.send(&bytes).is_ok());
        self.count.store(subscribers.len(), Ordering::Relaxed);
    }

    /// How many subscribers there are.
    pub fn subscribers(&self) -> usize {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(Subscriber::is_alive);
        self.count.store(subscribers.len(), Ordering::Relaxed);
        subscribers.len()
    }
}

/// The reader is gone.
/// Whether user `uid` may have one more. What others hold takes nothing from the superuser.
fn has_room(subscribers: &[Subscriber], uid: u32) -> bool {
    let count = |of: &dyn Fn(u32) -> bool| subscribers.iter().filter(|subscriber| of(subscriber.uid)).count();
    if uid == ROOT {
        return count(&|other| other == ROOT) < MAX_SUBSCRIBERS;
    }
    count(&|other| other != ROOT) < MAX_SUBSCRIBERS && count(&|other| other == uid) < MAX_PER_USER
}

struct Gone;

impl Subscriber {
    fn is_alive(&self) -> bool {
        let mut poll = [nix::poll::PollFd::new(self.pipe.as_fd(), nix::poll::PollFlags::empty())];
        let polled = nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO);
        !(polled.is_ok() && poll[0].revents().is_some_and(|r| r.contains(nix::poll::PollFlags::POLLERR)))
    }

    fn send(&mut self, line: &[u8]) -> Result<(), Gone> {
        let rest = std::mem::take(&mut self.unsent);
        if !self.offer(&rest)? {
            self.lost += 1;
            return Ok(());
        }
        if self.lost != 0 {
            let notice = format!("{{\"event\":\"lost\",\"count\":{}}}\n", self.lost);
            if !self.offer_fresh(notice.as_bytes())? {
                self.lost += 1;
                return Ok(());
            }
            self.lost = 0;
        }
        if !self.unsent.is_empty() || !self.offer_fresh(line)? {
            self.lost += 1;
        }
        Ok(())
    }

    /// Offers the rest of a line that was begun: whether the pipe took all of it.
    fn offer(&mut self, rest: &[u8]) -> Result<bool, Gone> {
        if rest.is_empty() {
            return Ok(true);
        }
        let taken = self.write(rest)?;
        self.unsent = rest[taken..].to_vec();
        Ok(self.unsent.is_empty())
    }

    /// Offers a line: false when the pipe took nothing of it. Of a line above PIPE_BUF it may take a part; the rest
    /// goes before anything else.
    fn offer_fresh(&mut self, line: &[u8]) -> Result<bool, Gone> {
        let taken = self.write(line)?;
        if taken != 0 {
            self.unsent = line[taken..].to_vec();
        }
        Ok(taken != 0)
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Gone> {
        match nix::unistd::write(&self.pipe, bytes) {
            Ok(n) => Ok(n),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(_) => Err(Gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{BufRead, BufReader};

    #[test]
    fn every_subscriber_gets_every_line() {
        let broadcast = Broadcast::new();
        broadcast.publish("nobody hears this");
        let readers = [broadcast.subscribe(ROOT).unwrap(), broadcast.subscribe(ROOT).unwrap()];
        broadcast.publish("one");
        broadcast.publish("two");
        drop(broadcast);
        for reader in readers {
            let lines: Vec<String> = BufReader::new(File::from(reader)).lines().map(Result::unwrap).collect();
            assert_eq!(lines, ["one", "two"]);
        }
    }

    #[test]
    fn a_slow_reader_loses_lines_and_is_told_how_many() {
        let broadcast = Broadcast::new();
        let mut reader = BufReader::new(File::from(broadcast.subscribe(ROOT).unwrap()));
        let total: u64 = 20_000;
        for n in 0..total {
            broadcast.publish(&format!("{n:0100}"));
        }
        let mut line = String::new();
        let mut seen = 0;
        // Make room, then publish once more: the notice comes before that line.
        for _ in 0..100 {
            line.clear();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line.trim().parse::<u64>().unwrap(), seen);
            seen += 1;
        }
        broadcast.publish("after");
        drop(broadcast);
        let rest: Vec<String> = reader.lines().map(Result::unwrap).collect();
        assert_eq!(rest.last().unwrap(), "after");
        let kept = u64::try_from(rest.len()).unwrap() - 2;
        let lost = total - seen - kept;
        assert!(lost > 0);
        assert_eq!(rest[rest.len() - 2], format!("{{\"event\":\"lost\",\"count\":{lost}}}"));
    }

    #[test]
    fn a_line_longer_than_the_pipe_arrives_whole_or_not_at_all() {
        let broadcast = Broadcast::new();
        let reader = broadcast.subscribe(ROOT).unwrap();
        let long = "x".repeat(600 * 1024);
        broadcast.publish(&long);
        let drain = std::thread::spawn(move || {
            BufReader::new(File::from(reader)).lines().map(|l| l.unwrap().len()).collect::<Vec<_>>()
        });
        for _ in 0..50 {
            broadcast.publish("short");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        drop(broadcast);
        let lengths = drain.join().unwrap();
        assert!(lengths.iter().all(|n| [long.len(), 5].contains(n) || *n < 40), "{lengths:?}");
        assert_eq!(lengths[0], long.len());
    }

    #[test]
    fn a_reader_that_left_is_forgotten() {
        let broadcast = Broadcast::new();
        drop(broadcast.subscribe(ROOT).unwrap());
        assert_eq!(broadcast.subscribers(), 0);
        assert!(!broadcast.is_heard());
        for _ in 0..200 {
            drop(broadcast.subscribe(ROOT).unwrap());
        }
    }

    #[test]
    fn f43_a_user_with_many_pipes_leaves_others_theirs() {
        let broadcast = Broadcast::new();
        let all = |uid| (0..200).map_while(|_| broadcast.subscribe(uid).ok()).collect::<Vec<_>>();
        let one = all(7);
        assert_eq!(one.len(), MAX_PER_USER);
        assert!(broadcast.subscribe(8).is_ok());
        let many: Vec<_> = (8..99).flat_map(all).collect();
        assert!(one.len() + many.len() <= MAX_SUBSCRIBERS);
        assert!(broadcast.subscribe(ROOT).is_ok());
    }
}
