//! The fd socket: requests in JSON, answers with descriptors beside them.
//!
//! What an ioctl over FUSE cannot do, return a descriptor, this socket does. It lies in the tree itself, so whoever
//! reaches the files reaches it too, through a bind mount as well.
#![allow(unsafe_code)]
// UNSAFETY: an accepted socket comes as a plain number.

mod client;

use crate::server::Server;
use crate::tree::{NodeId, Tree};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{PeerCredentials, ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen, setsockopt,
    shutdown, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_mdev_api::Refusal;

/// Clients at a time.
const MAX_CLIENTS: usize = 128;

/// Of these, clients of one user other than the superuser.
const MAX_CLIENTS_PER_USER: usize = 16;

/// A client that says nothing for so long is let go.
const IDLE_SECONDS: i64 = 300;

/// A client that does not take its answer for so long is let go.
const SEND_SECONDS: i64 = 5;

/// Who is at the other end, as it was when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id; a number only, the process may be gone.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What a request is answered with.
#[derive(Debug, Default)]
pub struct SocketReply {
    /// The fields of the answer beside `"ok": true`.
    pub json: Map<String, Value>,
    /// Descriptors that go with it; at most 32.
    pub fds: Vec<OwnedFd>,
}

/// Serves the requests of the fd socket. Runs on the thread of the client that asks, and may block.
pub trait SocketService: Send + Sync {
    /// Serves request `op`; `args` is the whole request object.
    fn call(&self, peer: &Peer, op: &str, args: &Value) -> Result<SocketReply, Refusal>;
}

/// A socket that is being served; ends when dropped.
#[derive(Debug)]
pub struct FdSocket {
    shared: Arc<Shared>,
    tree: Tree,
    node: Option<NodeId>,
}

#[derive(Debug)]
struct Shared {
    listener: OwnedFd,
    stopping: AtomicBool,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    last: u64,
    connected: HashMap<u64, (u32, Arc<OwnedFd>)>,
}

impl FdSocket {
    /// Makes a socket at `path` with permission bits `mode` and serves it. Within the mount of `server` its inode
    /// becomes part of the tree.
    pub fn serve(server: &Server, path: &Path, mode: u16, service: Arc<dyn SocketService>) -> io::Result<Self> {
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let node = bind_in_tree(server, &listener, path, mode)?;
        listen(&listener, Backlog::new(64)?)?;
        let shared = Arc::new(Shared { listener, stopping: AtomicBool::new(false), clients: Mutex::default() });
        let accepting = shared.clone();
        std::thread::Builder::new().name("fd-socket".into()).spawn(move || accept(&accepting, &service))?;
        Ok(Self { shared, tree: server.tree().clone(), node })
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.shared.clients.lock().connected.len()
    }
}

impl Drop for FdSocket {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Wakes the thread that accepts, and those that wait for requests.
        let _ = shutdown(self.shared.listener.as_raw_fd(), Shutdown::Both);
        for (_, socket) in self.shared.clients.lock().connected.values() {
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
        if let Some(node) = self.node {
            self.tree.remove(node);
        }
    }
}

/// Binds; the node, if the path lies in the mount of `server`.
fn bind_in_tree(server: &Server, listener: &OwnedFd, path: &Path, mode: u16) -> io::Result<Option<NodeId>> {
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    let parent = path.parent().ok_or(Errno::EINVAL)?;
    // A socket's address has room for 108 bytes only; through a descriptor any path fits.
    let dir = File::open(parent)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let address = UnixAddr::new(if path.as_os_str().len() < 100 { path } else { &short })?;
    server.host().asking(|| bind(listener.as_raw_fd(), &address))?;
    let ino = std::os::unix::fs::MetadataExt::ino(&std::fs::symlink_metadata(path)?);
    let node = server.tree().get(ino).filter(|node| matches!(node.kind, crate::tree::Kind::Socket)).map(|n| n.id);
    if let Some(node) = node {
        server.tree().set_mode(node, mode);
    }
    Ok(node)
}

fn accept(shared: &Arc<Shared>, service: &Arc<dyn SocketService>) {
    while !shared.stopping.load(Ordering::Acquire) {
        match accept4(shared.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => welcome(shared, owned(fd), service),
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(Errno::EINVAL) => return,
            Err(error) => {
                tracing::warn!(%error, "no client can be accepted");
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }
}

/// Gives a client a thread, or lets it go when there are too many.
fn welcome(shared: &Arc<Shared>, socket: OwnedFd, service: &Arc<dyn SocketService>) {
    let Ok(credentials) = getsockopt(&socket, PeerCredentials) else { return };
    let peer = Peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() };
    let timeouts = setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(IDLE_SECONDS))
        .and_then(|()| setsockopt(&socket, SendTimeout, &TimeVal::seconds(SEND_SECONDS)));
    if timeouts.is_err() {
        return;
    }
    let socket = Arc::new(socket);
    let id = {
        let mut clients = shared.clients.lock();
        let of_user = clients.connected.values().filter(|(uid, _)| *uid == peer.uid).count();
        if clients.connected.len() >= MAX_CLIENTS || (peer.uid != 0 && of_user >= MAX_CLIENTS_PER_USER) {
            tracing::warn!(pid = peer.pid, uid = peer.uid, "too many clients of the fd socket");
            return;
        }
        clients.last += 1;
        let id = clients.last;
        clients.connected.insert(id, (peer.uid, socket.clone()));
        id
    };
    let (leaving, service) = (shared.clone(), service.clone());
    let spawned = std::thread::Builder::new().name("fd-client".into()).spawn(move || {
        client::serve(&socket, &peer, &*service);
        leaving.clients.lock().connected.remove(&id);
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for a client of the fd socket");
        shared.clients.lock().connected.remove(&id);
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: accept4 has just made it, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
