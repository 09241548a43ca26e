//! What a VFIO container and an IOAS cost: maps when there are tens of thousands, and the pages written in a large address space.

use crate::bench::iotlb::{Line, line};
use crate::bench::samples::{median, micros, timed};
use serde::Serialize;
use std::time::Duration;
use umdev_tests::driver::abi::{VFIO_IOMMU_DIRTY_PAGES_FLAG_START, VIRTQ_DESC_F_WRITE};
use umdev_tests::driver::iommufd::Iommufd;
use umdev_tests::driver::{Client, Container, Daemon, Descriptor, Device, Memory, Options};

/// All that a container can hold.
pub const ENTRIES: u64 = 65_535;
const PAGE: u64 = 4096;
const FIRST: u64 = 1 << 40;
/// The address space that pages are written in.
const SPACE: u64 = 64 << 30;
const ROUNDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// The pages of an address space are collected.
#[derive(Debug, Serialize)]
pub struct Dirty {
    /// How large the address space is.
    pub gib: u64,
    /// How many pages were written, far from each other.
    pub pages: usize,
    /// Median with those.
    pub dirty_us: f64,
    /// Median with none.
    pub clean_us: f64,
}

fn container(client: &Client) -> &Container {
    &client.vfio.as_ref().expect("a driver with a container").1
}

/// MAP_DMA and UNMAP_DMA of each entry, as they are and while dirty pages are tracked.
pub fn measure(daemon: &Daemon) -> Vec<Line> {
    let uuid = daemon.create();
    let memory = Memory::new().expect("memory");
    let client = Client::open_unmapped(daemon.root(), &uuid, Options::default(), memory).expect("a driver");
    let pages = client.memory.size() / PAGE;
    let map = |entry: u64| {
        let address = client.memory.address() + entry * 2 % pages * PAGE;
        container(&client).map(FIRST + entry * PAGE, PAGE, address).expect("map");
    };
    let unmap = |entry: u64| assert_eq!(container(&client).unmap(FIRST + entry * PAGE, PAGE).expect("unmap"), PAGE);
    let mut lines = vec![
        line("VFIO MAP_DMA of a page, 65,535 entries", None, ENTRIES, &map),
        line("VFIO UNMAP_DMA, 65,535 entries", None, ENTRIES, &unmap),
    ];
    container(&client).track(VFIO_IOMMU_DIRTY_PAGES_FLAG_START).expect("track");
    lines.push(line("VFIO MAP_DMA of a page, pages tracked", None, ENTRIES, &map));
    lines.push(line("VFIO UNMAP_DMA, pages tracked", None, ENTRIES, &unmap));
    drop(client);
    daemon.remove(&uuid, "1").expect("remove");
    lines
}

/// IOAS_MAP and IOAS_UNMAP of each entry, at addresses of the driver's choice and of the daemon's.
pub fn measure_ioas(daemon: &Daemon) -> Vec<Line> {
    let uuid = daemon.create();
    let memory = Memory::new().expect("memory");
    let (iommufd, device) = (Iommufd::open(daemon.root()), Device::by_cdev(daemon.root(), &uuid));
    let (iommufd, device) = (iommufd.expect("dev/iommu"), device.expect("a device"));
    let ioas = iommufd.alloc().expect("an IOAS");
    device.bind(&iommufd).expect("bind");
    device.attach(ioas).expect("attach");
    let address = |entry: u64| memory.address() + entry * 2 % (memory.size() / PAGE) * PAGE;
    let map = |entry| _ = iommufd.map(ioas, Some(FIRST + entry * PAGE), PAGE, address(entry)).expect("map");
    let unmap = |entry| assert_eq!(iommufd.unmap(ioas, FIRST + entry * PAGE, PAGE).expect("unmap"), PAGE);
    let anywhere = |entry| _ = iommufd.map(ioas, None, PAGE, address(entry)).expect("map");
    let lines = vec![
        line("IOAS_MAP of a page, 65,535 entries", None, ENTRIES, &map),
        line("IOAS_UNMAP, 65,535 entries", None, ENTRIES, &unmap),
        line("IOAS_MAP of a page anywhere, 65,535 entries", None, ENTRIES, &anywhere),
    ];
    drop((device, iommufd));
    daemon.remove(&uuid, "1").expect("remove");
    lines
}

/// The bitmap of 64 GiB, with pages that the device received frames into, and without.
pub fn measure_dirty(daemon: &Daemon) -> Dirty {
    let uuid = daemon.create();
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).expect("a driver");
    let far = Memory::of_size(usize::try_from(SPACE).expect("64 bits")).expect("memory");
    container(&client).map(FIRST, far.size(), far.address()).expect("map");
    let buffers = client.rx.size;
    for at in 0..buffers {
        let addr = FIRST + SPACE / u64::from(buffers) * u64::from(at);
        client.rx.write_descriptor(at, Descriptor { addr, len: 4096, flags: VIRTQ_DESC_F_WRITE, next: 0 });
    }
    // What the device had before has no page of the far memory.
    receive(&mut client, buffers);
    container(&client).track(VFIO_IOMMU_DIRTY_PAGES_FLAG_START).expect("track");
    let mut bitmap = vec![0u64; usize::try_from(SPACE / PAGE / 64).expect("64 bits")];
    let (mut dirty, mut clean) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        receive(&mut client, buffers);
        for (times, pages) in [(&mut dirty, u32::from(buffers)), (&mut clean, 0)] {
            times.push(timed(|| collect(&client, &mut bitmap)).1);
            let found: u32 = std::hint::black_box(&bitmap).iter().map(|word| word.count_ones()).sum();
            assert_eq!(found, pages, "pages that were written");
        }
    }
    drop(client);
    daemon.remove(&uuid, "1").expect("remove");
    let [dirty_us, clean_us] = [dirty, clean].map(|times| micros(median(&times)));
    Dirty { gib: SPACE >> 30, pages: usize::from(buffers), dirty_us, clean_us }
}

/// Each buffer is filled once and given back.
fn receive(client: &mut Client, buffers: u16) {
    for _ in 0..buffers {
        client.send(&[1; 64]).expect("send");
        let used = client.rx.wait(PATIENCE, "a frame").expect("a frame");
        client.rx.offer(u16::try_from(used.id).expect("a descriptor"));
        client.rx.notify().expect("notify");
    }
}

fn collect(client: &Client, bitmap: &mut [u64]) {
    let (data, len) = (bitmap.as_mut_ptr().expose_provenance(), size_of_val(bitmap));
    let number = |size: usize| u64::try_from(size).expect("64 bits");
    container(client).dirty_at(FIRST, SPACE, number(len), number(data)).expect("the bitmap");
}
