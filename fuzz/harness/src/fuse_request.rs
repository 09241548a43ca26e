//! Requests as they are read from `/dev/fuse`, to a server of a small tree with real device files. The transport is a
//! pair of packet sockets: like the device, it gives and takes one message a call.
//!
//! The callers that requests name are: a process of ours that sleeps, so that whatever is written to its memory harms
//! nobody; nobody at all; and a caller from outside our pid namespace.

mod kernel;

use crate::Input;
use kernel::{HEADER, IOCTL, Kernel, READ, READDIR, UNIQUE, WRITE, readable};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

/// The process that requests come from.
static SLEEPER: LazyLock<Sleeper> = LazyLock::new(Sleeper::start);

/// A process that waits for our end: its standard input is a pipe of ours, and its standard output an eventfd.
struct Sleeper {
    child: Child,
    memory: File,
    /// Where it has a page that may be written.
    page: u64,
    /// Where its mappings begin.
    maps: Vec<u64>,
}

impl Sleeper {
    fn start() -> Self {
        let event = OwnedFd::from(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("eventfd"));
        let mut command = Command::new("cat");
        // A library maps a file of this locale shared.
        command.env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::piped()).stdout(event.try_clone().expect("a copy")).stderr(Stdio::null());
        let mut child = command.spawn().expect("cat(1)");
        // What passes it on has all its mappings.
        child.stdin.as_mut().expect("a pipe").write_all(&1u64.to_ne_bytes()).expect("it reads");
        assert_eq!(readable(event.as_fd()), Ok(1), "cat(1) does not write");
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", child.id()));
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).expect("its map");
        let stack = maps.lines().find(|line| line.ends_with("[stack]")).expect("a stack");
        let first = |line: &str| line.split('-').next().and_then(|first| u64::from_str_radix(first, 16).ok());
        let page = first(stack).expect("an address");
        Self { child, memory: memory.expect("its memory"), page, maps: maps.lines().filter_map(first).collect() }
    }

    /// A small number where a message has the address of memory stands for one of the sleeper's mappings, which are
    /// elsewhere each time.
    fn place(&self, message: &mut [u8]) {
        let Some(field) = message.get_mut(24..).and_then(|rest| rest.first_chunk_mut::<8>()) else { return };
        let number = u64::from_ne_bytes(*field);
        if let Some(start) = usize::try_from(number >> 12).ok().and_then(|index| self.maps.get(index)) {
            *field = (start + (number & 0xfff)).to_ne_bytes();
        }
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
            let (handle, offset, mut data) = (handle(input), u64::from(input.byte()), input.blob().to_vec());
            SLEEPER.place(&mut data);
            let size = u32::try_from(data.len()).expect("small").to_le_bytes();
            [&handle[..], &offset.to_le_bytes(), &size, &[0; 20], &data].concat()
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
