//! Whose memory it is, and who calls: rules M1 to M4.
#![allow(missing_docs)]

mod common;

use common::client::{self, Client, Memory, Word};
use common::{Mounted, eventually, io};
use devnode::{AddressSpaceId, Caller, IoctlReply, MapAccess, Piece};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags};
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use virtio_mdev_api::dma::Backing;
use vm_memory::Bytes;

/// The argument is the address of `[addr, len, writable]`: the answer is how many bytes are shared.
const MAP: u32 = io(1);
/// The caller becomes the owner.
const OWN: u32 = io(2);
/// Whether the caller is the owner.
const IS_OWNER: u32 = io(3);
/// Reads a word at the argument.
const READ: u32 = io(4);
/// Writes a word at the argument.
const WRITE: u32 = io(5);

const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);
const PAGE: usize = 4096;

#[derive(Default)]
struct Seen {
    pieces: Mutex<Vec<Piece>>,
    owner: Mutex<Option<AddressSpaceId>>,
}

fn map(caller: &Caller, addr: u64, len: u64, write: bool) -> Result<Vec<Piece>, Errno> {
    caller.map(addr, len, MapAccess { read: true, write })
}

fn word(caller: &Caller, addr: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    caller.read(addr, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn shared(pieces: &[Piece]) -> u64 {
    pieces.iter().filter(|p| matches!(p.backing, Backing::Shared { .. })).map(|p| p.len).sum()
}

fn mounted() -> (Mounted, Arc<Seen>) {
    let mounted = Mounted::new();
    let seen = Arc::new(Seen::default());
    let state = seen.clone();
    mounted.device("dev", move |caller, call| match call.cmd {
        MAP => {
            let [addr, len, write] = [0, 8, 16].map(|offset| word(caller, call.arg + offset));
            let pieces = map(caller, addr?, len?, write? != 0)?;
            assert_eq!(pieces.iter().map(|piece| piece.len).sum::<u64>(), len?);
            let bytes = shared(&pieces);
            *state.pieces.lock() = pieces;
            Ok(IoctlReply::value(i32::try_from(bytes).unwrap()))
        }
        OWN => {
            *state.owner.lock() = Some(caller.address_space()?);
            Ok(IoctlReply::ok())
        }
        IS_OWNER => {
            let owner = state.owner.lock().clone().unwrap();
            Ok(IoctlReply::value(caller.same_address_space(&owner).into()))
        }
        READ => Ok(IoctlReply::value(i32::try_from(word(caller, call.arg)?).unwrap())),
        WRITE => {
            caller.write(call.arg, &7u64.to_le_bytes())?;
            Ok(IoctlReply::ok())
        }
        _ => Err(Errno::ENOTTY),
    });
    (mounted, seen)
}

fn ask_to_map(file: &File, addr: u64, len: usize, write: bool) -> Result<i32, Errno> {
    let request = [addr, u64::try_from(len).unwrap(), u64::from(write)];
    client::ioctl(file, MAP, request.as_ptr().expose_provenance())
}

/// Writes through every piece, as a device would.
fn scribble(pieces: &[Piece]) {
    for piece in pieces {
        match &piece.backing {
            Backing::Shared { memory, offset } => memory.slice().write_slice(b"device", *offset).unwrap(),
            Backing::Remote { memory, addr } => drop(memory.write(*addr, b"device")),
        }
    }
}

#[test]
fn shared_memory_is_used_in_place_and_private_memory_through_the_caller() {
    let (mounted, seen) = mounted();
    let path = mounted.path("dev");
    let (checked, mapped) = (Word::new(), Word::new());
    let (done, ready) = (&checked, &mapped);
    let client = Client::spawn(move || {
        let file = client::open(&path).unwrap();
        let (memory, _) = Memory::memfd(4 * PAGE);
        assert_eq!(ask_to_map(&file, memory.addr(), 4 * PAGE, true), Ok(4 * 4096));
        let (anonymous, private) = (Memory::anonymous(PAGE, true), Memory::anonymous(PAGE, false));
        assert_eq!(ask_to_map(&file, anonymous.addr(), PAGE, true), Ok(4096), "/dev/zero is shared memory too");
        assert_eq!(ask_to_map(&file, private.addr(), PAGE, true), Ok(0));
        assert_eq!(ask_to_map(&file, 0x1000, PAGE, true), Err(Errno::EFAULT), "nothing at all is there");
        assert_eq!(ask_to_map(&file, private.addr(), 0, true), Err(Errno::EINVAL));
        assert_eq!(ask_to_map(&file, u64::MAX - 100, PAGE, true), Err(Errno::EINVAL));
        // The last one stays mapped: a hole between two pages of a file in one range.
        let (holed, backing) = Memory::memfd(3 * PAGE);
        let hole = Memory { addr: holed.addr + PAGE, len: PAGE };
        hole.map_over(&backing, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
        holed.set(2 * PAGE, b"client");
        assert_eq!(ask_to_map(&file, holed.addr(), 3 * PAGE, true), Ok(2 * 4096));
        ready.set(1);
        done.wait_for(1);
        assert_eq!((holed.get(0), holed.get(2 * PAGE)), (b'd', b'd'));
    });
    mapped.wait_for(1);
    let pieces = std::mem::take(&mut *seen.pieces.lock());
    assert_eq!(pieces.len(), 3);
    let Backing::Shared { memory, offset } = &pieces[2].backing else { panic!() };
    let mut read = [0; 6];
    memory.slice().read_slice(&mut read, *offset).unwrap();
    assert_eq!(&read, b"client");
    scribble(&pieces);
    checked.set(1);
    client.join();
}

#[test]
fn m1_a_read_only_file_is_not_written() {
    let (mounted, seen) = mounted();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let secret = dir.path().join("root-owned");
    fs::write(&secret, vec![b'.'; PAGE]).unwrap();
    for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
        let (path, victim) = (mounted.path("dev"), secret.clone());
        Client::run(move || {
            client::become_user(65534);
            let device = client::open(&path).unwrap();
            let file = File::open(victim).unwrap();
            let memory = Memory::of(&file, PAGE, ProtFlags::PROT_READ, flags).unwrap();
            assert_eq!(ask_to_map(&device, memory.addr(), PAGE, true), Ok(0), "taken for writable memory");
            // Even mapped read-only it must not become writable here.
            let shared = ask_to_map(&device, memory.addr(), PAGE, false).unwrap();
            assert_eq!(shared != 0, flags == MapFlags::MAP_SHARED);
        });
        for piece in &*seen.pieces.lock() {
            if let Backing::Shared { memory, .. } = &piece.backing {
                let mode = nix::fcntl::fcntl(memory.fd(), nix::fcntl::FcntlArg::F_GETFL).unwrap();
                assert_eq!(mode & nix::libc::O_ACCMODE, nix::libc::O_RDONLY);
            }
        }
        assert_eq!(fs::read(&secret).unwrap(), vec![b'.'; PAGE]);
    }
}

#[test]
fn m1_private_memory_that_the_client_cannot_write_is_not_written() {
    let (mounted, seen) = mounted();
    let path = mounted.path("dev");
    let (checked, mapped) = (Word::new(), Word::new());
    let (done, ready) = (&checked, &mapped);
    let client = Client::spawn(move || {
        let device = client::open(&path).unwrap();
        let memory = Memory::anonymous(3 * PAGE, false);
        memory.set(PAGE, b"rom");
        Memory { addr: memory.addr + PAGE, len: PAGE }.protect(ProtFlags::PROT_READ);
        assert_eq!(ask_to_map(&device, memory.addr(), 3 * PAGE, true), Ok(0));
        ready.set(1);
        done.wait_for(1);
        assert_eq!([0, PAGE, 2 * PAGE].map(|at| memory.get(at)), [b'd', b'r', b'd']);
    });
    mapped.wait_for(1);
    let pieces: Vec<_> = seen.pieces.lock().clone();
    assert_eq!(pieces.iter().map(|piece| piece.len).collect::<Vec<_>>(), [4096; 3]);
    for (piece, written) in pieces.iter().zip([Ok(()), Err(Errno::EFAULT), Ok(())]) {
        let Backing::Remote { memory, addr } = &piece.backing else { panic!("private memory in place") };
        assert_eq!(memory.write(*addr, b"d"), written);
        memory.read(*addr, &mut [0]).unwrap();
    }
    checked.set(1);
    client.join();
}

#[test]
fn m1_a_private_mapping_of_a_writable_file_is_private_memory() {
    let (mounted, seen) = mounted();
    let path = mounted.path("dev");
    let (checked, mapped) = (Word::new(), Word::new());
    let (done, ready) = (&checked, &mapped);
    let client = Client::spawn(move || {
        let device = client::open(&path).unwrap();
        let (shown, file) = Memory::memfd(PAGE);
        let private = Memory::of(&file, PAGE, RW, MapFlags::MAP_PRIVATE).unwrap();
        assert_eq!(ask_to_map(&device, private.addr(), PAGE, true), Ok(0));
        ready.set(1);
        done.wait_for(1);
        assert_eq!((private.get(0), shown.get(0)), (b'd', 0));
    });
    mapped.wait_for(1);
    scribble(&seen.pieces.lock());
    checked.set(1);
    client.join();
}

#[test]
fn m1_a_mapping_that_is_swapped_during_the_call_yields_nothing_the_caller_had_not() {
    let (mounted, seen) = mounted();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let secret = dir.path().join("root-owned");
    fs::write(&secret, vec![b'.'; PAGE]).unwrap();
    // Of the same file system, so that nothing but the file itself tells them apart.
    let harmless = dir.path().join("the-clients-own");
    fs::write(&harmless, vec![0; PAGE]).unwrap();
    std::os::unix::fs::chown(&harmless, Some(65534), Some(65534)).unwrap();
    let (path, victim) = (mounted.path("dev"), secret.clone());
    let (turn, checked) = (Word::new(), Word::new());
    let (go, done) = (&turn, &checked);
    let client = Client::spawn(move || {
        client::become_user(65534);
        let device = client::open(&path).unwrap();
        let own = File::options().read(true).write(true).open(harmless).unwrap();
        let memory = Memory::of(&own, PAGE, RW, MapFlags::MAP_SHARED).unwrap();
        let file = File::open(victim).unwrap();
        std::thread::spawn(move || {
            loop {
                memory.map_over(&file, ProtFlags::PROT_READ, MapFlags::MAP_SHARED);
                memory.map_over(&own, RW, MapFlags::MAP_SHARED);
            }
        });
        for round in 1..=2000 {
            let _ = ask_to_map(&device, memory.addr(), PAGE, true);
            go.set(round);
            done.wait_for(round);
        }
    });
    for round in 1..=2000 {
        turn.wait_for(round);
        let pieces = std::mem::take(&mut *seen.pieces.lock());
        for piece in pieces.iter().filter(|p| matches!(p.backing, Backing::Shared { .. })) {
            scribble(std::slice::from_ref(piece));
        }
        checked.set(round);
    }
    client.join();
    assert_eq!(fs::read(&secret).unwrap(), vec![b'.'; PAGE]);
}

#[test]
fn m1_files_of_other_file_systems_are_private_memory() {
    let (mounted, _seen) = mounted();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = dir.path().join("file");
    fs::write(&file, vec![b'.'; PAGE]).unwrap();
    let kind = nix::sys::statfs::statfs(dir.path()).unwrap().filesystem_type();
    assert_ne!(kind, nix::sys::statfs::TMPFS_MAGIC, "this test needs a /var/tmp on disk");
    let path = mounted.path("dev");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        let file = File::options().read(true).write(true).open(file).unwrap();
        let memory = Memory::of(&file, PAGE, RW, MapFlags::MAP_SHARED).unwrap();
        assert_eq!(ask_to_map(&device, memory.addr(), PAGE, true), Ok(0));
    });
}

