//! Shared memory that its client takes away, and how much of ours a client may use: rules U2 and U3.
#![allow(missing_docs)]

mod common;

use common::client::{self, Client, Memory, Word};
use common::{Mounted, eventually, io};
use devnode::{IoctlReply, Limits, MapAccess, Piece, ServerConfig};
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::sys::mman::{MapFlags, ProtFlags};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use virtio_mdev_api::dma::{Backing, SharedMemory};
use vm_memory::Bytes;

/// The argument is the address of `[addr, len]`: maps it, keeps it, answers how many pages are shared.
const MAP: u32 = io(1);

const PAGE: usize = 4096;
const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

type Kept = Arc<Mutex<Vec<Piece>>>;

fn mounted(config: ServerConfig) -> (Mounted, Kept) {
    let mounted = Mounted::with(config);
    let kept = Kept::default();
    let pieces = kept.clone();
    mounted.device("dev", move |caller, call| {
        let mut words = [0; 16];
        caller.read(call.arg, &mut words)?;
        let word = |at: usize| u64::from_ne_bytes(words[at..at + 8].try_into().unwrap());
        let mapped = caller.map(word(0), word(8), MapAccess { read: true, write: true })?;
        let shared: u64 = mapped.iter().filter(|p| matches!(p.backing, Backing::Shared { .. })).map(|p| p.len).sum();
        pieces.lock().extend(mapped);
        Ok(IoctlReply::value(i32::try_from(shared / 4096).unwrap()))
    });
    (mounted, kept)
}

fn ask_to_map(device: &std::fs::File, memory: Memory) -> Result<i32, Errno> {
    let request = [memory.addr(), u64::try_from(memory.len).unwrap()];
    client::ioctl(device, MAP, request.as_ptr().expose_provenance())
}

/// A client that maps `pages`, then does `next` with its file.
fn client(path: &Path, pages: usize, go: &Word, next: impl FnOnce(&std::fs::File)) -> Client {
    Client::spawn(|| {
        let device = client::open(path).unwrap();
        let (memory, file) = Memory::memfd(pages * PAGE);
        memory.set(0, b"first");
        memory.set((pages - 1) * PAGE, b"last");
        assert_eq!(ask_to_map(&device, memory), Ok(i32::try_from(pages).unwrap()));
        go.set(1);
        go.wait_for(2);
        next(&file);
        go.set(3);
        go.wait_for(4);
    })
}

fn window(kept: &Kept) -> Arc<dyn SharedMemory> {
    match &kept.lock()[0].backing {
        Backing::Shared { memory, .. } => memory.clone(),
        Backing::Remote { .. } => panic!("not shared"),
    }
}

fn byte(window: &dyn SharedMemory, page: usize) -> u8 {
    window.slice().read_obj(page * PAGE).unwrap()
}

#[test]
fn u3_memory_that_is_truncated_reads_as_zeros_and_is_reported() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let go = Word::new();
    let client = client(&mounted.path("dev"), 800, &go, |file| file.set_len(4096).unwrap());
    go.wait_for(1);
    let window = window(&kept);
    assert_eq!((byte(&*window, 0), byte(&*window, 799)), (b'f', b'l'));
    go.set(2);
    go.wait_for(3);
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = maps();
    assert!(!window.faulted());
    // Every other page, from several threads: were each replaced alone, it would cost 800 mappings.
    std::thread::scope(|scope| {
        for start in [1, 3, 5, 7] {
            let window = &*window;
            scope.spawn(move || (start..800).step_by(8).for_each(|page| assert_eq!(byte(window, page), 0)));
        }
    });
    assert!(maps() < before + 150, "from {before} mappings to {}", maps());
    window.slice().write_slice(b"still here", 50 * PAGE).unwrap();
    assert!(window.faulted());
    assert_eq!(byte(&*window, 0), b'f', "what is still there is used");
    go.set(4);
    client.join();
    kept.lock().clear();
}

#[test]
fn u3_a_hole_punched_reads_as_zeros_and_the_window_lives() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let go = Word::new();
    let client = client(&mounted.path("dev"), 4, &go, |file| {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(file, flags, 0, 4 * 4096).unwrap();
    });
    go.wait_for(1);
    let window = window(&kept);
    go.set(2);
    go.wait_for(3);
    assert_eq!((byte(&*window, 0), byte(&*window, 3)), (0, 0));
    assert!(!window.faulted());
    go.set(4);
    client.join();
}

#[test]
fn u3_a_window_outlives_its_client() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let go = Word::new();
    let client = client(&mounted.path("dev"), 2, &go, |_| {});
    go.wait_for(1);
    go.set(2);
    go.wait_for(3);
    go.set(4);
    client.join();
    let window = window(&kept);
    assert_eq!((byte(&*window, 0), byte(&*window, 1)), (b'f', b'l'));
    assert_eq!(mounted.stats().windows, 1);
    drop(window);
    kept.lock().clear();
    assert_eq!((mounted.stats().windows, mounted.stats().address_spaces), (0, 0));
}

#[test]
fn u3_a_fault_that_is_not_in_a_window_ends_the_process_as_before() {
    let (mounted, _kept) = mounted(ServerConfig::default());
    // The handler is installed by the first window, so this process must have one; the child inherits the handler.
    let go = Word::new();
    let holder = client(&mounted.path("dev"), 1, &go, |_| {});
    go.wait_for(1);
    let mut faulting = Client::spawn(|| {
        let (memory, file) = Memory::memfd(PAGE);
        file.set_len(0).unwrap();
        memory.get(0);
    });
    let status = faulting.wait(std::time::Duration::from_secs(10)).unwrap();
    assert!(matches!(status, nix::sys::wait::WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGBUS, _)));
    drop(holder);
}

