//! `umdev watch` and `umdev trace`: the lines of a pipe that the daemon hands out.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use uuid::Uuid;

use crate::error::errno_of;
use crate::output::Output;
use crate::socket::FdSocket;
use crate::{Error, render};

/// No line is longer.
const MAX_LINE: usize = 1 << 20;

/// Prints the events of the bus until the reader or the daemon goes.
pub(crate) fn watch(root: &Path, output: &mut Output) -> Result<(), Error> {
    follow(root, &json!({ "op": "watch" }), "watch the bus", render::event, output)
}

/// Prints the ioctls of an instance until the reader, the instance or the daemon goes.
pub(crate) fn trace(root: &Path, uuid: Uuid, output: &mut Output) -> Result<(), Error> {
    follow(root, &json!({ "op": "trace", "uuid": uuid }), &format!("trace {uuid}"), render::ioctl, output)
}

fn follow(
    root: &Path,
    request: &serde_json::Value,
    action: &str,
    render: fn(&str) -> String,
    output: &mut Output,
) -> Result<(), Error> {
    let socket = FdSocket::connect(root)?;
    let pipe = socket.ask(request, action)?.fds.into_iter().next();
    let pipe = File::from(pipe.ok_or_else(|| socket.broken("sent no stream"))?);
    let mut lines = Lines::default();
    while let Some(chunk) = next_chunk(&pipe, &socket)? {
        for line in lines.push(&chunk).ok_or_else(|| socket.broken("sent a line without an end"))? {
            output.line(&if output.json { line } else { render(&line) })?;
        }
    }
    // The end of a stream is the end of its daemon, or of the instance alone. The daemon can be asked.
    match FdSocket::connect(root).and_then(|socket| socket.hello()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::DaemonGone { socket: socket.path().to_owned() }),
    }
}

/// What the pipe has next; none at its end. Fails with a broken pipe as soon as nobody reads standard output any more, not only at the next line: on a quiet
/// bus `umdev watch | head -1` would stay for good.
fn next_chunk(pipe: &File, socket: &FdSocket) -> Result<Option<Vec<u8>>, Error> {
    let failed = |errno| Error::Socket { socket: socket.path().to_owned(), errno };
    let stdout = io::stdout();
    loop {
        let mut polled =
            [PollFd::new(pipe.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())];
        match poll(&mut polled, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(failed(errno)),
            Ok(_) => {}
        }
        if polled[1].any() == Some(true) {
            return Err(Error::Output(io::ErrorKind::BrokenPipe.into()));
        }
        let mut chunk = vec![0; 64 * 1024];
        match (&*pipe).read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(length) => {
                chunk.truncate(length);
                return Ok(Some(chunk));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(failed(errno_of(&error))),
        }
    }
}

/// Puts the chunks of a pipe together to lines.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// The lines that the chunk completes; none when the line it leaves open is longer than any line may be.
    fn push(&mut self, chunk: &[u8]) -> Option<Vec<String>> {
        self.pending.extend_from_slice(chunk);
        let complete = self.pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = self.pending.split_off(complete);
        let done = std::mem::replace(&mut self.pending, rest);
        let lines = String::from_utf8_lossy(&done).lines().map(str::to_owned).collect();
        (self.pending.len() <= MAX_LINE).then_some(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, MAX_LINE};

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"{\"a\""), Some(vec![]));
        assert_eq!(lines.push(b":1}\n{}\n{\"b"), Some(vec!["{\"a\":1}".into(), "{}".into()]));
        assert_eq!(lines.push(b"\":2}\n"), Some(vec!["{\"b\":2}".into()]));
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(&vec![b'x'; MAX_LINE]), Some(vec![]));
        assert_eq!(lines.push(b"x"), None);
    }
}