#[test]
fn m2_after_an_exec_the_new_program_is_out_of_reach() {
    let (mounted, seen) = mounted();
    let path = mounted.path("dev");
    let client = Client::spawn(move || {
        let device = client::open(&path).unwrap();
        let memory = Memory::anonymous(PAGE, false);
        assert_eq!(ask_to_map(&device, memory.addr(), PAGE, true), Ok(0));
        client::ioctl(&device, OWN, 0).unwrap();
        let sleep = c"/bin/sleep";
        nix::unistd::execv(sleep, &[sleep, c"30"]).unwrap();
    });
    eventually("the client runs another program", || {
        fs::read_to_string(format!("/proc/{}/comm", client.pid())).unwrap().trim() == "sleep"
    });
    let pieces = std::mem::take(&mut *seen.pieces.lock());
    let Backing::Remote { memory, addr } = &pieces[0].backing else { panic!() };
    assert_eq!(memory.read(*addr, &mut [0; 8]), Err(Errno::EFAULT));
    assert_eq!(memory.write(*addr, &[0; 8]), Err(Errno::EFAULT));
    assert!(!seen.owner.lock().as_ref().unwrap().is_alive());
}

#[test]
fn m2_an_owner_that_executed_another_program_is_the_owner_no_more() {
    // A program that inherits the descriptor and calls on it; even while the old memory lives on in a sleeper.
    for sleeper in [false, true] {
        let (mounted, _seen) = mounted();
        let path = mounted.path("dev");
        let command = format!("import fcntl; exit(40 + fcntl.ioctl(9, {IS_OWNER}))");
        let mut client = Client::spawn(move || {
            let device = client::open(&path).unwrap();
            client::ioctl(&device, OWN, 0).unwrap();
            assert_eq!(client::ioctl(&device, IS_OWNER, 0), Ok(1));
            std::thread::scope(|scope| {
                scope.spawn(|| assert_eq!(client::ioctl(&device, IS_OWNER, 0), Ok(1), "a thread of the owner"));
            });
            if sleeper {
                client::share_memory_with_a_sleeper();
            }
            client::keep_as(&device, 9);
            let args = ["python3", "-c", &command].map(|arg| std::ffi::CString::new(arg).unwrap());
            nix::unistd::execv(c"/usr/bin/python3", &args).unwrap();
        });
        let status = client.wait(std::time::Duration::from_secs(20)).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(client.pid()), 40));
    }
}

