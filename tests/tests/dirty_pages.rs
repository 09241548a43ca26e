//! The pages that a container reports as written, against those that its devices changed.

use nix::errno::Errno;
use std::fs;
use std::ops::Range;
use std::time::Duration;
use umdev_tests::driver::abi::*;
use umdev_tests::driver::memory::{BUFFER_ROOM, IOVA, Memory};
use umdev_tests::driver::{Client, Container, Daemon, Descriptor, Group, HEADER, Options, Via, new_uuid};

const START: u32 = VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
const STOP: u32 = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
const PAGE: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(20);
/// Memory that is mapped and unmapped all the time.
const FAR: u64 = 1 << 40;
const FAR_PAGES: usize = 32;

fn container(client: &Client) -> &Container {
    &client.vfio.as_ref().unwrap().1
}

/// Where the device writes, in a driver's memory: used rings and receive buffers. No page of these is the driver's to
/// write.
fn device_writes(client: &Client) -> [Range<usize>; 3] {
    let used = |offset: usize| offset..offset + PAGE;
    let buffers = client.rx.buffer(0);
    [
        used(client.rx.used_offset()),
        used(client.tx.used_offset()),
        buffers..buffers + usize::from(client.rx.size) * BUFFER_ROOM,
    ]
}

/// Who tells what was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Teller {
    /// The container: VFIO_IOMMU_DIRTY_PAGES, and unmaps with a bitmap.
    Container,
    /// The device: VFIO_DEVICE_FEATURE_DMA_LOGGING_*.
    Device,
}

impl Teller {
    fn start(self, client: &Client, far: &Memory) {
        match self {
            Self::Container => container(client).track(START).unwrap(),
            Self::Device => {
                let ranges = [(IOVA, client.memory.size()), (FAR, far.size())];
                client.device().unwrap().log_start(&ranges).unwrap();
            }
        }
    }

    fn dirty(self, client: &Client) -> Vec<u64> {
        match self {
            Self::Container => container(client).dirty(IOVA, client.memory.size()).unwrap(),
            Self::Device => client.device().unwrap().log_report(IOVA, client.memory.size()).unwrap(),
        }
    }

    /// Unmaps the far memory: what was written there.
    fn unmap_far(self, client: &Client, far: &Memory) -> Vec<u64> {
        match self {
            Self::Container => {
                let (bytes, dirty) = container(client).unmap_dirty(FAR, far.size()).unwrap();
                assert_eq!(bytes, far.size());
                dirty
            }
            Self::Device => {
                assert_eq!(container(client).unmap(FAR, far.size()), Ok(far.size()));
                client.device().unwrap().log_report(FAR, far.size()).unwrap()
            }
        }
    }
}

/// A copy of a driver's memory, kept by what is reported.
struct Copy {
    teller: Teller,
    bytes: Vec<u8>,
    far: Vec<u8>,
}

impl Copy {
    fn begin(client: &Client, far: &Memory, teller: Teller) -> Self {
        teller.start(client, far);
        let mut copy = Self { teller, bytes: vec![0; client.memory.len()], far: vec![0; far.len()] };
        client.memory.read(0, &mut copy.bytes);
        far.read(0, &mut copy.far);
        copy
    }

    fn update(&mut self, client: &Client) {
        let dirty = self.teller.dirty(client);
        take_pages(&mut self.bytes, &client.memory, dirty);
    }

    /// The pages that are not as in memory, of those that the device writes.
    fn wrong(&self, client: &Client) -> usize {
        let mut now = vec![0; client.memory.len()];
        client.memory.read(0, &mut now);
        let pages = device_writes(client).into_iter().flat_map(|range| range.step_by(PAGE));
        pages.filter(|&at| now[at..at + PAGE] != self.bytes[at..at + PAGE]).count()
    }
}

fn take_pages(copy: &mut [u8], memory: &Memory, dirty: Vec<u64>) {
    for page in dirty {
        let at = usize::try_from(page).unwrap() * PAGE;
        memory.read(at, &mut copy[at..at + PAGE]);
    }
}

/// The next frame is received into page `page` of the far memory, which is there for this frame alone. How many pages of
/// it are wrong in the copy.
fn receive_far(client: &mut Client, far: &Memory, page: usize, frame: &[u8], copy: &mut Copy) -> usize {
    container(client).map(FAR, far.size(), far.address()).unwrap();
    let addr = FAR + u64::try_from(page * PAGE).unwrap();
    let len = u32::try_from(BUFFER_ROOM).unwrap();
    let head = client.receive_into(Descriptor { addr, len, flags: VIRTQ_DESC_F_WRITE, next: 0 }).unwrap();
    client.send(frame).unwrap();
    let used = client.rx.wait(PATIENCE, "a frame in the far memory").unwrap();
    assert_eq!(used.id, u32::from(head));
    let dirty = copy.teller.unmap_far(client, far);
    take_pages(&mut copy.far, far, dirty);
    let mut received = vec![0; frame.len()];
    far.read(page * PAGE + HEADER, &mut received);
    assert_eq!(received, frame);
    let mut now = vec![0; far.len()];
    far.read(0, &mut now);
    client.rx.write_descriptor(head, client.receive_buffer(head));
    client.rx.offer(head);
    client.rx.notify().unwrap();
    now.chunks(PAGE).zip(copy.far.chunks(PAGE)).filter(|(now, copy)| now != copy).count()
}

