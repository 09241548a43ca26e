//! One client of the fd socket.

use super::{Peer, SocketReply, SocketService};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg};
use serde_json::{Value, json};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use virtio_mdev_api::Refusal;

/// The longest request.
const MAX_REQUEST: usize = 64 * 1024;

/// Descriptors of one answer.
const MAX_FDS: usize = 32;

/// Serves requests, one packet each, until the client leaves or is let go.
pub(super) fn serve(socket: &OwnedFd, peer: &Peer, service: &dyn SocketService) {
    let mut buffer = vec![0; MAX_REQUEST];
    loop {
        let answer = match receive(socket, &mut buffer) {
            Ok(Some(request)) => answer(peer, service, request),
            Ok(None) => return,
            Err(refusal) => Err(refusal),
        };
        if send(socket, answer).is_err() {
            return;
        }
    }
}

/// One packet. None: the client left, or was silent for too long.
///
/// There is no room for descriptors, so the kernel keeps those that a client sends.
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Refusal> {
    let (len, flags) = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut [IoSliceMut::new(buffer)], None, MsgFlags::MSG_CMSG_CLOEXEC) {
            Ok(message) => break (message.bytes, message.flags),
            Err(Errno::EINTR) => {}
            Err(_) => return Ok(None),
        }
    };
    if flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(Refusal::new(Errno::EMSGSIZE, format!("a request has at most {MAX_REQUEST} bytes")));
    }
    if flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(Refusal::new(Errno::EINVAL, "a request carries no descriptors"));
    }
    Ok((len != 0).then(|| &buffer[..len]))
}

fn answer(peer: &Peer, service: &dyn SocketService, request: &[u8]) -> Result<SocketReply, Refusal> {
    let args: Value = serde_json::from_slice(request)
        .map_err(|error| Refusal::new(Errno::EINVAL, format!("a request is one JSON object: {error}")))?;
    let op = args.get("op").and_then(Value::as_str).ok_or_else(|| Refusal::new(Errno::EINVAL, "\"op\" is missing"))?;
    let reply = catch_unwind(AssertUnwindSafe(|| service.call(peer, op, &args)));
    reply.unwrap_or_else(|_| Err(Refusal::new(Errno::EIO, "the daemon failed to serve this request")))
}

fn send(socket: &OwnedFd, answer: Result<SocketReply, Refusal>) -> Result<(), Errno> {
    let (json, fds) = match answer {
        Ok(reply) if reply.fds.len() > MAX_FDS => (refused(Errno::E2BIG, "too many descriptors to send"), Vec::new()),
        Ok(SocketReply { mut json, fds }) => {
            json.insert("ok".into(), Value::Bool(true));
            (Value::Object(json), fds)
        }
        Err(refusal) => (refused(refusal.errno(), refusal.reason()), Vec::new()),
    };
    let bytes = json.to_string();
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes.as_bytes())], control, MsgFlags::MSG_NOSIGNAL, None)
        .map(drop)
}

fn refused(errno: Errno, reason: &str) -> Value {
    json!({"ok": false, "errno": errno as i32, "error": reason})
}
