//! rust-vmm's VFIO client, `vfio-ioctls`, by a device's own node and iommufd. It has fixed paths for them: in a mount name space
//! of its own those are the tree's. Nothing else helps it.

use iommufd_bindings::iommufd::{
    iommu_ioas_map, iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA as FIXED,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE as READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE as WRITEABLE,
};
use iommufd_ioctls::{IommuFd, IommufdIoas};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::mman::{MapFlags, ProtFlags};
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use umdev_tests::driver::abi::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, VIRTQ_DESC_F_WRITE};
use umdev_tests::driver::abi::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1};
use umdev_tests::driver::memory::BUFFER_ROOM;
use umdev_tests::driver::sys::Map;
use umdev_tests::driver::{Client, Daemon, Descriptor, HEADER, Memory, Ring, Used, Vhost, eventually};
use vfio_ioctls::{VfioDevice, VfioIommufd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: u16 = 64;
/// A region: a page a queue.
const DOORBELLS: u32 = 0;
/// A region: virtio's.
const CONFIG: u32 = 1;
/// VFIO_REGION_INFO_FLAG_WRITE and _MMAP.
const WRITE: u32 = 2;
const MMAP: u32 = 4;
/// An index of interrupts: one a queue.
const QUEUES: u32 = 0;
/// An index of interrupts: that of the configuration.
const CONFIG_IRQ: u32 = 1;

/// Runs a client of the kernel's paths, which are the tree's for it and for no other.
fn with_kernel_paths(daemon: &Daemon, client: impl FnOnce() + Send) {
    let enter_and_run = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount name space needs root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).unwrap();
        mount(Some("dev"), "/dev", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        fs::create_dir("/dev/vfio").unwrap();
        File::create("/dev/iommu").unwrap();
        for path in ["dev/vfio", "dev/iommu"] {
            mount(Some(&daemon.path(path)), &Path::new("/").join(path), none, MsFlags::MS_BIND, none).unwrap();
        }
        client();
    };
    std::thread::scope(|scope| scope.spawn(enter_and_run).join()).expect("the client");
}

fn iommufd() -> Arc<VfioIommufd> {
    Arc::new(VfioIommufd::new(Arc::new(IommuFd::new().unwrap()), None, None).unwrap())
}

/// As `VfioIommufd::vfio_dma_map`, which trusts a kernel with a pointer and is `unsafe` for it.
fn map(iommufd: &VfioIommufd, memory: &Memory) {
    let map = iommu_ioas_map {
        size: u32::try_from(size_of::<iommu_ioas_map>()).unwrap(),
        flags: FIXED | READABLE | WRITEABLE,
        ioas_id: iommufd.ioas().id(),
        user_va: memory.address(),
        length: memory.size(),
        iova: memory.first(),
        ..iommu_ioas_map::default()
    };
    iommufd.iommufd().map_iommu_ioas(&map).unwrap();
}

#[test]
fn vfio_ioctls_finds_regions_and_interrupts_by_cdev() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let sysfs = daemon.instance_dir(&uuid);
    with_kernel_paths(&daemon, || {
        let iommufd = iommufd();
        let device = VfioDevice::new(&sysfs, iommufd.clone(), true).unwrap();
        assert_eq!((iommufd.ioas().id(), device.iommufd_dev_id()), (1, Some(2)));
        assert_eq!(device.get_region_size(DOORBELLS), 2 * 4096);
        let mut mac = [0; 6];
        device.region_read(CONFIG, &mut mac, 0);
        assert_ne!(mac, [0; 6]);

        let events: Vec<EventFd> = (0..2).map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
        device.enable_irq(QUEUES, events.iter().collect()).unwrap();
        device.trigger_irq(QUEUES, 1).unwrap();
        assert_eq!(events[1].read().unwrap(), 1);
        assert!(events[0].read().is_err(), "the other queue's");
        device.enable_irq(CONFIG_IRQ, vec![&events[0]]).unwrap();
        device.trigger_irq(CONFIG_IRQ, 0).unwrap();
        assert_eq!(events[0].read().unwrap(), 1);
        device.disable_irq(QUEUES).unwrap();
        device.trigger_irq(QUEUES, 1).unwrap();
        assert!(events[1].read().is_err());
        device.reset();

        assert!(VfioDevice::new(&sysfs, iommufd.clone(), true).is_err(), "one file binds a device");
        let second = IommufdIoas::new(Arc::clone(iommufd.iommufd())).unwrap();
        device.attach_hwpt(second.id()).unwrap();
        assert!(iommufd.iommufd().destroy_iommu_object(second.id()).is_err(), "in use");
        assert!(device.attach_hwpt(2).is_err(), "the device is no IOAS");
        assert!(device.attach_iommufd_pt_pasid(1, 7).is_err(), "there are no PASIDs");
        device.detach_hwpt().unwrap();
    });
    daemon.remove(&uuid, "1").unwrap();
}

/// A queue driven through the device file's regions and interrupts.
struct Queue<'d> {
    device: &'d VfioDevice,
    ring: Ring,
    call: EventFd,
    /// Stored to in place of writes to the region.
    doorbell: Option<Map>,
}

impl Queue<'_> {
    fn offer(&mut self, at: u16, len: usize, flags: u16) {
        let addr = self.ring.memory().iova(self.ring.buffer(at));
        self.ring.write_descriptor(at, Descriptor { addr, len: u32::try_from(len).unwrap(), flags, next: 0 });
        self.ring.offer(at);
        let (number, offset) = (self.ring.index, u64::from(self.ring.index) * 4096);
        match &self.doorbell {
            Some(page) => page.store(0, u16::try_from(number).unwrap()),
            None => self.device.region_write(DOORBELLS, &number.to_ne_bytes(), offset),
        }
    }

    fn used(&mut self) -> (u16, usize) {
        let mut used = None;
        let came = eventually(PATIENCE, || {
            used = self.call.read().ok().and_then(|_| self.ring.take());
            used.is_some()
        });
        assert!(came, "no interrupt");
        let Used { id, len } = used.unwrap();
        (id.try_into().unwrap(), len.try_into().unwrap())
    }
}

