//! Every kind of memory a client can have, mapped before or on demand, and the log of what a device writes to it.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use umdev_tests::driver::abi::*;
use umdev_tests::driver::memory::{BUFFER_ROOM, IOVA, QUEUE_ROOM, SIZE};
use umdev_tests::driver::sys::Map;
use umdev_tests::driver::{CallResult, Client, Daemon, Descriptor, HEADER, Memory, Options, Via, eventually};

const PAGE: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(20);
const IOTLB: Options = Options { via: Via::Iotlb, ..Options::DEFAULT };

fn len() -> NonZeroUsize {
    NonZeroUsize::new(SIZE).unwrap()
}

fn shared(file: impl AsFd) -> Map {
    Map::of(file, len(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED).unwrap()
}

fn memfd(flags: MFdFlags) -> File {
    let file = File::from(memfd_create(c"client", flags).unwrap());
    file.set_len(u64::try_from(SIZE).unwrap()).unwrap();
    file
}

/// Frames of all sizes through rings and buffers in `map`, by one UPDATE and by one MAP_DMA of all of it.
fn frames_pass(map: impl Fn() -> Map) {
    let daemon = Daemon::start();
    for via in [Via::Iotlb, Via::Container] {
        let uuid = daemon.create();
        let options = Options { via, ..IOTLB };
        let memory = Memory::of_map(map()).unwrap();
        let mut client = Client::open_unmapped(daemon.root(), &uuid, options, memory).unwrap();
        client.map_memory().unwrap();
        client.run().unwrap();
        for size in [60, 1514, 61, 777] {
            client.exchange(&vec![u8::try_from(size % 251).unwrap(); size]).unwrap();
        }
    }
}

#[test]
fn frames_pass_through_heap_memory() {
    frames_pass(|| Map::private(len()).unwrap());
}

#[test]
fn frames_pass_through_shared_memory_of_dev_zero() {
    frames_pass(|| shared(File::options().read(true).write(true).open("/dev/zero").unwrap()));
}

#[test]
fn frames_pass_through_one_map_over_many_mappings_and_files() {
    frames_pass(|| {
        let mut map = shared(memfd(MFdFlags::empty()));
        let (other, zero) = (memfd(MFdFlags::empty()), File::options().read(true).write(true).open("/dev/zero"));
        let zero = zero.unwrap();
        // Borders within rings and buffers, and single pages among them.
        for (turn, at) in (0..SIZE).step_by(13 * PAGE).enumerate() {
            let fd = [Some(other.as_fd()), None, Some(zero.as_fd())][turn % 3];
            map.cover(at, (3 * PAGE).min(SIZE - at), fd).unwrap();
        }
        map
    });
}

/// Lets the thread beside finish when the test does, well or not.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sees to it that the kernel has so many free huge pages; takes its own back when dropped.
struct HugePages(u64);

impl HugePages {
    const NUMBER: &str = "/proc/sys/vm/nr_hugepages";

    fn reserve(pages: u64) -> Option<Self> {
        let figure = |name: &str| {
            let text = fs::read_to_string("/proc/meminfo").unwrap();
            text.lines().find_map(|line| line.strip_prefix(name)?.trim_start_matches(':').trim().parse::<u64>().ok())
        };
        let before: u64 = fs::read_to_string(Self::NUMBER).ok()?.trim().parse().ok()?;
        fs::write(Self::NUMBER, (before + pages).to_string()).ok()?;
        let reserved = Self(before);
        (figure("HugePages_Free")? >= pages).then_some(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::NUMBER, self.0.to_string());
    }
}

/// Where the kernel has no huge pages to give, memory of tmpfs in huge pages takes their place: other sizes of pages in the
/// page tables, but not hugetlbfs.
#[test]
fn frames_pass_through_huge_pages() {
    let pages = 2 * u64::try_from(SIZE).unwrap() / (2 << 20);
    let reserved = HugePages::reserve(pages);
    let flags = if reserved.is_some() {
        MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB
    } else {
        eprintln!("no huge pages on this machine: memory of tmpfs instead");
        MFdFlags::empty()
    };
    frames_pass(|| shared(memfd(flags)));
}

#[test]
fn a_device_reads_rom_and_does_not_write_it() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let mut client = Client::open(daemon.root(), &uuid, IOTLB).unwrap();
    let rom = Map::private(NonZeroUsize::new(2 * PAGE).unwrap()).unwrap();
    rom.write(HEADER, b"from read-only memory, sixty bytes or a little more than that");
    rom.make_read_only().unwrap();
    let page = u64::try_from(PAGE).unwrap();
    let at = IOVA + client.memory.size();
    client.vhost.iotlb_update_read_only(at, page, rom.address()).unwrap();
    // For reading and writing, which is more than the client itself may.
    client.vhost.iotlb_update(at + page, page, rom.address() + page).unwrap();
    client.run().unwrap();
    let frame = 60;
    let len = u32::try_from(HEADER + frame).unwrap();
    client.tx.write_descriptor(0, Descriptor { addr: at, len, flags: 0, next: 0 });
    client.tx.offer(0);
    client.tx.notify().unwrap();
    let received = client.receive(PATIENCE).unwrap();
    assert_eq!(received.len(), frame);
    assert_eq!(received[..22], *b"from read-only memory,");

    // The next frame goes to a buffer that is not the device's to write.
    let mut answer = [0; PAGE];
    client.vhost.set_status(0).unwrap();
    client.rx.restart();
    client.tx.restart();
    client.negotiate().unwrap();
    client.program(&client.rx).unwrap();
    client.program(&client.tx).unwrap();
    let err = nix::sys::eventfd::EventFd::from_flags(nix::sys::eventfd::EfdFlags::EFD_NONBLOCK).unwrap();
    client.vhost.set_vring_fd(VHOST_SET_VRING_ERR, 0, &err).unwrap();
    client.vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK).unwrap();
    let room = u32::try_from(BUFFER_ROOM).unwrap();
    client.rx.write_descriptor(0, Descriptor { addr: at + page, len: room, flags: VIRTQ_DESC_F_WRITE, next: 0 });
    client.rx.offer(0);
    client.rx.notify().unwrap();
    client.queue(&[7; 60]);
    client.tx.notify().unwrap();
    assert!(eventually(PATIENCE, || client.vhost.status().unwrap() & NEEDS_RESET != 0), "the write was taken");
    rom.read(PAGE, &mut answer);
    assert_eq!(answer, [0; PAGE]);
    assert!(eventually(PATIENCE, || err.read().is_ok()), "whoever waits for errors of the ring was not told");
}

