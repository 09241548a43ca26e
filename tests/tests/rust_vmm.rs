//! rust-vmm's kernel client of vhost-vdpa, `VhostKernVdpa`, on the file of a loopback instance. It opens the file by its path alone.

use std::sync::Arc;
use std::time::Duration;
use umdev_tests::driver::abi::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1, VIRTQ_DESC_F_WRITE,
};
use umdev_tests::driver::memory::{BUFFER_ROOM, IOVA};
use umdev_tests::driver::{Daemon, Descriptor, HEADER, Memory, Ring, eventually};
use vhost::vdpa::VhostVdpa;
use vhost::vhost_kern::VhostKernFeatures;
use vhost::vhost_kern::vdpa::VhostKernVdpa;
use vhost::{VhostBackend, VringConfigData};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: u16 = 64;
const FRAMES: u8 = 100;
const ALL: u8 = 0xf;

/// A queue with the events of the crate.
struct Queue {
    ring: Ring,
    kick: EventFd,
    call: EventFd,
}

impl Queue {
    fn new(vdpa: &VhostKernVdpa<Arc<GuestMemoryMmap>>, memory: &Arc<Memory>, index: u32) -> Self {
        let ring = Ring::new(Arc::clone(memory), index, SIZE).unwrap();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (kick, call, at) = (event(), event(), usize::try_from(index).unwrap());
        let (desc_table_addr, avail_ring_addr, used_ring_addr) = ring.addresses();
        vdpa.set_vring_num(at, SIZE).unwrap();
        let config = VringConfigData {
            queue_max_size: vdpa.get_vring_num().unwrap(),
            queue_size: SIZE,
            flags: 0,
            desc_table_addr,
            used_ring_addr,
            avail_ring_addr,
            log_addr: None,
        };
        vdpa.set_vring_addr(at, &config).unwrap();
        vdpa.set_vring_base(at, 0).unwrap();
        vdpa.set_vring_call(at, &call).unwrap();
        vdpa.set_vring_kick(at, &kick).unwrap();
        vdpa.set_vring_enable(at, true).unwrap();
        Self { ring, kick, call }
    }

    /// Offers the buffer of a descriptor.
    fn offer(&mut self, at: u16, len: usize, flags: u16) {
        let (addr, len) = (self.ring.memory().iova(self.ring.buffer(at)), u32::try_from(len).unwrap());
        self.ring.write_descriptor(at, Descriptor { addr, len, flags, next: 0 });
        self.ring.offer(at);
        self.kick.write(1).unwrap();
    }

    /// Waits for the interrupt of a used buffer; its head and its length.
    fn used(&mut self) -> (u16, usize) {
        let mut used = None;
        let came = eventually(PATIENCE, || {
            used = self.call.read().ok().and_then(|_| self.ring.take());
            used.is_some()
        });
        assert!(came, "no interrupt");
        let used = used.unwrap();
        (used.id.try_into().unwrap(), used.len.try_into().unwrap())
    }
}

/// Drives an instance as a VMM does, with these of the back-end features it offers, and has frames back.
fn exchange(backend_features: u64) {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let memory = Arc::new(Memory::new().unwrap());
    let (size, file) = (usize::try_from(memory.size()).unwrap(), memory.file().try_clone().unwrap());
    let range = (GuestAddress(IOVA), size, Some(FileOffset::new(file, 0)));
    let mapped = Arc::new(GuestMemoryMmap::<()>::from_ranges_with_files([range]).unwrap());
    let mut vdpa = VhostKernVdpa::new(daemon.vhost_path(&uuid).to_str().unwrap(), mapped).unwrap();

    vdpa.set_owner().unwrap();
    assert_eq!(vdpa.get_device_id().unwrap(), 1);
    assert_eq!((vdpa.get_vqs_count().unwrap(), vdpa.get_group_num().unwrap(), vdpa.get_as_num().unwrap()), (2, 1, 1));
    let range = vdpa.get_iova_range().unwrap();
    assert!(range.first <= IOVA && range.last >= IOVA + memory.size());
    let mut mac = [0; 6];
    vdpa.get_config(0, &mut mac).unwrap();
    assert_ne!(mac, [0; 6]);

    let features = VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM;
    assert_eq!(vdpa.get_features().unwrap() & features, features);
    vdpa.set_features(features).unwrap();
    let backend_features = vdpa.get_backend_features().unwrap() & backend_features;
    vdpa.set_backend_features(backend_features).unwrap();
    vdpa.dma_map(IOVA, memory.size(), std::ptr::with_exposed_provenance(memory.address().try_into().unwrap()), false)
        .unwrap();
    let mut rx = Queue::new(&vdpa, &memory, 0);
    let mut tx = Queue::new(&vdpa, &memory, 1);
    let config_call = EventFd::new(EFD_NONBLOCK).unwrap();
    vdpa.set_config_call(&config_call).unwrap();
    // in one step, as cloud-hypervisor does
    vdpa.set_status(ALL).unwrap();
    assert_eq!(vdpa.get_status().unwrap(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);

    for number in 0..FRAMES {
        let at = u16::from(number) % SIZE;
        let frame: Vec<u8> = (0..60 + number).map(|byte| byte.wrapping_mul(number)).collect();
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
    vdpa.set_status(0).unwrap();
    vdpa.dma_unmap(IOVA, memory.size()).unwrap();
}

#[test]
fn frames_pass_through_vhost_kern_vdpa_with_all_backend_features() {
    exchange(u64::MAX);
}

#[test]
fn frames_pass_through_vhost_kern_vdpa_with_messages_of_the_first_version() {
    exchange(0);
}