#[test]
fn m2_a_child_is_not_the_owner_and_a_reused_descriptor_does_not_make_it_one() {
    let (mounted, _seen) = mounted();
    let path = mounted.path("dev");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        client::ioctl(&device, OWN, 0).unwrap();
        let (number, inherited) = (device.as_raw_fd(), &device);
        assert!(number >= 0);
        let child = client::Client::spawn_keeping(|| {
            assert_eq!(client::ioctl(inherited, IS_OWNER, 0), Ok(0));
        });
        child.join();
        assert_eq!(client::ioctl(&device, IS_OWNER, 0), Ok(1));
    });
}

#[test]
fn m2_memory_of_a_dead_client_is_out_of_reach() {
    let (mounted, seen) = mounted();
    let path = mounted.path("dev");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        let memory = Memory::anonymous(PAGE, false);
        ask_to_map(&device, memory.addr(), PAGE, true).unwrap();
        client::ioctl(&device, OWN, 0).unwrap();
    });
    let pieces = std::mem::take(&mut *seen.pieces.lock());
    let Backing::Remote { memory, addr } = &pieces[0].backing else { panic!() };
    assert_eq!(memory.read(*addr, &mut [0; 8]), Err(Errno::EFAULT));
    let owner = seen.owner.lock().take().unwrap();
    assert!(!owner.is_alive());
    assert!(!Caller::current().same_address_space(&owner));
}