#[test]
fn frames_pass_through_memory_that_is_mapped_on_demand() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let memory = Memory::new().unwrap();
    let mut client = Client::open_unmapped(daemon.root(), &uuid, IOTLB, memory).unwrap();
    client.vhost.set_backend_features(VHOST_BACKEND_F_IOTLB_MSG_V2).unwrap();
    let mut file = client.vhost.0.try_clone().unwrap();
    let (address, end) = (client.memory.address(), IOVA + client.memory.size());
    let readable = |file: &File, limit: u16| {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(limit)).unwrap() == 1
    };
    // Who polls for input answers misses.
    assert!(!readable(&file, 0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = Finish(&done);
        let vhost = umdev_tests::driver::Vhost(client.vhost.0.try_clone().unwrap());
        let done = &done;
        let answers = scope.spawn(move || {
            let mut pages = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                if !readable(&file, 20) {
                    continue;
                }
                let mut message = [0; VHOST_MSG_SIZE];
                assert_eq!(file.read(&mut message).unwrap(), VHOST_MSG_SIZE);
                assert_eq!((message[0], message[33]), (2, 1), "a miss of version 2");
                let iova = u64::from_le_bytes(message[8..16].try_into().unwrap()) & !0xfff;
                assert!((IOVA..end).contains(&iova), "{iova:#x}");
                assert!(pages.insert(iova), "asked twice for {iova:#x}");
                vhost.iotlb_update(iova, 4096, address + (iova - IOVA)).unwrap();
            }
            pages.len()
        });
        client.run().unwrap();
        for turn in 0..20u8 {
            client.exchange(&vec![turn; 60 + usize::from(turn) * 70]).unwrap();
        }
        drop(asking);
        // Parts of two rings, and at least one buffer for every frame and way.
        let pages = answers.join().unwrap();
        assert!((40..400).contains(&pages), "{pages} pages");
    });
    assert_eq!(client.vhost.status().unwrap() & NEEDS_RESET, 0);
}

#[test]
fn a_device_that_waits_for_memory_can_be_suspended_reset_and_closed() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    for ending in 0..3 {
        let memory = Memory::new().unwrap();
        let mut client = Client::open_unmapped(daemon.root(), &uuid, IOTLB, memory).unwrap();
        let mut fds = [PollFd::new(client.vhost.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap();
        client.run().unwrap();
        let mut fds = [PollFd::new(client.vhost.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)), Ok(1), "nothing was missed");
        match ending {
            0 => client.vhost.suspend().unwrap(),
            1 => client.vhost.set_status(0).unwrap(),
            _ => {}
        }
    }
}

/// The pages of the bitmap that are set.
fn logged(bitmap: &Map) -> BTreeSet<usize> {
    let mut bytes = vec![0; bitmap.len()];
    bitmap.read(0, &mut bytes);
    (0..8 * bytes.len()).filter(|page| bytes[page / 8] & 1 << (page % 8) != 0).collect()
}

