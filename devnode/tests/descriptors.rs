//! Descriptors that a caller names by number: fault F27 and rule B7.
#![allow(missing_docs)]

mod common;

use common::client::{self, Client, number};
use common::{Mounted, eventually, io};
use devnode::{IoctlReply, Limits, OpenFile, ServerConfig};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags};
use parking_lot::Mutex;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// Takes an eventfd, adds one to it, and keeps it.
const EVENTFD: u32 = io(1);
/// Takes any file and keeps it.
const ANY: u32 = io(2);
/// Finds which of our open files it is: the number of the device.
const OWN: u32 = io(3);
/// Says the device's number.
const NUMBER: u32 = io(4);

#[derive(Default)]
struct Kept {
    fds: Mutex<Vec<OwnedFd>>,
    files: Mutex<Vec<Arc<dyn OpenFile>>>,
}

fn mounted(config: ServerConfig) -> (Mounted, Arc<Kept>) {
    let mounted = Mounted::with(config);
    let kept = Arc::new(Kept::default());
    for device in [1, 2] {
        let kept = kept.clone();
        mounted.device(&format!("dev{device}"), move |caller, call| {
            let fd = i32::try_from(i64::from_ne_bytes(call.arg.to_ne_bytes())).unwrap_or(-1);
            match call.cmd {
                EVENTFD => {
                    let fd = caller.eventfd(fd)?;
                    nix::unistd::write(&fd, &1u64.to_ne_bytes()).unwrap();
                    kept.fds.lock().push(fd);
                }
                ANY => kept.fds.lock().push(caller.fd(fd)?),
                OWN => {
                    let file = caller.open_file(fd)?;
                    let answer = file.ioctl(caller, &devnode::Ioctl { cmd: NUMBER, arg: 0, input: &[] });
                    kept.files.lock().push(file);
                    return answer;
                }
                NUMBER => return Ok(IoctlReply::value(device)),
                _ => return Err(Errno::ENOTTY),
            }
            Ok(IoctlReply::ok())
        });
    }
    let attribute = Arc::new(common::Kept::default());
    mounted.tree.attribute(mounted.tree.root(), "attribute", 0o666, attribute).unwrap();
    (mounted, kept)
}

fn path_only(path: &Path) -> OwnedFd {
    nix::fcntl::open(path, OFlag::O_PATH, nix::sys::stat::Mode::empty()).unwrap()
}

/// Names `fd` in an ioctl, and closes it afterwards if it was given for good.
fn give(device: &File, cmd: u32, fd: impl AsFd) -> Result<i32, Errno> {
    client::ioctl(device, cmd, number(fd.as_fd().as_raw_fd()))
}

#[test]
fn f27_what_is_no_eventfd_is_refused_as_the_kernel_does() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let path = mounted.path("dev1");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        let take = |fd: usize| client::ioctl(&device, EVENTFD, fd);
        let event = client::eventfd();
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert_eq!(take(usize::MAX), Err(Errno::EBADF), "-1");
        assert_eq!(take(999), Err(Errno::EBADF), "closed");
        assert_eq!(give(&device, EVENTFD, path_only(&path)), Err(Errno::EBADF), "O_PATH");
        let link = format!("/proc/self/fd/{}", event.as_raw_fd());
        assert_eq!(give(&device, EVENTFD, path_only(link.as_ref())), Err(Errno::EBADF), "O_PATH of an eventfd");
        assert_eq!(give(&device, EVENTFD, &reader), Err(Errno::EINVAL), "a pipe");
        assert_eq!(give(&device, EVENTFD, &device), Err(Errno::EINVAL), "a file of our own mount");
        assert_eq!(give(&device, EVENTFD, File::open("/dev/null").unwrap()), Err(Errno::EINVAL));
        assert_eq!(give(&device, EVENTFD, &event), Ok(0));
        assert_eq!(give(&device, EVENTFD, &event), Ok(0), "the same one again");
        // A thread that is not the first of its process has the same descriptors.
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(give(&device, EVENTFD, &event), Ok(0)));
        });
        let mut count = [0; 8];
        nix::unistd::read(&event, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 3);
    });
    assert_eq!(kept.fds.lock().len(), 3);
    assert_eq!(mounted.stats().descriptors, 3);
    kept.fds.lock().clear();
    assert_eq!(mounted.stats().descriptors, 0);
}

