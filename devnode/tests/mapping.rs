//! Mapping device files: a declared backing and nothing else.
#![allow(missing_docs)]

mod common;

use common::client::{self, Client, Memory};
use common::{Mounted, eventually, io};
use devnode::{Caller, DeviceNode, Ioctl, IoctlReply, OpenFile, OpenFlags, PollEvents, Read, WaitQueue};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use parking_lot::Mutex;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const PAGE: usize = 4096;
const PAGES: usize = 3;
const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

fn memory(seals: SealFlag) -> Arc<File> {
    let file = File::from(memfd_create(c"backing", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
    file.set_len((PAGES * PAGE) as u64).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    Arc::new(file)
}

/// Where somebody wrote, and what.
type Writes = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// A node whose files show what it has when they are opened.
struct Node {
    shown: Mutex<Option<Arc<File>>>,
    writes: Writes,
}

struct Opened {
    shown: Option<Arc<File>>,
    writes: Writes,
    waiters: WaitQueue,
}

impl DeviceNode for Node {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        let shown = self.shown.lock().clone();
        Ok(Arc::new(Opened { shown, writes: self.writes.clone(), waiters: WaitQueue::default() }))
    }
}

impl OpenFile for Opened {
    fn ioctl(&self, _caller: &Caller, _call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        Ok(IoctlReply::value(7))
    }

    fn read(&self, _caller: &Caller, read: &Read) -> Result<Vec<u8>, Errno> {
        if read.offset == 0xdead {
            Err(Errno::EAGAIN)
        } else {
            Ok(read.offset.to_le_bytes()[..read.len.min(8)].to_vec())
        }
    }

    fn write(&self, _caller: &Caller, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.writes.lock().push((offset, data.to_vec()));
        Ok(data.len())
    }

    fn waiters(&self) -> Option<&WaitQueue> {
        Some(&self.waiters)
    }

    fn poll(&self, _caller: &Caller, _wanted: PollEvents) -> PollEvents {
        PollEvents::OUT
    }

    fn backing(&self) -> Option<Arc<File>> {
        self.shown.clone()
    }

    fn release(&self) {}
}

fn mounted(shown: Option<Arc<File>>) -> (Mounted, Arc<Node>, PathBuf) {
    devnode::can_map().expect("this test needs Linux 6.9 with CONFIG_FUSE_PASSTHROUGH, and root");
    let mounted = Mounted::new();
    let node = Arc::new(Node { shown: Mutex::new(shown), writes: Arc::default() });
    mounted.tree.device(mounted.tree.root(), "node", 0o666, node.clone()).unwrap();
    let path = mounted.path("node");
    (mounted, node, path)
}

fn map(file: &File, offset: usize, len: usize, prot: ProtFlags, flags: MapFlags) -> Result<Memory, Errno> {
    Memory::of_part(file, offset, len, prot, flags)
}

/// The file that is mapped, as the kernel shows it to the privileged.
fn mapped_file(memory: Memory) -> File {
    let link = format!("/proc/self/map_files/{:x}-{:x}", memory.addr, memory.addr + memory.len);
    File::options().read(true).write(true).open(link).unwrap()
}

#[test]
fn m4_a_map_shows_the_memory_of_the_node_and_reads_writes_and_ioctls_still_come_to_it() {
    let memory = memory(SEALS);
    let (_mounted, node, path) = mounted(Some(memory.clone()));
    let inside = memory.clone();
    inside.write_at(b"shown", PAGE as u64).unwrap();
    Client::run(|| {
        let mut file = client::open(&path).unwrap();
        let mapping = map(&file, PAGE, PAGE, READ_WRITE, MapFlags::MAP_SHARED).unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(|at| mapping.get(at)), *b"shown");
        mapping.set(8, &[0x5a]);
        assert_eq!(client::ioctl(&file, io(1), 0), Ok(7));
        let mut place = [0; 8];
        file.read_exact_at(&mut place, 1 << 41).unwrap();
        assert_eq!(u64::from_le_bytes(place), 1 << 41);
        file.write_all_at(b"to the node", PAGE as u64).unwrap();
        file.write_all(b"and this").unwrap();
        file.read_exact(&mut place).unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(|at| mapping.get(at)), *b"shown");
        // A child has what its parent has mapped.
        Client::run(|| mapping.set(16, &[0xa5]));
        assert_eq!(mapping.get(16), 0xa5);
        // Another open file of the node while this one is open shows the same.
        let other = map(&client::open(&path).unwrap(), 0, PAGES * PAGE, READ_WRITE, MapFlags::MAP_SHARED).unwrap();
        assert_eq!(other.get(PAGE + 8), 0x5a);
    });
    let mut byte = [0];
    inside.read_exact_at(&mut byte, PAGE as u64 + 8).unwrap();
    assert_eq!(byte, [0x5a]);
    let writes: Vec<_> = node.writes.lock().iter().map(|(_, data)| data.clone()).collect();
    assert_eq!(writes, [&b"to the node"[..], &b"and this"[..]]);
}

#[test]
fn m4_a_file_without_a_backing_cannot_be_mapped() {
    let (_mounted, _node, path) = mounted(None);
    Client::run(|| {
        let file = client::open(&path).unwrap();
        for prot in [READ_WRITE, ProtFlags::PROT_WRITE, ProtFlags::PROT_READ] {
            assert_eq!(map(&file, 0, PAGE, prot, MapFlags::MAP_SHARED).err(), Some(Errno::ENODEV));
        }
    });
}