#[test]
fn arguments_are_read_and_written_whole_or_efault() {
    let (mounted, _seen) = mounted();
    let path = mounted.path("dev");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        let memory = Memory::anonymous(2 * PAGE, false);
        memory.set(0, &[5]);
        assert_eq!(client::ioctl(&device, READ, memory.addr), Ok(5));
        client::ioctl(&device, WRITE, memory.addr + 8).unwrap();
        assert_eq!(memory.get(8), 7);
        Memory { addr: memory.addr + PAGE, len: PAGE }.protect(ProtFlags::PROT_NONE);
        assert_eq!(client::ioctl(&device, READ, memory.addr + PAGE - 4), Err(Errno::EFAULT));
        assert_eq!(client::ioctl(&device, WRITE, memory.addr + PAGE - 4), Err(Errno::EFAULT));
        assert_eq!(client::ioctl(&device, READ, 0), Err(Errno::EFAULT));
        assert_eq!(client::ioctl(&device, READ, usize::MAX - 3), Err(Errno::EFAULT));
        assert_eq!(client::ioctl(&device, WRITE, usize::MAX - 3), Err(Errno::EFAULT));
        memory.protect(ProtFlags::PROT_READ);
        assert_eq!(client::ioctl(&device, WRITE, memory.addr), Err(Errno::EFAULT), "the caller may not write there");
    });
}

