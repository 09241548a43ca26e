//! Reading and polling device files: who waits holds up nobody, and is woken.
#![allow(missing_docs)]

mod common;

use common::client::{self, Client, Word};
use common::{Mounted, eventually};
use devnode::{Caller, DeviceNode, Ioctl, IoctlReply, OpenFile, OpenFlags, PollEvents, Read, WaitQueue};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A file of bytes, one read each; nothing is there until it is put there. What is written to it is echoed.
#[derive(Default)]
struct Inbox {
    bytes: Mutex<Vec<u8>>,
    gone: Mutex<bool>,
    waiters: WaitQueue,
}

impl Inbox {
    fn put(&self, bytes: &[u8]) {
        self.bytes.lock().extend(bytes);
        self.waiters.wake();
    }

    fn end(&self) {
        *self.gone.lock() = true;
        self.waiters.wake();
    }
}

struct Node(Arc<Inbox>);

impl DeviceNode for Node {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        Ok(Arc::new(Opened(self.0.clone())))
    }
}

struct Opened(Arc<Inbox>);

impl OpenFile for Opened {
    fn ioctl(&self, _caller: &Caller, _call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        Ok(IoctlReply::value(1))
    }

    fn read(&self, _caller: &Caller, _read: &Read) -> Result<Vec<u8>, Errno> {
        if *self.0.gone.lock() {
            return Err(Errno::ENODEV);
        }
        let mut bytes = self.0.bytes.lock();
        if bytes.is_empty() { Err(Errno::EAGAIN) } else { Ok(vec![bytes.remove(0)]) }
    }

    fn write(&self, _caller: &Caller, _offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.0.put(data);
        Ok(data.len())
    }

    fn waiters(&self) -> Option<&WaitQueue> {
        Some(&self.0.waiters)
    }

    fn poll(&self, _caller: &Caller, _wanted: PollEvents) -> PollEvents {
        let some = if self.0.bytes.lock().is_empty() { PollEvents::empty() } else { PollEvents::IN };
        let gone = if *self.0.gone.lock() { PollEvents::HUP } else { PollEvents::empty() };
        some | gone | PollEvents::OUT
    }

    fn release(&self) {}
}

fn mounted() -> (Mounted, Arc<Inbox>, PathBuf) {
    let mounted = Mounted::new();
    let inbox = Arc::new(Inbox::default());
    mounted.tree.device(mounted.tree.root(), "inbox", 0o666, Arc::new(Node(inbox.clone()))).unwrap();
    let path = mounted.path("inbox");
    (mounted, inbox, path)
}

fn open(path: &Path) -> File {
    client::open(path).unwrap()
}

fn read_byte(file: &File) -> Result<u8, Errno> {
    let mut byte = [0];
    match nix::unistd::read(file, &mut byte) {
        Ok(1) => Ok(byte[0]),
        Ok(n) => panic!("{n} bytes"),
        Err(errno) => Err(errno),
    }
}

fn events(file: &File, wanted: PollFlags, limit: PollTimeout) -> PollFlags {
    let mut fds = [PollFd::new(file.as_fd(), wanted)];
    poll(&mut fds, limit).unwrap();
    fds[0].revents().unwrap()
}

#[test]
fn a_reader_that_does_not_want_to_wait_is_told_so_by_the_flag_of_the_moment() {
    let (_mounted, inbox, path) = mounted();
    Client::run(|| {
        let file = open(&path);
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        assert_eq!(read_byte(&file), Err(Errno::EAGAIN));
        nix::unistd::write(&file, b"x").unwrap();
        assert_eq!(read_byte(&file), Ok(b'x'));
        assert_eq!(read_byte(&file), Err(Errno::EAGAIN));
    });
    assert!(inbox.bytes.lock().is_empty());
}

#[test]
fn a_reader_waits_until_there_is_something() {
    let (mounted, inbox, path) = mounted();
    let reader = Client::spawn(|| assert_eq!(read_byte(&open(&path)), Ok(b'a')));
    eventually("it waits", || mounted.stats().waiting == 1);
    eventually("a reader that waits has no thread", || mounted.stats().busy == 0);
    inbox.put(b"a");
    reader.join();
    eventually("nothing is left", || mounted.stats().requests == 0);
}

#[test]
fn a_reader_that_waits_does_not_stop_a_writer_on_the_same_descriptor() {
    let (_mounted, _inbox, path) = mounted();
    Client::run(|| {
        let file = open(&path);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_byte(&file));
            std::thread::sleep(Duration::from_millis(20));
            (&file).write_all(b"b").unwrap();
            assert_eq!(reader.join().unwrap(), Ok(b'b'));
        });
    });
}

#[test]
fn a_signal_ends_a_wait_and_takes_nothing() {
    let (mounted, inbox, path) = mounted();
    let ended = Word::new();
    let reader = Client::spawn(|| {
        client::ignore_by_handler(Signal::SIGUSR1);
        let file = open(&path);
        assert_eq!(read_byte(&file), Err(Errno::EINTR));
        ended.set(1);
        assert_eq!(read_byte(&file), Ok(b'c'));
    });
    eventually("it waits", || mounted.stats().waiting == 1);
    reader.signal(Signal::SIGUSR1);
    ended.wait_for(1);
    eventually("it waits again", || mounted.stats().waiting == 1);
    inbox.put(b"c");
    reader.join();
    eventually("nothing is left", || mounted.stats().requests == 0);
}