/// What the device writes is in the log, and nothing else is, while maps come and go beside it.
fn the_log_is_what_was_written(via: Via, bitmap: &Map) {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let mut client = Client::start(daemon.root(), &uuid, Options { via, ..IOTLB }).unwrap();
    client.vhost.set_log_base(bitmap.address()).unwrap();
    client.vhost.set_features(VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | VHOST_F_LOG_ALL).unwrap();
    for ring in [&client.rx, &client.tx] {
        let (desc, avail, used) = ring.addresses();
        client.vhost.set_vring_addr_logged(ring.index, [desc, avail, used], Some(used)).unwrap();
    }
    let mut before = vec![0; SIZE];
    client.memory.read(0, &mut before);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _asking = Finish(&done);
        let vhost = umdev_tests::driver::Vhost(client.vhost.0.try_clone().unwrap());
        let (done, address, beside) = (&done, client.memory.address(), IOVA + client.memory.size());
        if via == Via::Iotlb {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    vhost.iotlb_update(beside, 0x10_0000, address).unwrap();
                    vhost.iotlb_invalidate(beside, 0x10_0000).unwrap();
                }
            });
        }
        for turn in 1..=100u8 {
            client.exchange(&vec![turn; 60 + usize::from(turn) * 13]).unwrap();
        }
    });
    client.vhost.suspend().unwrap();
    let mut after = vec![0; SIZE];
    client.memory.read(0, &mut after);
    // What the driver itself writes is not the device's: descriptors, what it makes available, what it sends.
    let first_sent = client.tx.buffer(0);
    let of_device = |at: usize| {
        let used =
            [&client.rx, &client.tx].iter().any(|ring| (ring.used_offset()..ring.used_offset() + PAGE).contains(&at));
        used || (at >= 2 * QUEUE_ROOM && at < first_sent)
    };
    let changed = (0..SIZE).step_by(PAGE).filter(|&at| of_device(at) && before[at..at + PAGE] != after[at..at + PAGE]);
    let first = usize::try_from(IOVA).unwrap() / PAGE;
    let changed: BTreeSet<usize> = changed.map(|at| first + at / PAGE).collect();
    assert!(changed.len() > 100, "{} pages", changed.len());
    assert_eq!(logged(bitmap), changed);
}

#[test]
fn f36_the_log_is_exactly_what_a_device_wrote_while_maps_come_and_go() {
    let private = || Map::private(NonZeroUsize::new(PAGE).unwrap()).unwrap();
    the_log_is_what_was_written(Via::Iotlb, &private());
    the_log_is_what_was_written(Via::Container, &private());
    the_log_is_what_was_written(Via::Iotlb, &shared(memfd(MFdFlags::empty())));
}

#[test]
fn f36_a_log_that_is_truncated_stops_its_device_alone() {
    let daemon = Daemon::start();
    let uuids = [daemon.create(), daemon.create()];
    let [mut client, mut other] = uuids.clone().map(|uuid| Client::start(daemon.root(), &uuid, IOTLB).unwrap());
    let file = memfd(MFdFlags::empty());
    let bitmap = shared(&file);
    client.vhost.set_log_base(bitmap.address()).unwrap();
    client.vhost.set_features(VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | VHOST_F_LOG_ALL).unwrap();
    client.exchange(&[1; 60]).unwrap();
    file.set_len(0).unwrap();
    client.queue(&[2; 60]);
    client.tx.notify().unwrap();
    assert!(eventually(PATIENCE, || client.vhost.status().unwrap() & NEEDS_RESET != 0));
    assert!(daemon.log().contains("the memory of the dirty log is gone"), "{}", daemon.log());
    other.exchange(&[3; 60]).unwrap();
}

#[test]
fn f36_memory_that_cannot_be_written_is_no_log() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let client = Client::open(daemon.root(), &uuid, IOTLB).unwrap();
    let rom = Map::private(NonZeroUsize::new(PAGE).unwrap()).unwrap();
    client.vhost.set_log_base(rom.address()).unwrap();
    rom.make_read_only().unwrap();
    for address in [rom.address(), 0, 4096, u64::MAX] {
        let refused = client.vhost.set_log_base(address).unwrap_err();
        assert!(refused.to_string().contains("EFAULT"), "{refused}");
    }
}

#[test]
fn f36_a_log_that_is_too_small_or_at_no_address_for_one_is_refused() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let mut client = Client::start(daemon.root(), &uuid, IOTLB).unwrap();
    // A page, and behind it one that is not the device's to write.
    let mut bitmap = Map::private(NonZeroUsize::new(2 * PAGE).unwrap()).unwrap();
    bitmap.make_read_only().unwrap();
    bitmap.cover(0, PAGE, None).unwrap();
    let end = bitmap.address() + 4096;
    let top = IOVA + client.memory.size();
    let needed = top / 4096 / 8;
    let refused = |result: CallResult<()>| result.expect_err("to be refused").errno();
    assert_eq!(refused(client.vhost.set_log_base(end - needed + 1)), Some(Errno::EFAULT));
    // No alignment is asked for.
    client.vhost.set_log_base(end - needed).unwrap();
    client.vhost.set_features(VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | VHOST_F_LOG_ALL).unwrap();
    // What the log has no room for is not mapped.
    assert_eq!(refused(client.vhost.iotlb_update(top, 8 * 4096, client.memory.address())), Some(Errno::EFAULT));
    let (desc, avail, used) = client.tx.addresses();
    for log in [used + 1, used + 2, top + 8 * 4096, u64::MAX - 3] {
        let logged = client.vhost.set_vring_addr_logged(1, [desc, avail, used], Some(log));
        assert_eq!(refused(logged), Some(Errno::EINVAL), "{log:#x}");
    }
    client.exchange(&[1; 60]).unwrap();
    assert!(!logged(&bitmap).is_empty());
}