#[test]
fn m3_a_caller_outside_our_pid_namespace_is_refused() {
    // The server lives in a pid namespace of its own; this process looks in from outside.
    let shared = tempfile::tempdir().unwrap();
    let root = shared.path().to_owned();
    let (ready, done) = (Word::new(), Word::new());
    let server = Client::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).unwrap();
        let inner = Client::spawn(|| {
            let fuse = devnode::mount(&root).unwrap();
            let tree = devnode::Tree::new();
            let device = common::Device::silent();
            tree.device(tree.root(), "dev", 0o666, Arc::new(device)).unwrap();
            let attribute = Arc::new(common::Kept::default());
            tree.attribute(tree.root(), "attribute", 0o666, attribute).unwrap();
            let _server = devnode::Server::start(tree, fuse, devnode::ServerConfig::default()).unwrap();
            ready.set(1);
            done.wait_for(1);
        });
        inner.join();
    });
    ready.wait_for(1);
    let opened = client::open(&root.join("dev"));
    let read = fs::read_to_string(root.join("attribute"));
    let written = fs::write(root.join("attribute"), "x");
    devnode::unmount(&root).unwrap();
    done.set(1);
    server.join();
    assert_eq!(opened.unwrap_err(), Errno::EPERM);
    assert_eq!(read.unwrap(), "\n");
    assert_eq!(written.unwrap_err().raw_os_error(), Some(Errno::EPERM as i32));
}

#[test]
fn m4_device_files_cannot_be_mapped_shared() {
    let (mounted, _seen) = mounted();
    let path = mounted.path("dev");
    Client::run(move || {
        let device = client::open(&path).unwrap();
        for prot in [ProtFlags::PROT_READ, RW] {
            let mapped = Memory::of(&device, PAGE, prot, MapFlags::MAP_SHARED);
            assert_eq!(mapped.map(|memory| memory.len), Err(Errno::ENODEV));
        }
    });
}

#[test]
fn reads_and_writes_of_a_device_keep_their_offsets() {
    let (mounted, _seen) = mounted();
    let path = mounted.path("dev");
    Client::run(move || {
        use std::os::unix::fs::FileExt;
        let mut device = client::open(&path).unwrap();
        let mut bytes = [0; 8];
        device.read_exact_at(&mut bytes, 5 << 40).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 5 << 40);
        device.write_all(&[0; 72]).unwrap();
        assert_eq!(device.write_at(&[0; 8], 0xdead).unwrap_err().raw_os_error(), Some(Errno::ENOSPC as i32));
    });
}