/// A driver of the doorbell region and the interrupts alone, which writes to the region or stores to what it mapped of it.
fn frames_pass(doorbell: &str, mapped: bool) {
    let daemon = Daemon::start();
    let uuid = daemon.create_with(&format!("doorbell={doorbell}"));
    let sysfs = daemon.instance_dir(&uuid);
    with_kernel_paths(&daemon, || {
        let (iommufd, memory) = (iommufd(), Arc::new(Memory::new().unwrap()));
        let file = VfioDevice::open_cdev(&sysfs).unwrap();
        let vhost = Vhost(file.try_clone().unwrap());
        let shown = file.try_clone().unwrap();
        let device = VfioDevice::new_from_fd(file, iommufd.clone(), true).unwrap();
        map(&iommufd, &memory);
        let region = (device.get_region_flags(DOORBELLS), device.get_region_offset(DOORBELLS));
        assert_eq!(region, (if doorbell == "page" { WRITE | MMAP } else { WRITE }, 0));
        assert_eq!(device.get_region_flags(CONFIG) & MMAP, 0);
        let map_page = |index: u32| {
            let offset = device.get_region_offset(DOORBELLS) + u64::from(index) * 4096;
            let page = NonZeroUsize::new(4096).unwrap();
            Map::of_part(&shown, offset.try_into().unwrap(), page, ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED)
        };
        vhost.set_owner().unwrap();
        vhost.set_status(ACKNOWLEDGE | DRIVER).unwrap();
        vhost.set_features(VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM).unwrap();
        vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK).unwrap();
        let mut queues = [0, 1].map(|index| {
            let ring = Ring::new(Arc::clone(&memory), index, SIZE).unwrap();
            let (desc, avail, used) = ring.addresses();
            vhost.set_vring_num(index, u32::from(SIZE)).unwrap();
            vhost.set_vring_base(index, 0).unwrap();
            vhost.set_vring_addr(index, desc, avail, used).unwrap();
            vhost.set_vring_enable(index, true).unwrap();
            let doorbell = mapped.then(|| map_page(index).unwrap());
            Queue { device: &device, ring, call: EventFd::new(EFD_NONBLOCK).unwrap(), doorbell }
        });
        device.enable_irq(QUEUES, queues.iter().map(|queue| &queue.call).collect()).unwrap();
        vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK).unwrap();

        let [rx, tx] = &mut queues;
        for number in 0..200u8 {
            let at = u16::from(number) % SIZE;
            let frame: Vec<u8> = (0..60 + u16::from(number)).map(|byte| byte.to_le_bytes()[0] ^ number).collect();
            rx.offer(at, BUFFER_ROOM, VIRTQ_DESC_F_WRITE);
            memory.write(tx.ring.buffer(at), &[0; HEADER]);
            memory.write(tx.ring.buffer(at) + HEADER, &frame);
            tx.offer(at, HEADER + frame.len(), 0);
            assert_eq!(tx.used(), (at, 0));
            assert_eq!(rx.used(), (at, HEADER + frame.len()));
            let mut back = vec![0; frame.len()];
            memory.read(rx.ring.buffer(at) + HEADER, &mut back);
            assert_eq!(back, frame);
        }
        vhost.set_status(0).unwrap();
        let (file, size) = (memory.file().as_raw_fd(), memory.size());
        let far = 1 << 40;
        iommufd.ioas().map_file(file, 0, size, far, true).unwrap();
        assert!(iommufd.ioas().map_file(file, 4096, size, far << 1, true).is_err(), "beyond its end");
        assert!(iommufd.ioas().map_file(0, 0, 4096, far << 1, true).is_err(), "no memory file");
        iommufd.ioas().unmap(far, size).unwrap();
        iommufd.vfio_dma_unmap(memory.first(), usize::try_from(memory.size()).unwrap()).unwrap();
        assert!(iommufd.vfio_dma_unmap(memory.first(), 4096).is_err(), "nothing is mapped any more");
    });
}

#[test]
fn frames_pass_through_vfio_ioctls_by_cdev_with_doorbells_and_irqs() {
    frames_pass("eventfd", false);
}

#[test]
fn frames_pass_by_stores_to_the_mapped_doorbell_region_of_a_cdev() {
    frames_pass("page", true);
}

#[test]
fn a_doorbell_region_that_can_be_mapped_is_written_to_as_ever() {
    frames_pass("page", false);
}

#[test]
fn the_vhost_file_of_a_device_bound_by_cdev_works_in_its_ioas_of_a_memory_file() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let sysfs = daemon.instance_dir(&uuid);
    with_kernel_paths(&daemon, || {
        let (iommufd, memory) = (iommufd(), Memory::new().unwrap());
        let device = VfioDevice::new(&sysfs, iommufd.clone(), true).unwrap();
        iommufd.ioas().map_file(memory.file().as_raw_fd(), 0, memory.size(), memory.first(), true).unwrap();
        let mut client = Client::on(Vhost::open(daemon.root(), &uuid).unwrap(), memory).unwrap();
        client.run().unwrap();
        for number in 0..100 {
            client.exchange(&[number; 200]).unwrap();
        }
        device.detach_hwpt().unwrap();
        daemon.wait_for(&uuid, "state", "needs_reset");
    });
}
