//! Requests as they are read from `/dev/fuse`, to a server of a small tree with real device files. The transport is a
//! pair of packet sockets: like the device, it gives and takes one message a call.
//!
//! The callers that requests name are: a process of ours that sleeps, so that whatever is written to its memory harms
//! nobody; nobody at all; and a caller from outside our pid namespace.

use crate::world::loopback;
use crate::{Input, assert_errno};
use devnode::{Attribute, Broadcast, Caller, Server, ServerConfig, Tree};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use vfio_container::{ContainerNode, Group};
use vhost_mdev::VhostMdev;
use virtio_mdev_api::{DeviceLink, Refusal, Session};

const HEADER: usize = 40;
const OUT_HEADER: usize = 16;
/// The largest answer: a read of the largest size.
const LARGEST: usize = 128 * 1024 + 4096;
/// How long a request may take. A machine that fuzzes is busy.
const PATIENCE: u16 = 60_000;

const FORGET: u32 = 2;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const READDIR: u32 = 28;
const INTERRUPT: u32 = 36;
const IOCTL: u32 = 39;
const POLL: u32 = 40;
const NOTIFY_REPLY: u32 = 41;
const BATCH_FORGET: u32 = 42;
/// A request that is always answered at once: what is answered before it was answered unasked.
const BARRIER: u64 = u64::MAX;
/// Where the number of a request is, and where the flags of the open file are in a read.
const UNIQUE: usize = 8;
const READ_FLAGS: usize = HEADER + 32;
/// `FUSE_NOTIFY_POLL`, in place of an error.
const NOTIFY_POLL: i32 = 1;

/// The process that requests come from.
static SLEEPER: LazyLock<Sleeper> = LazyLock::new(Sleeper::start);

/// A process that waits for our end: its standard input is a pipe of ours, and its standard output an eventfd.
struct Sleeper {
    child: Child,
    memory: File,
    /// Where it has a page that may be written.
    page: u64,
}

impl Sleeper {
    fn start() -> Self {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("eventfd");
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(OwnedFd::from(event)).stderr(Stdio::null());
        let child = command.spawn().expect("cat(1)");
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", child.id()));
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).expect("its map");
        let stack = maps.lines().find(|line| line.ends_with("[stack]")).expect("a stack");
        let page = stack.split('-').next().and_then(|first| u64::from_str_radix(first, 16).ok());
        Self { child, memory: memory.expect("its memory"), page: page.expect("an address") }
    }
}

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

/// Runs one input: requests, each made of parts or given whole.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut kernel = Kernel::new();
    while input.more() {
        let mut request = match input.byte() % 4 {
            0 => given(&mut input),
            _ => made(&mut input),
        };
        tame(&mut request);
        kernel.ask(&mut request);
    }
    kernel.finish();
}

/// A request's bytes as they are, but for its length, mostly.
fn given(input: &mut Input<'_>) -> Vec<u8> {
    let honest = input.byte() != 0;
    let mut request = input.blob().to_vec();
    // A packet of no bytes is the end of the transport, which the device does not have.
    request.resize(request.len().max(1), 0);
    let len = u32::try_from(request.len()).expect("small");
    if let Some(field) = request.first_chunk_mut().filter(|_| honest) {
        *field = len.to_le_bytes();
    }
    request
}

/// A request with a header that makes sense.
fn made(input: &mut Input<'_>) -> Vec<u8> {
    let (opcode, node, unique, who) = (input.byte(), input.byte(), input.byte(), input.byte());
    let mut body = match u32::from(opcode) {
        IOCTL => ioctl(input),
        READ | READDIR => {
            let (handle, offset, size) = (handle(input), u64::from(input.byte()), length(input));
            let flags = if input.flag() { 0 } else { libc::O_NONBLOCK.cast_unsigned() };
            [&handle[..], &offset.to_le_bytes(), &size, &flags.to_le_bytes(), &[0; 4]].concat()
        }
        WRITE => {
            let (handle, offset, data) = (handle(input), u64::from(input.byte()), input.blob());
            let size = u32::try_from(data.len()).expect("small").to_le_bytes();
            [&handle[..], &offset.to_le_bytes(), &size, &[0; 20], data].concat()
        }
        _ => input.blob().to_vec(),
    };
    // Fixed parts of structures that were not given are zeros; a name is whole when it has its end.
    body.resize(body.len().max(if matches!(opcode, 1 | 8) { 0 } else { 88 }), 0);
    let len = u32::try_from(HEADER + body.len()).expect("small");
    let mut request = [len, u32::from(opcode)].map(u32::to_le_bytes).concat();
    request.extend(u64::from(unique).to_le_bytes());
    request.extend(u64::from(node).to_le_bytes());
    let uid = u32::from(who >> 4) * 100;
    request.extend([uid, uid, u32::from(who), 0].map(u32::to_le_bytes).concat());
    request.extend(body);
    request
}

fn handle(input: &mut Input<'_>) -> [u8; 8] {
    u64::from(input.byte() % 16).to_le_bytes()
}

/// A size, and what is between it and the flags.
fn length(input: &mut Input<'_>) -> Vec<u8> {
    let size = match input.byte() {
        255 => input.word(),
        small => u32::from(small) << 4,
    };
    [&size.to_le_bytes()[..], &[0; 12]].concat()
}

/// An ioctl whose argument the sleeper has in its memory, where VFIO reads it, and that the kernel copied, as vhost's.
fn ioctl(input: &mut Input<'_>) -> Vec<u8> {
    let (handle, cmd) = (handle(input), input.word());
    let arg = match input.byte() {
        255 => input.long(),
        offset => SLEEPER.page + 8 * u64::from(offset),
    };
    let mut argument = input.blob().to_vec();
    if arg.wrapping_sub(SLEEPER.page) < 4096 {
        SLEEPER.memory.write_all_at(&argument, arg).expect("a page of its stack");
    }
    let size = (cmd >> 16) & 0x3fff;
    let (copied_in, copied_out) =
        (if cmd & 1 << 30 == 0 { 0 } else { size }, if cmd & 1 << 31 == 0 { 0 } else { size });
    argument.resize(copied_in as usize, 0);
    let words = [copied_in, copied_out].map(u32::to_le_bytes).concat();
    [&handle[..], &[0; 4], &cmd.to_le_bytes(), &arg.to_le_bytes(), &words, &argument].concat()
}

/// Makes the caller one of those who may be harmed, and the number not the barrier's.
fn tame(request: &mut [u8]) {
    if let Some(unique) = request.get_mut(UNIQUE + 7) {
        *unique &= 0x7f;
    }
    if let Some(pid) = request.get_mut(32..36).and_then(|pid| pid.first_chunk_mut::<4>()) {
        *pid = match pid[0] % 16 {
            0 => 0,
            1 => i32::MAX.cast_unsigned(),
            2 => u32::MAX,
            _ => SLEEPER.child.id(),
        }
        .to_le_bytes();
    }
}

/// The other side of `/dev/fuse`.
struct Kernel {
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
    fn new() -> Self {
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
        let config = ServerConfig { release_wait: Duration::ZERO, ..ServerConfig::default() };
        let server = Some(Server::start(tree, fuse, config).expect("a server"));
        let (waiting, polled) = (BTreeSet::new(), false);
        Self { socket, server, session, opens, answer: vec![0; LARGEST], waiting, polled }
    }

    /// One request, and the one answer it may get.
    fn ask(&mut self, request: &mut [u8]) {
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
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(PATIENCE)), Ok(1), "no answer to {request:02x?}");
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

    fn finish(mut self) {
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