/// Frames of random lengths, memory that comes and goes, and a copy that is kept meanwhile: its wrong pages.
fn copy_during_traffic(daemon: &Daemon, uuid: &str, teller: Teller) -> usize {
    let via = if teller == Teller::Device { Via::Device } else { Via::Container };
    let mut client =
        Client::start(daemon.root(), uuid, Options { via, receive_buffers: 1, ..Options::default() }).unwrap();
    let far = Memory::of_size(FAR_PAGES * PAGE).unwrap();
    // Traffic before the copy begins: the device does not start with the tracking.
    client.exchange(&[1; 100]).unwrap();
    let mut copy = Copy::begin(&client, &far, teller);
    let (mut wrong, mut random) = (0, 12345u32);
    for round in 0..150u32 {
        random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let frame = vec![round.to_le_bytes()[0]; 60 + usize::try_from(random >> 16).unwrap() % 1400];
        match round % 5 {
            0 => {
                wrong +=
                    receive_far(&mut client, &far, usize::try_from(random >> 8).unwrap() % FAR_PAGES, &frame, &mut copy)
            }
            1 => copy.update(&client),
            _ => client.exchange(&frame).unwrap(),
        }
    }
    client.vhost.suspend().unwrap();
    copy.update(&client);
    wrong + copy.wrong(&client)
}

#[test]
fn a_copy_kept_by_the_reported_pages_is_right() {
    let daemon = Daemon::start();
    assert_eq!(copy_during_traffic(&daemon, &daemon.create(), Teller::Container), 0);
}

#[test]
fn f36_a_copy_kept_by_the_pages_that_the_device_itself_reports_is_right() {
    let daemon = Daemon::start();
    assert_eq!(copy_during_traffic(&daemon, &daemon.create(), Teller::Device), 0);
}

#[test]
fn a_device_that_does_not_report_what_it_writes_is_caught() {
    assert!(copy_of_an_unlogged_device(Teller::Container) > 0);
}

#[test]
fn f36_a_device_that_does_not_log_what_it_writes_is_caught() {
    assert!(copy_of_an_unlogged_device(Teller::Device) > 0);
}

fn copy_of_an_unlogged_device(teller: Teller) -> usize {
    let daemon = Daemon::with(&["--parent", "faulty"]);
    let uuid = new_uuid();
    let kind = daemon.path("sys/class/mdev_bus/faulty0/mdev_supported_types/faulty-net");
    fs::write(kind.join("create"), &uuid).unwrap();
    fs::write(daemon.instance_dir(&uuid).join("faults/unlogged"), "1").unwrap();
    copy_during_traffic(&daemon, &uuid, teller)
}

#[test]
fn an_instance_that_joins_the_container_later_is_tracked_too() {
    let daemon = Daemon::start();
    let mut first = Client::start(daemon.root(), &daemon.create(), Options::default()).unwrap();
    container(&first).track(START).unwrap();
    first.exchange(&[1; 100]).unwrap();
    // Both drivers have their rings at the same addresses, so one makes room for the other.
    first.vhost.set_status(0).unwrap();
    let (_, dirty) = container(&first).unmap_dirty(IOVA, first.memory.size()).unwrap();
    check(&first, &dirty);

    let uuid = daemon.create();
    let group = Group::open(daemon.root(), &uuid).unwrap();
    group.set_container(container(&first)).unwrap();
    let options = Options { via: Via::Iotlb, ..Options::default() };
    let mut second = Client::open_unmapped(daemon.root(), &uuid, options, Memory::new().unwrap()).unwrap();
    container(&first).map(IOVA, second.memory.size(), second.memory.address()).unwrap();
    second.run().unwrap();
    second.exchange(&[2; 300]).unwrap();
    check(&second, &container(&first).dirty(IOVA, second.memory.size()).unwrap());
    container(&first).track(STOP).unwrap();
    let refused = container(&first).dirty(IOVA, second.memory.size()).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::EINVAL));
}

/// One frame was exchanged: the device wrote its used rings and the first receive buffer, and nothing else.
#[track_caller]
fn check(client: &Client, dirty: &[u64]) {
    let offsets = [client.rx.used_offset(), client.tx.used_offset(), client.rx.buffer(0)];
    assert_eq!(dirty, offsets.map(|offset| u64::try_from(offset / PAGE).unwrap()));
}

#[test]
fn f36_a_bitmap_that_the_client_cannot_write_is_efault_and_loses_nothing() {
    let daemon = Daemon::start();
    let mut client = Client::start(daemon.root(), &daemon.create(), Options::default()).unwrap();
    container(&client).track(START).unwrap();
    client.exchange(&[3; 100]).unwrap();
    let read_only = Memory::of_size(PAGE).unwrap();
    read_only.make_read_only().unwrap();
    for data in [0x1000, read_only.address()] {
        let refused = container(&client).dirty_at(IOVA, client.memory.size(), 128, data).unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::EFAULT), "{data:#x}");
    }
    let dirty = container(&client).dirty(IOVA, client.memory.size()).unwrap();
    assert!(dirty.contains(&u64::try_from(client.rx.buffer(0) / PAGE).unwrap()), "{dirty:?}");
}
