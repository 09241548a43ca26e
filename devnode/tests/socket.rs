//! The fd socket lies in the tree, and no peer can harm it.
#![allow(missing_docs, unsafe_code)]
// UNSAFETY: received descriptors come as plain numbers.

mod common;

use common::client::{self, Client};
use common::{Mounted, eventually};
use devnode::{FdSocket, Peer, SocketReply, SocketService};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg,
    sendmsg, socket,
};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use virtio_mdev_api::Refusal;

struct Service;

impl SocketService for Service {
    fn call(&self, peer: &Peer, op: &str, args: &Value) -> Result<SocketReply, Refusal> {
        let mut reply = SocketReply::default();
        match op {
            "hello" => {
                reply.json.insert("uid".into(), peer.uid.into());
                reply.json.insert("pid".into(), peer.pid.into());
                reply.json.insert("word".into(), args["word"].clone());
            }
            "pipe" => {
                let (reader, writer) = nix::unistd::pipe().unwrap();
                File::from(writer).write_all(b"through").unwrap();
                reply.fds.push(reader);
            }
            "panic" => panic!("on purpose"),
            _ => return Err(Refusal::new(Errno::EOPNOTSUPP, format!("unknown operation {op:?}"))),
        }
        Ok(reply)
    }
}

fn served() -> (Mounted, FdSocket, PathBuf) {
    let mounted = Mounted::new();
    let path = mounted.path("fd.sock");
    let socket = FdSocket::serve(mounted.server(), &path, 0o666, Arc::new(Service)).unwrap();
    (mounted, socket, path)
}

fn dial(path: &Path) -> Result<OwnedFd, Errno> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

fn say(socket: &OwnedFd, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None).unwrap();
}

fn hear(socket: &OwnedFd) -> (Value, Vec<OwnedFd>) {
    let mut buffer = vec![0; 65536];
    let mut space = nix::cmsg_space!([RawFd; 32]);
    let mut iov = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty()).unwrap();
    let len = message.bytes;
    let mut fds = Vec::new();
    for control in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            fds.extend(numbers.into_iter().map(take));
        }
    }
    (serde_json::from_slice(&buffer[..len]).unwrap_or(Value::Null), fds)
}

fn take(fd: RawFd) -> OwnedFd {
    // SAFETY: just received, nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn ask(socket: &OwnedFd, request: &Value) -> (Value, Vec<OwnedFd>) {
    say(socket, request.to_string().as_bytes(), &[]);
    hear(socket)
}

#[test]
fn a_client_gets_answers_and_descriptors() {
    let (_mounted, _socket, path) = served();
    Client::run(move || {
        client::become_user(65534);
        let socket = dial(&path).unwrap();
        let (answer, _) = ask(&socket, &json!({"op": "hello", "word": [1, 2]}));
        let pid = std::process::id();
        assert_eq!(answer, json!({"ok": true, "uid": 65534, "pid": pid, "word": [1, 2]}));
        let (answer, mut fds) = ask(&socket, &json!({"op": "pipe"}));
        assert_eq!(answer, json!({"ok": true}));
        let mut text = String::new();
        File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    });
}

#[test]
fn a_bind_mount_of_the_tree_reaches_the_socket() {
    let (mounted, _socket, _) = served();
    let other = tempfile::tempdir().unwrap();
    nix::mount::mount(Some(mounted.root()), other.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let answer = dial(&other.path().join("fd.sock")).map(|socket| ask(&socket, &json!({"op": "hello"})).0);
    nix::mount::umount2(other.path(), MntFlags::MNT_DETACH).unwrap();
    assert_eq!(answer.unwrap()["ok"], true);
}

#[test]
fn permission_bits_of_the_socket_hold() {
    let (mounted, _socket, path) = served();
    mounted.tree.set_mode(mounted.tree.find("fd.sock").unwrap(), 0o600);
    Client::run(move || {
        client::become_user(65534);
        assert_eq!(dial(&path).unwrap_err(), Errno::EACCES);
    });
}

#[test]
fn f43_requests_that_are_none_get_an_error_and_the_next_is_served() {
    let (_mounted, _socket, path) = served();
    let socket = dial(&path).unwrap();
    for request in [&b"{\"op\": \"hel"[..], b"x", b"[]", b"{}", b"{\"op\": 7}", b"\xff\xfe", &[b'['; 60_000]] {
        say(&socket, request, &[]);
        let (answer, _) = hear(&socket);
        assert_eq!((&answer["ok"], &answer["errno"]), (&json!(false), &json!(Errno::EINVAL as i32)), "{answer}");
    }
    let (answer, _) = ask(&socket, &json!({"op": "fly"}));
    assert_eq!((&answer["errno"], &answer["error"]), (&json!(95), &json!("unknown operation \"fly\"")));
    assert_eq!(ask(&socket, &json!({"op": "panic"})).0["errno"], Errno::EIO as i32);
    say(&socket, &[b' '; 70_000], &[]);
    assert_eq!(hear(&socket).0["errno"], Errno::EMSGSIZE as i32);
    assert_eq!(ask(&socket, &json!({"op": "hello"})).0["ok"], true);
}

#[test]
fn f43_descriptors_in_a_request_are_not_taken() {
    let (_mounted, socket, path) = served();
    let client = dial(&path).unwrap();
    ask(&client, &json!({"op": "hello"}));
    let (reader, writer) = nix::unistd::pipe().unwrap();
    for count in [1, 32, 33, 253] {
        say(&client, br#"{"op":"hello"}"#, &vec![writer.as_raw_fd(); count]);
        assert_eq!(hear(&client).0["errno"], Errno::EINVAL as i32);
    }
    drop(writer);
    // The pipe ends when nobody holds its other side.
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, 5000u16), Ok(1));
    assert_eq!(fds[0].revents(), Some(PollFlags::POLLHUP));
    drop(client);
    eventually("the client is forgotten", || socket.clients() == 0);
}

#[test]
fn f43_clients_that_stall_do_not_keep_others_out() {
    let (_mounted, socket, path) = served();
    let word = client::Word::new();
    let ready = client::Word::new();
    let stalling = path.clone();
    let ready_child = &ready;
    let hog = Client::spawn(|| {
        client::become_user(65534);
        let held: Vec<_> = (0..200).filter_map(|_| dial(&stalling).ok()).collect();
        // Requests whose answers nobody takes.
        for socket in &held {
            for _ in 0..300 {
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                let _ = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"{}")], &[], flags, None);
            }
        }
        ready_child.set(1);
        word.wait_for(1);
    });
    ready.wait_for(1);
    assert!(socket.clients() <= 16, "{} clients of one user", socket.clients());
    let root = dial(&path).unwrap();
    assert_eq!(ask(&root, &json!({"op": "hello"})).0["ok"], true);
    drop((root, hog));
    eventually("all clients are forgotten", || socket.clients() == 0);
}

#[test]
fn a_socket_that_ends_leaves_the_tree() {
    let (mounted, socket, path) = served();
    let client = dial(&path).unwrap();
    ask(&client, &json!({"op": "hello"}));
    drop(socket);
    assert!(mounted.tree.find("fd.sock").is_none());
    assert_eq!(dial(&path).unwrap_err(), Errno::ENOENT);
    assert_eq!(hear(&client).0, Value::Null);
    // And can be made again.
    let _again = FdSocket::serve(mounted.server(), &path, 0o666, Arc::new(Service)).unwrap();
    assert_eq!(ask(&dial(&path).unwrap(), &json!({"op": "hello"})).0["ok"], true);
}
