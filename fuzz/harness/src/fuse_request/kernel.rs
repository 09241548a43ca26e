//! The other side of `/dev/fuse`: asks a server of a small tree, and looks at every answer.

use crate::assert_errno;
use crate::world::loopback;
use devnode::{Attribute, Broadcast, Caller, Server, ServerConfig, Tree};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use vfio_container::{ContainerNode, Group};
use vhost_mdev::VhostMdev;
use vhost_net::VhostNet;
use virtio_mdev_api::{DeviceLink, Refusal, Session};

/// Bytes before a request's arguments.
pub const HEADER: usize = 40;
/// Where the number of a request is.
pub const UNIQUE: usize = 8;
/// Where the flags of the open file are in a read.
const READ_FLAGS: usize = HEADER + 32;
/// Bytes before the data of an answer.
const OUT_HEADER: usize = 16;
/// The largest answer: a read of the largest size.
const LARGEST: usize = 128 * 1024 + 4096;
/// How long a request may take, in milliseconds. A machine that fuzzes is busy.
const PATIENCE: u16 = 60_000;

const FORGET: u32 = 2;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
const STATFS: u32 = 17;
pub const READDIR: u32 = 28;
const INTERRUPT: u32 = 36;
pub const IOCTL: u32 = 39;
const POLL: u32 = 40;
const NOTIFY_REPLY: u32 = 41;
const BATCH_FORGET: u32 = 42;
/// A request that is always answered at once: what is answered before it was answered unasked.
const BARRIER: u64 = u64::MAX;
/// `FUSE_NOTIFY_POLL`, in place of an error.
const NOTIFY_POLL: i32 = 1;

#[derive(Default)]
struct Kept(Mutex<String>);

impl Attribute for Kept {
    fn show(&self) -> Result<String, Refusal> {
        Ok(self.0.lock().clone())
    }

    fn store(&self, _caller: &Caller, value: &[u8]) -> Result<(), Refusal> {
        let value = String::from_utf8(value.to_vec());
        *self.0.lock() = value.map_err(|_| Refusal::new(Errno::EINVAL, "this is not text"))?;
        Ok(())
    }
}

/// What the kernel knows.
pub struct Kernel {
    socket: OwnedFd,
    server: Option<Server>,
    session: Arc<Session>,
    opens: Arc<AtomicI32>,
    answer: Vec<u8>,
    /// Reads that may wait for their file.
    waiting: BTreeSet<u64>,
    /// Somebody polls, so that files may tell of themselves.
    polled: bool,
}

impl Kernel {
    /// A server of a new tree, and its transport.
    pub fn new() -> Self {
        let (socket, fuse) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("sockets");
        for end in [&socket, &fuse] {
            setsockopt(end, sockopt::SndBuf, &(4 * LARGEST)).expect("room for an answer");
        }
        let link = DeviceLink::new("fuzzed");
        let device = loopback(0, &link);
        let info = device.info();
        let session = Arc::new(Session::new(device, info, link, Duration::from_secs(60)));
        let group = Group::new(1 << 20, "instance".into());
        let opens = Arc::new(AtomicI32::new(0));
        let told = Arc::clone(&opens);
        let on_open = Box::new(move |open| {
            told.fetch_add(if open { 1 } else { -1 }, Ordering::SeqCst);
        });
        let vhost = VhostMdev::new(Arc::clone(&session), Arc::clone(&group), Arc::new(Broadcast::new()), on_open);
        let tree = Tree::new();
        let dir = tree.dir(tree.root(), "dir").expect("node 2");
        tree.attribute(dir, "kept", 0o644, Arc::new(Kept::default())).expect("node 3");
        tree.attribute(dir, "shown", 0o444, Arc::new(Kept::default())).expect("node 4");
        tree.link(dir, "link", "kept").expect("node 5");
        tree.device(dir, "vhost", 0o600, vhost).expect("node 6");
        tree.device(dir, "vfio", 0o666, Arc::new(ContainerNode::new())).expect("node 7");
        tree.device(dir, "group", 0o600, group).expect("node 8");
        tree.device(dir, "net", 0o600, VhostNet::new()).expect("node 9");
        let config = ServerConfig { release_wait: Duration::ZERO, ..ServerConfig::default() };
        let server = Some(Server::start(tree, fuse, config).expect("a server"));
        let (waiting, polled) = (BTreeSet::new(), false);
        Self { socket, server, session, opens, answer: vec![0; LARGEST], waiting, polled }
    }

    /// One request, and the one answer it may get.
    pub fn ask(&mut self, request: &mut [u8]) {
        self.make_unique(request);
        self.send(request);
        let Some(header) = request.first_chunk::<HEADER>() else { return self.barrier(request) };
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let unique = u64::from_le_bytes(header[UNIQUE..UNIQUE + 8].try_into().expect("8 bytes"));
        let opcode = word(4);
        self.polled |= opcode == POLL;
        let flags = request.get(READ_FLAGS..).map_or(0, word_of);
        if opcode == READ && flags & libc::O_NONBLOCK.cast_unsigned() == 0 {
            self.waiting.insert(unique);
            return self.barrier(request);
        }
        // What is no request is answered, whatever it would have been.
        let silent = matches!(opcode, FORGET | INTERRUPT | NOTIFY_REPLY | BATCH_FORGET);
        if silent && is_well_formed(request) {
            return self.barrier(request);
        }
        let (error, len) = self.receive(unique, request);
        if error != 0 {
            // ENOSYS says that an operation is not offered, which is never true of an ioctl.
            let offered = error != Errno::ENOSYS as i32 || opcode == IOCTL;
            if offered {
                assert_errno(Errno::from_raw(error), request);
            }
            assert_eq!(len, 0, "an error with data");
            return;
        }
        let size =
            |at: usize| request.get(at..at + 4).map_or(0, |size| u32::from_le_bytes(size.try_into().expect("4")));
        match opcode {
            READ | READDIR => assert!(len <= size(HEADER + 16) as usize, "more than was asked for"),
            IOCTL => {
                let most = OUT_HEADER + size(HEADER + 28) as usize;
                assert!((OUT_HEADER..=most).contains(&len), "{len} bytes answer an ioctl of {most}");
            }
            WRITE => assert!(word_of(&self.answer) <= size(HEADER + 16), "more taken than given"),
            STATFS => assert_eq!(len, 80),
            POLL => assert_eq!(len, 8),
            _ => {}
        }
    }