#[test]
fn f27_other_files_are_taken_unless_closing_them_could_block() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let path = mounted.path("dev1");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        let take = |fd: usize| client::ioctl(&device, ANY, fd);
        let (_memory, memfd) = client::Memory::memfd(4096);
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let attribute = client::open(&path.with_file_name("attribute")).unwrap();
        assert_eq!(give(&device, ANY, &memfd), Ok(0));
        assert_eq!(give(&device, ANY, &reader), Ok(0));
        assert_eq!(give(&device, ANY, File::open("/dev/null").unwrap()), Ok(0));
        assert_eq!(give(&device, ANY, client::eventfd()), Ok(0));
        assert_eq!(give(&device, ANY, File::open("/proc/self/maps").unwrap()), Err(Errno::EINVAL));
        assert_eq!(give(&device, ANY, File::open("/").unwrap()), Err(Errno::EINVAL));
        assert_eq!(give(&device, ANY, path_only("/dev/null".as_ref())), Err(Errno::EBADF));
        assert_eq!(give(&device, ANY, &device), Err(Errno::EINVAL));
        assert_eq!(give(&device, ANY, &attribute), Err(Errno::EINVAL));
        assert_eq!(take(usize::MAX), Err(Errno::EBADF));
        assert_eq!(take(999), Err(Errno::EBADF));
    });
    assert_eq!(kept.fds.lock().len(), 4);
}

#[test]
fn b7_our_own_open_files_are_recognised_and_not_held() {
    let (mounted, _kept) = mounted(ServerConfig::default());
    let other = tempfile::tempdir().unwrap();
    nix::mount::mount(Some(mounted.root()), other.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let (path, bound) = (mounted.root().to_owned(), other.path().to_owned());
    let client = Client::spawn(move || {
        let device = client::open(&path.join("dev1")).unwrap();
        let ask = |fd: usize| client::ioctl(&device, OWN, fd);
        for root in [&path, &bound] {
            for name in [1, 2] {
                let file = client::open(&root.join(format!("dev{name}"))).unwrap();
                assert_eq!(give(&device, OWN, &file), Ok(name), "{}", root.display());
                assert_eq!(give(&device, ANY, &file), Err(Errno::EINVAL));
                assert_eq!(give(&device, EVENTFD, &file), Err(Errno::EINVAL));
            }
        }
        assert_eq!(give(&device, OWN, &device), Ok(1));
        assert_eq!(give(&device, OWN, client::open(&path.join("attribute")).unwrap()), Err(Errno::EINVAL));
        assert_eq!(give(&device, OWN, File::open(&path).unwrap()), Err(Errno::EINVAL), "a directory of ours");
        assert_eq!(give(&device, OWN, client::eventfd()), Err(Errno::EINVAL));
        assert_eq!(give(&device, OWN, path_only(&path.join("dev2"))), Err(Errno::EBADF));
        assert_eq!(ask(usize::MAX), Err(Errno::EBADF));
        assert_eq!(ask(999), Err(Errno::EBADF));
    });
    client.join();
    nix::mount::umount2(other.path(), MntFlags::MNT_DETACH).unwrap();
    eventually("all files are closed: we hold none", || mounted.stats().handles == 0);
}

#[test]
fn b7_the_question_which_file_it_is_is_not_answered_to_clients() {
    let (mounted, _kept) = mounted(ServerConfig::default());
    let path = mounted.path("dev1");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        let mut handle = 0u64;
        let who = 2 << 30 | 8 << 16 | u32::from(b'u') << 8 | 0xf0;
        assert_eq!(client::ioctl(&device, who, (&raw mut handle).expose_provenance()), Err(Errno::ENOTTY));
        assert_eq!(handle, 0);
    });
}

#[test]
fn b1_descriptors_that_change_during_the_call_are_refused_or_right() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let path = mounted.path("dev1");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        let event = client::eventfd();
        let trap = client::open(&path).unwrap();
        client::keep_as(&event, 50);
        std::thread::spawn(move || {
            loop {
                client::keep_as(&trap, 50);
                client::keep_as(&event, 50);
            }
        });
        for _ in 0..3000 {
            let result = client::ioctl(&device, EVENTFD, 50);
            assert!(matches!(result, Ok(0) | Err(Errno::EINVAL | Errno::EBADF)), "{result:?}");
        }
    });
    for fd in &*kept.fds.lock() {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert_eq!(link.to_str(), Some("anon_inode:[eventfd]"));
    }
    kept.fds.lock().clear();
    eventually("we hold none of our own files", || mounted.stats().handles == 0);
}

#[test]
fn u2_a_user_at_its_limit_of_descriptors_leaves_others_theirs() {
    let limits = Limits { descriptors: 10, ..Limits::default() };
    let (mounted, kept) = mounted(ServerConfig { limits, ..ServerConfig::default() });
    let path = mounted.path("dev1");
    let greedy = path.clone();
    Client::run(move || {
        client::become_user(65534);
        let device = client::open(&greedy).unwrap();
        let event = client::eventfd();
        for _ in 0..10 {
            give(&device, EVENTFD, &event).unwrap();
        }
        assert_eq!(give(&device, EVENTFD, &event), Err(Errno::EMFILE));
    });
    let neighbour = path.clone();
    Client::run(move || {
        client::become_user(1000);
        let device = client::open(&neighbour).unwrap();
        give(&device, EVENTFD, client::eventfd()).unwrap();
    });
    kept.fds.lock().clear();
    Client::run(move || {
        client::become_user(65534);
        let device = client::open(&path).unwrap();
        give(&device, EVENTFD, client::eventfd()).unwrap();
    });
}
