//! `umdev-vfio-group UUID [OTHER]`: rust-vmm's VFIO client, `vfio-ioctls`, by container and group, as a VMM uses it. It knows the kernel's paths and
//! nothing of umdev. Has frames back from a loopback instance, moves it to another one, and says what it found.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use umdev_tests::driver::abi::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_RUNNING,
    VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_STOP_COPY, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1,
    VIRTQ_DESC_F_WRITE,
};
use umdev_tests::driver::memory::{BUFFER_ROOM, IOVA};
use umdev_tests::driver::{Container, Descriptor, HEADER, Memory, Ring, Used, Vhost, eventually, sys};
use vfio_ioctls::{VfioContainer, VfioDevice};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

type Done<T> = Result<T, Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: u16 = 64;
const FRAMES: u8 = 200;
/// Region 0: a page a queue. Region 1: virtio's configuration. Interrupts 0: one a queue.
const DOORBELLS: u32 = 0;
const CONFIG: u32 = 1;
const QUEUES: u32 = 0;

fn main() -> Done<()> {
    let uuid = std::env::args().nth(1).ok_or("usage: umdev-vfio-group UUID [OTHER]")?;
    let sysfs = Path::new("/sys/bus/mdev/devices").join(uuid);
    let container = Arc::new(VfioContainer::new(None)?);
    let device = VfioDevice::new(&sysfs, container.clone(), false)?;
    println!("doorbells of {} bytes, {} interrupts", device.get_region_size(DOORBELLS), device.max_interrupts());
    let mut mac = [0; 6];
    device.region_read(CONFIG, &mut mac, 0);
    println!("mac {}", mac.map(|byte| format!("{byte:02x}")).join(":"));

    let memory = Arc::new(Memory::new()?);
    // The crate's own call trusts the kernel with a pointer and is `unsafe` for it.
    Container(File::from(sys::duplicate(container.as_ref())?)).map(IOVA, memory.size(), memory.address())?;
    exchange(&device, &memory)?;
    println!("{FRAMES} frames came back");
    if let Some(other) = std::env::args().nth(2) {
        let sysfs = Path::new("/sys/bus/mdev/devices").join(other);
        migrate(&device, &VfioDevice::new(&sysfs, container.clone(), false)?)?;
    }
    container.vfio_dma_unmap(IOVA, usize::try_from(memory.size())?)?;
    device.reset();
    Ok(())
}

/// A queue driven through the device file's regions and interrupts.
struct Queue<'d> {
    device: &'d VfioDevice,
    ring: Ring,
    call: EventFd,
}

impl Queue<'_> {
    fn offer(&mut self, at: u16, len: usize, flags: u16) -> Done<()> {
        let addr = self.ring.memory().iova(self.ring.buffer(at));
        self.ring.write_descriptor(at, Descriptor { addr, len: u32::try_from(len)?, flags, next: 0 });
        self.ring.offer(at);
        self.device.region_write(DOORBELLS, &self.ring.index.to_ne_bytes(), u64::from(self.ring.index) * 4096);
        Ok(())
    }

    fn used(&mut self) -> Done<(u32, u32)> {
        let mut used = None;
        let came = eventually(PATIENCE, || {
            used = self.call.read().ok().and_then(|_| self.ring.take());
            used.is_some()
        });
        let Used { id, len } = used.filter(|_| came).ok_or("no interrupt")?;
        Ok((id, len))
    }
}

fn exchange(device: &VfioDevice, memory: &Arc<Memory>) -> Done<()> {
    let vhost = Vhost(File::from(sys::duplicate(device)?));
    vhost.set_owner()?;
    vhost.set_status(ACKNOWLEDGE | DRIVER)?;
    vhost.set_features(VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM)?;
    vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)?;
    let queue = |index| -> Done<Queue<'_>> {
        let ring = Ring::new(Arc::clone(memory), index, SIZE)?;
        let (desc, avail, used) = ring.addresses();
        vhost.set_vring_num(index, u32::from(SIZE))?;
        vhost.set_vring_base(index, 0)?;
        vhost.set_vring_addr(index, desc, avail, used)?;
        vhost.set_vring_enable(index, true)?;
        Ok(Queue { device, ring, call: EventFd::new(EFD_NONBLOCK)? })
    };
    let (mut rx, mut tx) = (queue(0)?, queue(1)?);
    device.enable_irq(QUEUES, vec![&rx.call, &tx.call])?;
    vhost.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)?;
    for number in 0..FRAMES {
        let at = u16::from(number) % SIZE;
        let frame: Vec<u8> = (0..60 + u16::from(number)).map(|byte| byte.to_le_bytes()[0] ^ number).collect();
        let len = u32::try_from(HEADER + frame.len())?;
        rx.offer(at, BUFFER_ROOM, VIRTQ_DESC_F_WRITE)?;
        memory.write(tx.ring.buffer(at), &[0; HEADER]);
        memory.write(tx.ring.buffer(at) + HEADER, &frame);
        tx.offer(at, HEADER + frame.len(), 0)?;
        let mut back = vec![0; frame.len()];
        let used = (tx.used()?, rx.used()?);
        memory.read(rx.ring.buffer(at) + HEADER, &mut back);
        if used != ((u32::from(at), 0), (u32::from(at), len)) || back != frame {
            return Err(format!("frame {number} came back as {used:?} {back:02x?}").into());
        }
    }
    Ok(vhost.set_status(0)?)
}

fn migrate(from: &VfioDevice, to: &VfioDevice) -> Done<()> {
    println!("migration {:?}", from.query_migration_support()?);
    from.set_migration_state(VFIO_DEVICE_STATE_STOP_COPY)?;
    let stream = from.read_migration_data_to_end()?;
    let refused = |stream: &[u8]| -> Done<bool> {
        to.set_migration_state(VFIO_DEVICE_STATE_RESUMING)?;
        Ok(to.write_migration_data(stream).is_err() | to.set_migration_state(VFIO_DEVICE_STATE_STOP).is_err())
    };
    let half = refused(&stream[..stream.len() / 2])?;
    println!("half a stream is refused: {half}, state {}", to.get_migration_state()?);
    to.reset();
    let whole = refused(&stream)?;
    to.set_migration_state(VFIO_DEVICE_STATE_RUNNING)?;
    println!("the whole is refused: {whole}, state {}", to.get_migration_state()?);
    Ok(from.set_migration_state(VFIO_DEVICE_STATE_STOP)?)
}