#[test]
fn m4_what_lies_beyond_the_backing_is_a_bus_error_of_the_client_alone() {
    let (_mounted, node, path) = mounted(Some(memory(SEALS)));
    for offset in [PAGES * PAGE, 1 << 40] {
        let mut client = Client::spawn(|| {
            let file = client::open(&path).unwrap();
            if let Ok(mapping) = map(&file, offset, PAGE, READ_WRITE, MapFlags::MAP_SHARED) {
                mapping.set(0, &[1]);
            }
        });
        let status = client.wait(Duration::from_secs(30)).unwrap();
        assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGBUS, _)), "at {offset:#x}: {status:?}");
    }
    assert!(node.writes.lock().is_empty());
    Client::run(|| assert_eq!(client::ioctl(client::open(&path).unwrap(), io(1), 0), Ok(7)));
}

#[test]
fn m4_a_client_can_neither_shrink_nor_grow_nor_execute_what_it_maps() {
    let memory = memory(SEALS);
    let (_mounted, _node, path) = mounted(Some(memory.clone()));
    Client::run(|| {
        let file = client::open(&path).unwrap();
        let mapping = map(&file, 0, PAGES * PAGE, READ_WRITE, MapFlags::MAP_SHARED).unwrap();
        let executable = READ_WRITE | ProtFlags::PROT_EXEC;
        assert_eq!(map(&file, 0, PAGE, executable, MapFlags::MAP_SHARED).err(), Some(Errno::EPERM));
        assert_eq!(mapping.try_protect(executable), Err(Errno::EACCES));
        // Whether the kernel shows the file of the tree there, whose size is no one's, or the memfd, which is sealed.
        for file in [mapped_file(mapping), file.try_clone().unwrap()] {
            let _ = (file.set_len(0), file.set_len(1 << 20));
            assert!(fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
        }
        mapping.set(PAGES * PAGE - 1, &[9]);
        // What is private stays private.
        let private = map(&file, 0, PAGE, READ_WRITE, MapFlags::MAP_PRIVATE).unwrap();
        private.set(3, &[3]);
        assert_eq!(mapping.get(3), 0);
    });
    let mut bytes = [0; PAGE];
    memory.read_exact_at(&mut bytes, ((PAGES - 1) * PAGE) as u64).unwrap();
    assert_eq!(bytes[PAGE - 1], 9);
}

#[test]
fn m4_memory_that_could_change_its_size_backs_nothing() {
    let (_mounted, _node, path) = mounted(Some(memory(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)));
    Client::run(|| {
        let file = client::open(&path).unwrap();
        assert_eq!(map(&file, 0, PAGE, READ_WRITE, MapFlags::MAP_SHARED).err(), Some(Errno::ENODEV));
        assert_eq!(client::ioctl(&file, io(1), 0), Ok(7));
    });
}

#[test]
fn the_next_client_of_a_node_gets_memory_that_the_last_one_has_not_mapped() {
    let first = memory(SEALS);
    let (mounted, node, path) = mounted(Some(first.clone()));
    let stale = client::open(&path).unwrap();
    let mapping = map(&stale, 0, PAGE, READ_WRITE, MapFlags::MAP_SHARED).unwrap();
    drop(stale);
    eventually("it is closed", || mounted.stats().handles == 0);
    let second = memory(SEALS);
    *node.shown.lock() = Some(second.clone());
    Client::run(|| {
        let file = client::open(&path).unwrap();
        map(&file, 0, PAGE, READ_WRITE, MapFlags::MAP_SHARED).unwrap().set(0, &[2]);
    });
    mapping.set(1, &[1]);
    let first_bytes = |memory: &File| {
        let mut bytes = [0; 2];
        memory.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert_eq!((first_bytes(&first), first_bytes(&second)), ([0, 1], [2, 0]));
}

#[test]
fn files_of_one_node_cannot_show_different_memory_at_a_time() {
    let (_mounted, node, path) = mounted(Some(memory(SEALS)));
    let held = client::open(&path).unwrap();
    *node.shown.lock() = Some(memory(SEALS));
    assert!(client::open(&path).is_err());
    *node.shown.lock() = None;
    assert!(client::open(&path).is_err());
    drop(held);
}

#[test]
fn a_mapping_outlives_file_node_and_server() {
    let memory = memory(SEALS);
    let (mounted, _node, path) = mounted(Some(memory));
    let file = client::open(&path).unwrap();
    let mapping = map(&file, 0, PAGES * PAGE, READ_WRITE, MapFlags::MAP_SHARED).unwrap();
    mounted.tree.remove(mounted.tree.find("node").unwrap());
    mapping.set(0, &[1]);
    drop(file);
    drop(mounted);
    mapping.set(PAGE, &[1]);
    assert_eq!(mapping.get(0), 1);
}

#[test]
fn a_read_of_a_mapped_file_does_not_wait() {
    let (_mounted, _node, path) = mounted(Some(memory(SEALS)));
    Client::run(|| {
        let file = client::open(&path).unwrap();
        assert_eq!(file.read_at(&mut [0; 8], 0xdead).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    });
}
