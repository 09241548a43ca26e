//! The daemon's event stream, read for one thing: the request to let go of the instance, which precedes its removal.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde_json::Value;
use tracing::warn;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Longer lines are no events of this daemon.
const MAX_LINE: usize = 1 << 16;

/// The stream, or nothing where it cannot be had: then a removal is noticed when it has happened.
#[derive(Debug, Default)]
pub struct Events {
    pipe: Option<File>,
    uuid: String,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
}

impl Events {
    /// Asks the daemon at `root` for its events and reads those of the instance `uuid`.
    pub fn watch(root: &Path, uuid: &str) -> Self {
        match subscribe(&root.join("fd.sock")) {
            Ok(pipe) => Self::from_pipe(pipe, uuid),
            Err(e) => {
                warn!("no event stream ({e}): a request to let go of the instance will not be heard");
                Self::default()
            }
        }
    }

    /// Reads the events of the instance `uuid` from `pipe`, one JSON object a line.
    pub fn from_pipe(pipe: impl Into<File>, uuid: &str) -> Self {
        Self { pipe: Some(pipe.into()), uuid: uuid.to_lowercase(), line: Vec::new() }
    }

    /// Whether the holder of the instance is asked to let go; waits for it up to `patience`.
    pub fn removal_requested(&mut self, patience: Duration) -> bool {
        let Some(pipe) = &mut self.pipe else {
            thread::sleep(patience);
            return false;
        };
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) == Ok(0) {
            return false;
        }
        let mut bytes = [0; 4096];
        match pipe.read(&mut bytes) {
            Ok(0) | Err(_) => {
                self.pipe = None;
                false
            }
            Ok(len) => self.take(&bytes[..len]),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        self.line.extend_from_slice(bytes);
        let mut requested = false;
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap_or_default();
            requested |= event["event"] == "remove_request" && event["uuid"] == *self.uuid;
        }
        if self.line.len() > MAX_LINE {
            self.line.clear();
        }
        requested
    }
}

fn subscribe(path: &Path) -> io::Result<File> {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // packets of this socket are sent and received as datagrams are
    ask(&UnixDatagram::from(socket))
}

/// Asks for the stream of events on a connection to the daemon.
fn ask(daemon: &UnixDatagram) -> io::Result<File> {
    daemon.set_read_timeout(Some(Duration::from_secs(5)))?;
    daemon.send(br#"{"op":"watch"}"#)?;
    let mut answer = [0; 4096];
    let (len, pipe) = daemon.recv_with_fd(&mut answer)?;
    pipe.ok_or_else(|| io::Error::other(format!("the daemon answers {}", String::from_utf8_lossy(&answer[..len]))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::socketpair;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    const UUID: &str = "0f1a8c5e-7d9b-4a60-9c0e-3f2b1d4c5a69";
    const SOON: Duration = Duration::from_millis(1);

    fn events() -> (Events, io::PipeWriter) {
        let (read, write) = io::pipe().unwrap();
        (Events::from_pipe(OwnedFd::from(read), &UUID.to_uppercase()), write)
    }

    #[test]
    fn only_the_request_for_this_instance_is_heard() {
        let (mut events, mut daemon) = events();
        assert!(!events.removal_requested(SOON));
        for other in
            [r#"{"event":"open","uuid":"0f1a8c5e-7d9b-4a60-9c0e-3f2b1d4c5a69"}"#, r#"{"event":"lost","count":3}"#, "x"]
        {
            writeln!(daemon, "{other}").unwrap();
        }
        writeln!(daemon, r#"{{"event":"remove_request","uuid":"00000000-0000-0000-0000-000000000001"}}"#).unwrap();
        assert!(!events.removal_requested(SOON));
        writeln!(daemon, r#"{{"event":"remove_request","time":1.5,"uuid":"{UUID}"}}"#).unwrap();
        assert!(events.removal_requested(SOON));
    }

    fn asked_with(answer: &str, pipe: Option<OwnedFd>) -> io::Result<File> {
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let (ours, daemon) = (UnixDatagram::from(pair.0), UnixDatagram::from(pair.1));
        let fds: Vec<_> = pipe.iter().map(|fd| fd.as_raw_fd()).collect();
        daemon.send_with_fds(&[answer.as_bytes()], &fds).unwrap();
        let stream = ask(&ours);
        let mut request = [0; 64];
        let len = daemon.recv(&mut request).unwrap();
        assert_eq!(&request[..len], br#"{"op":"watch"}"#);
        stream
    }

    #[test]
    fn the_stream_is_what_the_daemon_answers_watch_with() {
        let (read, mut write) = io::pipe().unwrap();
        let mut stream = asked_with(r#"{"ok":true}"#, Some(read.into())).unwrap();
        write.write_all(b"event").unwrap();
        let mut found = [0; 5];
        stream.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"event");
    }

    #[test]
    fn a_refusal_is_told_in_the_daemons_words() {
        let refused = asked_with(r#"{"ok":false,"errno":1,"error":"not yours"}"#, None).unwrap_err();
        assert!(refused.to_string().contains("not yours"), "{refused}");
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        let (mut events, mut daemon) = events();
        let line = format!(r#"{{"event":"remove_request","uuid":"{UUID}"}}"#) + "\n";
        daemon.write_all(&line.as_bytes()[..20]).unwrap();
        assert!(!events.removal_requested(SOON));
        daemon.write_all(&line.as_bytes()[20..]).unwrap();
        assert!(events.removal_requested(SOON));
    }

    #[test]
    fn the_end_of_the_stream_is_no_request_and_no_busy_loop() {
        let (mut events, daemon) = events();
        drop(daemon);
        assert!(!events.removal_requested(SOON));
        let start = Instant::now();
        assert!(!events.removal_requested(Duration::from_millis(50)));
        assert!(start.elapsed() >= Duration::from_millis(50));
    }
}