#[test]
fn b3_reads_that_find_something_never_say_eintr() {
    let (_mounted, _inbox, path) = mounted();
    Client::run(|| {
        client::kilohertz();
        let mut file = open(&path);
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            file.write_all(b"d").unwrap();
            file.read_exact(&mut [0]).unwrap();
        }
    });
}

#[test]
fn b5_a_killed_reader_is_gone_at_once() {
    let (mounted, _inbox, path) = mounted();
    let mut reader = Client::spawn(|| assert!(read_byte(&open(&path)).is_err()));
    eventually("it waits", || mounted.stats().waiting == 1);
    let began = Instant::now();
    reader.signal(Signal::SIGKILL);
    assert!(reader.wait(Duration::from_secs(5)).is_some());
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    eventually("nothing is left", || mounted.stats().waiting == 0 && mounted.stats().requests == 0);
}

#[test]
fn a_hundred_readers_wait_without_a_thread_and_all_are_woken() {
    let (mounted, inbox, path) = mounted();
    let readers = Client::spawn(|| {
        client::become_user(65534);
        let file = open(&path);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..100).map(|_| scope.spawn(|| read_byte(&file).unwrap())).collect();
            let mut got: Vec<u8> = all.into_iter().map(|reader| reader.join().unwrap()).collect();
            got.sort_unstable();
            assert_eq!(got, (0..100).collect::<Vec<u8>>());
        });
    });
    eventually("all wait", || mounted.stats().waiting == 100);
    eventually("no thread waits with them", || (mounted.stats().busy, mounted.stats().stuck) == (0, 0));
    // Their user is served all the same.
    Client::run(|| {
        client::become_user(65534);
        assert_eq!(client::ioctl(open(&path), common::io(1), 0), Ok(1));
    });
    inbox.put(&(0..50).collect::<Vec<u8>>());
    eventually("half of them wait", || mounted.stats().waiting == 50);
    (50..100).for_each(|byte| inbox.put(&[byte]));
    readers.join();
    eventually("nothing is left", || mounted.stats().requests == 0);
}

#[test]
fn readers_of_a_file_that_ends_are_told() {
    let (mounted, inbox, path) = mounted();
    let (read, polled) = (path.clone(), path);
    let reader = Client::spawn(|| assert_eq!(read_byte(&open(&read)), Err(Errno::ENODEV)));
    let poller = Client::spawn(|| {
        let got = events(&open(&polled), PollFlags::POLLIN, PollTimeout::from(10_000u16));
        assert_eq!(got, PollFlags::POLLHUP);
    });
    eventually("it waits", || mounted.stats().waiting == 1);
    inbox.end();
    reader.join();
    poller.join();
}

#[test]
fn a_server_that_ends_lets_its_readers_go() {
    let (mut mounted, _inbox, path) = mounted();
    let reader = Client::spawn(|| assert!(read_byte(&open(&path)).is_err()));
    eventually("it waits", || mounted.stats().waiting == 1);
    mounted.server.take().unwrap().shutdown();
    reader.join();
}

#[test]
fn poll_says_what_there_is_and_wakes() {
    let (_mounted, inbox, path) = mounted();
    let asked = Word::new();
    let poller = Client::spawn(|| {
        let file = open(&path);
        let both = PollFlags::POLLIN | PollFlags::POLLOUT;
        assert_eq!(events(&file, both, PollTimeout::ZERO), PollFlags::POLLOUT);
        asked.set(1);
        assert_eq!(events(&file, PollFlags::POLLIN, PollTimeout::from(10_000u16)), PollFlags::POLLIN);
        assert_eq!(events(&file, both, PollTimeout::ZERO), both);
        assert_eq!(read_byte(&file), Ok(b'e'));
        assert_eq!(events(&file, PollFlags::POLLIN, PollTimeout::ZERO), PollFlags::empty());
    });
    asked.wait_for(1);
    inbox.put(b"e");
    poller.join();
}

#[test]
fn an_edge_triggered_epoll_tells_of_every_arrival() {
    let (_mounted, inbox, path) = mounted();
    let seen = Word::new();
    let poller = Client::spawn(|| {
        let file = open(&path);
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        epoll.add(&file, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 7)).unwrap();
        let mut found = [EpollEvent::empty()];
        for turn in 1..=20 {
            assert_eq!(epoll.wait(&mut found, EpollTimeout::from(10_000u16)), Ok(1), "arrival {turn}");
            assert_eq!(found[0].data(), 7);
            // Nothing is read: the next arrival is an edge all the same.
            seen.set(turn);
        }
        assert_eq!(epoll.wait(&mut found, EpollTimeout::ZERO), Ok(0));
    });
    for turn in 1..=20 {
        inbox.put(b"f");
        seen.wait_for(turn);
    }
    poller.join();
}

#[test]
fn files_that_cannot_be_polled_are_always_ready() {
    let (mounted, _inbox, _path) = mounted();
    mounted.device("other", |_, _| Err(Errno::ENOTTY));
    let kept = Arc::new(common::Kept::default());
    mounted.tree.attribute(mounted.tree.root(), "attribute", 0o666, kept).unwrap();
    for name in ["other", "attribute"] {
        let path = mounted.path(name);
        Client::run(|| {
            let both = PollFlags::POLLIN | PollFlags::POLLOUT;
            assert_eq!(events(&open(&path), both, PollTimeout::NONE), both);
        });
    }
}

#[test]
fn a_stream_has_no_position() {
    let (_mounted, _inbox, path) = mounted();
    Client::run(|| {
        let file = open(&path);
        let seek = nix::unistd::lseek(&file, 8, nix::unistd::Whence::SeekSet);
        assert_eq!(seek, Err(Errno::ESPIPE));
    });
}
