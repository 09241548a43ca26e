//! A client of the fd socket: one JSON packet there, one back, descriptors beside it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use serde::Deserialize;
use serde_json::Value;

use crate::Error;

/// Longer than a healthy daemon ever takes to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// No answer is longer.
const MAX_ANSWER: usize = 64 * 1024;

/// A connection to the daemon of a root.
pub(crate) struct FdSocket {
    path: PathBuf,
    fd: OwnedFd,
}

/// An answer that says ok.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The whole object.
    pub(crate) body: Value,
    /// What came beside it.
    pub(crate) fds: Vec<OwnedFd>,
}

/// What the daemon says about itself.
#[derive(Debug, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: String,
    pub(crate) pid: u32,
}

impl FdSocket {
    /// Connects to `fd.sock` below the root.
    ///
    /// # Errors
    /// [`Error::NoDaemon`] when nobody serves it.
    pub(crate) fn connect(root: &Path) -> Result<Self, Error> {
        let path = root.join("fd.sock");
        Self::try_connect(&path).map(|fd| Self { path: path.clone(), fd }).map_err(|errno| {
            let errno = Errno::from_raw(errno.raw_os_error());
            match errno {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED | Errno::ENOTCONN => {
                    Error::NoDaemon { socket: path, errno }
                }
                errno => Error::Socket { socket: path, errno },
            }
        })
    }

    fn try_connect(path: &Path) -> rustix::io::Result<OwnedFd> {
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // A daemon that hangs is an error in words too.
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&fd, Timeout::Send, Some(PATIENCE))?;
        connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(fd)
    }

    /// Asks for one thing. `action` is what a refusal is said to have prevented.
    ///
    /// # Errors
    /// [`Error::Refused`] with the daemon's words; [`Error::Protocol`] when it does not answer as agreed.
    pub(crate) fn ask(&self, request: &Value, action: &str) -> Result<Answer, Error> {
        let packet = request.to_string();
        sendmsg(&self.fd, &[IoSlice::new(packet.as_bytes())], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
            .map_err(|errno| self.failed(errno))?;
        let (body, fds) = self.receive()?;
        match body.get("ok").and_then(Value::as_bool) {
            Some(true) => Ok(Answer { body, fds }),
            Some(false) => Err(Error::Refused {
                action: action.to_owned(),
                errno: body
                    .get("errno")
                    .and_then(Value::as_i64)
                    .and_then(|errno| i32::try_from(errno).ok())
                    .map_or(Errno::EIO, Errno::from_raw),
                reason: body.get("error").and_then(Value::as_str).map(str::to_owned),
            }),
            None => Err(self.broken("answered without saying whether it is ok")),
        }
    }

    /// Version and process of the daemon.
    pub(crate) fn hello(&self) -> Result<Hello, Error> {
        let answer = self.ask(&serde_json::json!({ "op": "hello" }), "greet the daemon")?;
        serde_json::from_value(answer.body).map_err(|error| self.broken(&format!("answered hello badly: {error}")))
    }

    /// An error that says what the daemon did instead of what was agreed.
    pub(crate) fn broken(&self, what: &str) -> Error {
        Error::Protocol { socket: self.path.clone(), what: what.to_owned() }
    }

    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn receive(&self) -> Result<(Value, Vec<OwnedFd>), Error> {
        let mut buffer = vec![0; MAX_ANSWER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.fd, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|errno| self.failed(errno))?;
        // Taken first, so that they are closed whatever is wrong with the rest.
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(self.broken("closed the connection without an answer"));
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(self.broken("sent an answer that is too long"));
        }
        let body = buffer.get(..received.bytes).unwrap_or_default();
        let body =
            serde_json::from_slice(body).map_err(|error| self.broken(&format!("did not answer JSON: {error}")))?;
        Ok((body, fds))
    }

    fn failed(&self, errno: rustix::io::Errno) -> Error {
        match Errno::from_raw(errno.raw_os_error()) {
            Errno::EAGAIN => self.broken(&format!("does not answer ({} s)", PATIENCE.as_secs())),
            errno => Error::Socket { socket: self.path.clone(), errno },
        }
    }
}