#[test]
fn u1_revoked_pages_are_zeros_and_no_longer_the_clients() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let go = Word::new();
    let client = client(&mounted.path("dev"), 3, &go, |file| {
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut byte, 2 * 4096).unwrap();
        assert_eq!(byte, *b"l");
    });
    go.wait_for(1);
    let window = window(&kept);
    window.revoke(PAGE, 2 * PAGE);
    assert_eq!((byte(&*window, 0), byte(&*window, 2)), (b'f', 0));
    window.slice().write_slice(b"lost", 2 * PAGE).unwrap();
    go.set(2);
    go.wait_for(3);
    go.set(4);
    client.join();
}

#[test]
fn u1_memory_mapped_after_a_revocation_is_the_clients_again() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let path = mounted.path("dev");
    let go = Word::new();
    let wait = &go;
    let client = Client::spawn(move || {
        let device = client::open(&path).unwrap();
        let (memory, _file) = Memory::memfd(2 * PAGE);
        memory.set(0, b"first");
        assert_eq!(ask_to_map(&device, memory), Ok(2));
        wait.set(1);
        wait.wait_for(2);
        assert_eq!(ask_to_map(&device, memory), Ok(2));
        wait.set(3);
        wait.wait_for(4);
    });
    go.wait_for(1);
    // Somebody still holds the window, which is why it was revoked.
    let stuck = window(&kept);
    stuck.revoke(0, PAGE);
    go.set(2);
    go.wait_for(3);
    let Backing::Shared { memory: again, .. } = kept.lock()[1].backing.clone() else { panic!("not shared") };
    assert_eq!((byte(&*stuck, 0), byte(&*again, 0)), (0, b'f'));
    go.set(4);
    client.join();
}

#[test]
fn u3_memory_mapped_after_a_truncation_is_not_what_was_truncated() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let path = mounted.path("dev");
    let go = Word::new();
    let wait = &go;
    let client = Client::spawn(move || {
        let device = client::open(&path).unwrap();
        let (memory, file) = Memory::memfd(2 * PAGE);
        assert_eq!(ask_to_map(&device, memory), Ok(2));
        file.set_len(0).unwrap();
        wait.set(1);
        wait.wait_for(2);
        file.set_len(2 * 4096).unwrap();
        memory.set(0, b"first");
        assert_eq!(ask_to_map(&device, memory), Ok(2));
        wait.set(3);
        wait.wait_for(4);
    });
    go.wait_for(1);
    let old = window(&kept);
    assert_eq!((byte(&*old, 0), old.faulted()), (0, true));
    go.set(2);
    go.wait_for(3);
    let Backing::Shared { memory: new, .. } = kept.lock()[1].backing.clone() else { panic!("not shared") };
    assert_eq!((byte(&*new, 0), new.faulted()), (b'f', false));
    go.set(4);
    client.join();
}

#[test]
fn u2_adjacent_mappings_and_repeated_maps_of_one_file_share_a_window() {
    let (mounted, kept) = mounted(ServerConfig::default());
    let path = mounted.path("dev");
    let done = Word::new();
    let wait = &done;
    let client = Client::spawn(move || {
        let device = client::open(&path).unwrap();
        let (memory, file) = Memory::memfd(64 * PAGE);
        // Other rights in the middle split the mapping in three.
        let middle = Memory { addr: memory.addr + 10 * PAGE, len: 20 * PAGE };
        middle.protect(RW | ProtFlags::PROT_EXEC);
        assert_eq!(ask_to_map(&device, memory), Ok(64));
        for page in 0..64 {
            assert_eq!(ask_to_map(&device, Memory { addr: memory.addr + page * PAGE, len: PAGE }), Ok(1));
        }
        let again = Memory::of(&file, 64 * PAGE, RW, MapFlags::MAP_SHARED).unwrap();
        assert_eq!(ask_to_map(&device, again), Ok(64));
        wait.wait_for(1);
    });
    eventually("all are mapped", || kept.lock().len() == 66);
    assert_eq!(mounted.stats().windows, 1);
    done.set(1);
    client.join();
}

#[test]
fn u2_a_user_at_its_limit_is_served_slowly_and_its_neighbour_as_ever() {
    let limits = Limits { windows: 4, ..Limits::default() };
    let (mounted, kept) = mounted(ServerConfig { limits, ..ServerConfig::default() });
    let path = mounted.path("dev");
    let (full, done) = (Word::new(), Word::new());
    let (greedy, ready, wait) = (path.clone(), &full, &done);
    let client = Client::spawn(move || {
        client::become_user(65534);
        let device = client::open(&greedy).unwrap();
        let files: Vec<_> = (0..10).map(|_| Memory::memfd(PAGE)).collect();
        let shared: i32 = files.iter().map(|(memory, _)| ask_to_map(&device, *memory).unwrap()).sum();
        assert_eq!(shared, 4);
        files[9].0.set(0, b"slow");
        ready.set(1);
        wait.wait_for(1);
    });
    full.wait_for(1);
    let Backing::Remote { memory, addr } = kept.lock()[9].backing.clone() else { panic!() };
    let mut bytes = [0; 4];
    memory.read(addr, &mut bytes).unwrap();
    assert_eq!(&bytes, b"slow");
    Client::run(move || {
        client::become_user(1000);
        let device = client::open(&path).unwrap();
        assert_eq!(ask_to_map(&device, Memory::memfd(PAGE).0), Ok(1));
    });
    done.set(1);
    client.join();
}
