//! A small server of the fd socket: real SOCK_SEQPACKET, real descriptors.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::{self, JoinHandle};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept, bind, listen, recv, sendmsg, socket_with,
};
use serde_json::Value;

/// What to answer one request with.
pub struct Reply {
    pub packet: String,
    pub fds: Vec<OwnedFd>,
}

impl Reply {
    pub fn new(packet: impl Into<String>) -> Self {
        Self { packet: packet.into(), fds: Vec::new() }
    }

    pub fn with(fd: impl Into<OwnedFd>) -> Self {
        Self { packet: r#"{"ok":true}"#.into(), fds: vec![fd.into()] }
    }

    pub fn hello() -> Self {
        Self::new(format!(r#"{{"ok":true,"version":"{}","pid":4711}}"#, env!("CARGO_PKG_VERSION")))
    }
}

/// Serves as many connections as there are replies, one request each; gives the requests back and closes the socket.
pub fn serve(root: &Path, replies: Vec<Reply>) -> JoinHandle<Vec<Value>> {
    let listener = listen_at(root);
    thread::spawn(move || replies.into_iter().map(|reply| answer(&listener, reply)).collect())
}

/// The socket, which answers nothing by itself.
pub fn listen_at(root: &Path) -> OwnedFd {
    let listener =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
    bind(&listener, &SocketAddrUnix::new(root.join("fd.sock")).expect("an address")).expect("bind");
    listen(&listener, 8).expect("listen");
    listener
}

fn answer(listener: &OwnedFd, reply: Reply) -> Value {
    let connection = accept(listener).expect("accept");
    let mut buffer = [0; 4096];
    let (length, _) = recv(&connection, &mut buffer, RecvFlags::empty()).expect("a request");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = reply.fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let packet = [IoSlice::new(reply.packet.as_bytes())];
    sendmsg(&connection, &packet, &mut control, SendFlags::NOSIGNAL).expect("answer");
    serde_json::from_slice(&buffer[..length]).expect("a request in JSON")
}