    /// No two requests under way have one number.
    fn make_unique(&self, request: &mut [u8]) {
        while let Some(number) = request.get_mut(UNIQUE..UNIQUE + 8).and_then(|bytes| bytes.first_chunk_mut::<8>()) {
            let unique = u64::from_le_bytes(*number);
            if !self.waiting.contains(&unique) {
                return;
            }
            *number = (unique ^ (1 << 62)).wrapping_add(2).to_le_bytes();
            number[7] &= 0x7f;
        }
    }

    /// Nothing was answered, but reads that waited.
    fn barrier(&mut self, request: &[u8]) {
        let mut barrier = vec![0; HEADER];
        barrier[0] = 40;
        barrier[4] = 17;
        barrier[8..16].copy_from_slice(&BARRIER.to_le_bytes());
        self.send(&barrier);
        let (error, len) = self.receive(BARRIER, request);
        assert_eq!((error, len), (0, 80), "{request:02x?}");
    }

    fn send(&self, request: &[u8]) {
        let sent = send(self.socket.as_raw_fd(), request, MsgFlags::empty());
        assert_eq!(sent, Ok(request.len()), "the server reads");
    }

    /// Error and length of the answer to `unique`, whose payload is in `answer` then. Reads that waited may be answered
    /// before.
    fn receive(&mut self, unique: u64, request: &[u8]) -> (i32, usize) {
        loop {
            let (answered, error, len) = self.next_answer(request);
            if answered == unique {
                return (error, len);
            }
            assert!(self.waiting.remove(&answered), "{answered} is answered, not {request:02x?}");
        }
    }

    /// The next answer that comes: to whom, error and length.
    fn next_answer(&mut self, request: &[u8]) -> (u64, i32, usize) {
        loop {
            assert_eq!(readable(self.socket.as_fd()), Ok(1), "no answer to {request:02x?}");
            let len = recv(self.socket.as_raw_fd(), &mut self.answer, MsgFlags::empty()).expect("an answer");
            assert!(len >= OUT_HEADER && word_of(&self.answer) as usize == len, "an answer of {len} bytes");
            let error = word_of(&self.answer[4..]).cast_signed();
            let answered = u64::from_le_bytes(self.answer[8..16].try_into().expect("8 bytes"));
            if error == NOTIFY_POLL {
                assert!(self.polled && answered == 0 && len == OUT_HEADER + 8, "nobody polls");
                continue;
            }
            assert!((-511..=0).contains(&error), "{error} answers {request:02x?}");
            self.answer.copy_within(OUT_HEADER..len, 0);
            return (answered, -error, len - OUT_HEADER);
        }
    }

    /// A signal ends every wait.
    fn interrupt_all(&mut self) {
        for unique in self.waiting.clone() {
            let mut interrupt = vec![0; HEADER + 8];
            interrupt[0] = 48;
            interrupt[4] = 36;
            interrupt[HEADER..].copy_from_slice(&unique.to_le_bytes());
            self.send(&interrupt);
        }
        while !self.waiting.is_empty() {
            let (answered, ..) = self.next_answer(b"a wait that was interrupted");
            assert!(self.waiting.remove(&answered), "{answered} is answered, and nobody asked");
        }
    }

    /// Ends the server, and looks what it leaves behind.
    pub fn finish(mut self) {
        self.interrupt_all();
        self.barrier(&[]);
        let stats = self.server.as_ref().map(Server::stats).unwrap_or_default();
        assert_eq!((stats.stuck, stats.queued.len(), stats.waiting), (0, 0, 0), "nobody waits");
        self.server.take();
        assert_eq!(self.opens.load(Ordering::SeqCst), 0, "the vhost file was closed");
        assert_eq!(self.session.broken(), None, "no request breaks a device");
        self.session.retire();
    }
}

/// Waits until `fd` can be read: 1, or 0 when it cannot in time. The fuzzer's clock is a signal.
pub fn readable(fd: BorrowedFd<'_>) -> nix::Result<i32> {
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(PATIENCE)) {
            Err(Errno::EINTR) => {}
            ready => return ready,
        }
    }
}

fn word_of(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

/// Whether a request that has no answer is one: the length is right, and so are caller and body.
fn is_well_formed(request: &[u8]) -> bool {
    let extension = usize::from(u16::from_le_bytes([request[36], request[37]])) * 8;
    let body = (request.len() - HEADER).checked_sub(extension);
    let interrupt = request[4] == 36;
    let caller = i32::try_from(word_of(&request[32..])).is_ok();
    word_of(request) as usize == request.len() && caller && body.is_some_and(|len| !interrupt || len >= 8)
}
