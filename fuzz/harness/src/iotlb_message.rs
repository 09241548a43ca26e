//! Bytes written to a vhost file, against a plain model of what is mapped.

use crate::Input;
use crate::model::{Intervals, coalesce};
use crate::vhost_ioctl::{message, pair};
use crate::world::World;
use nix::errno::Errno;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use vfio_container::testing::{BASE, FakeClient, SIZE};
use vhost_abi::command::*;
use vhost_abi::feature::VHOST_BACKEND_F_IOTLB_ASID;
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{Capabilities, DeviceInfo, DeviceLink, QueueInfo, QueueStart, QueueState, Refusal, VirtioMdev};

/// Queues, each in a group of its own that is put into the address space of its number.
const SPACES: usize = 2;
/// The backend features there are.
const BACKEND_FEATURES: u64 = 0x1fe;

/// The space that each queue runs in.
type Seen = Arc<Mutex<[Option<Arc<AddressSpace>>; SPACES]>>;

/// A device that does nothing but show its memory.
struct Watcher(Seen);

impl VirtioMdev for Watcher {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            device_id: 1,
            vendor_id: 0,
            queues: [0, 1].map(|group| QueueInfo { max_size: 256, group, desc_group: None }).to_vec(),
            features: REQUIRED,
            config_size: 12,
            queue_align: 4096,
            address_spaces: 2,
            limits: Limits::default(),
            capabilities: Capabilities::empty(),
        }
    }

    fn set_features(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn read_config(&mut self, _offset: u32, _out: &mut [u8]) {}

    fn write_config(&mut self, _offset: u32, _data: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn start_queue(&mut self, index: u16, queue: QueueStart) -> Result<(), Refusal> {
        self.0.lock()[usize::from(index)] = Some(queue.space);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Result<Option<QueueState>, Refusal> {
        Ok(self.0.lock()[usize::from(index)].take().map(|_| QueueState::Split { avail: 0 }))
    }

    fn set_kick(&mut self, _index: u16, _kick: Option<EventFd>) {}

    fn reset(&mut self) {}
}

/// Runs one input: how the client's memory is made, and then steps.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let seen = Seen::default();
    let stretch = if input.flag() { 0x3000 } else { SIZE as u64 };
    let link = DeviceLink::new("fuzzed");
    let world = World::new(Box::new(Watcher(Arc::clone(&seen))), link, FakeClient::with_stretches(1, stretch));
    let mut steps = Steps { world, model: Model::default(), seen };
    steps.start();
    while input.more() {
        steps.step(&mut input);
    }
}

struct Steps {
    world: World,
    model: Model,
    seen: Seen,
}

impl Steps {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0..4 => {
                let (version, asid, request) = (input.byte() % 4, input.byte() % 4, input.byte());
                let (iova, size, permission) = (input.address(), input.size(), input.byte());
                let uaddr = BASE.wrapping_add(input.address());
                // Mostly what there is.
                let version = if version == 0 { 2 } else { version };
                let permission = if permission < 0xf0 { 1 + permission % 3 } else { permission };
                let request = if request < 0xf0 { [2, 2, 3, 5, 6][usize::from(request) % 5] } else { request };
                self.write(&message(version.into(), asid.into(), [iova, size, uaddr], permission, request));
            }
            4 | 5 => self.write(input.blob()),
            6 => {
                let (features, any) = (u64::from(input.half()), input.byte());
                let features = if any < 0xf0 { features & BACKEND_FEATURES } else { features };
                if self.world.ioctl(VHOST_SET_BACKEND_FEATURES, &features.to_ne_bytes()).is_ok() {
                    self.model.names_spaces = features & VHOST_BACKEND_F_IOTLB_ASID != 0;
                }
            }
            _ if input.flag() => self.world.strange = !self.world.strange,
            _ => self.start(),
        }
    }

    /// Gets the queues going, so that their memory can be seen.
    fn start(&mut self) {
        let strange = std::mem::replace(&mut self.world.strange, false);
        // There is an owner when it starts again.
        let _ = self.world.ioctl(VHOST_SET_OWNER, &[]);
        for (cmd, argument) in [
            (VHOST_VDPA_SET_STATUS, &[0][..]),
            (VHOST_SET_FEATURES, &REQUIRED.to_ne_bytes()),
            (VHOST_VDPA_SET_GROUP_ASID, &pair(1, 1)),
            (VHOST_VDPA_SET_VRING_ENABLE, &pair(0, 1)),
            (VHOST_VDPA_SET_VRING_ENABLE, &pair(1, 1)),
            (VHOST_VDPA_SET_STATUS, &[0xf]),
        ] {
            self.world.ioctl(cmd, argument).expect("a plain start");
        }
        self.world.strange = strange;
    }

    fn write(&mut self, bytes: &[u8]) {
        let owner = !self.world.strange;
        let expected = self.model.write(bytes, owner);
        assert_eq!(self.world.write(bytes), expected, "{bytes:02x?}");
        for (seen, model) in self.seen.lock().iter().zip(&self.model.spaces) {
            let regions = seen.as_ref().expect("the queue runs").regions();
            let found = coalesce(regions.iter().map(|region| (region.iova, region.last())));
            assert_eq!(found, coalesce(model.maps.iter()), "after {bytes:02x?}");
        }
    }
}

/// What a client has mapped, as `struct vhost_msg_v2` is documented.
#[derive(Default)]
struct Model {
    names_spaces: bool,
    spaces: [Space; SPACES],
}

#[derive(Default)]
struct Space {
    maps: Intervals,
    batch: Option<Batch>,
}

#[derive(Default)]
struct Batch {
    removed: BTreeSet<u64>,
    added: Intervals,
}

impl Model {
    fn write(&mut self, bytes: &[u8], owner: bool) -> Result<usize, Errno> {
        let Some(bytes40) = bytes.first_chunk::<40>() else { return Err(Errno::EINVAL) };
        let word = |at: usize| u64::from_ne_bytes(bytes40[at..at + 8].try_into().expect("8 bytes"));
        let version = u32::from_ne_bytes(bytes40[..4].try_into().expect("4 bytes"));
        let (iova, size, uaddr, permission, request) = (word(8), word(16), word(24), bytes40[32], bytes40[33]);
        let whole = iova == 0 && size == 0;
        let known = match request {
            2 => (1..=3).contains(&permission) && size != 0,
            3 => size != 0 || whole,
            5 | 6 => true,
            _ => false,
        };
        if !(1..=2).contains(&version) || !known {
            return Err(Errno::EINVAL);
        }
        if !owner {
            return Err(Errno::EPERM);
        }
        let asid = u32::from_ne_bytes(bytes40[4..8].try_into().expect("4 bytes"));
        let asid = if self.names_spaces && version == 2 { asid as usize } else { 0 };
        let elsewhere = self.spaces.iter().position(|space| space.batch.is_some()).is_some_and(|open| open != asid);
        let space = self.spaces.get_mut(asid).filter(|_| !elsewhere).ok_or(Errno::EINVAL)?;
        match request {
            2 => space.update(iova, size, uaddr)?,
            3 if whole => space.invalidate(0, u64::MAX),
            3 => space.invalidate(iova, iova.saturating_add(size - 1)),
            5 => drop(space.batch.get_or_insert_default()),
            _ => space.end(),
        }
        Ok(bytes.len().min(72))
    }
}

impl Space {
    fn update(&mut self, iova: u64, size: u64, uaddr: u64) -> Result<(), Errno> {
        let last = iova.checked_add(size - 1).ok_or(Errno::EINVAL)?;
        let mut published = self.maps.touching(iova, last).into_iter();
        let in_the_way = match &self.batch {
            None => published.next().is_some(),
            Some(batch) => {
                published.any(|first| !batch.removed.contains(&first)) || !batch.added.touching(iova, last).is_empty()
            }
        };
        if in_the_way {
            return Err(Errno::EEXIST);
        }
        let end = uaddr.checked_add(size).ok_or(Errno::EINVAL)?;
        if end <= BASE || uaddr >= BASE + SIZE as u64 {
            return Err(Errno::EFAULT);
        }
        self.batch.as_mut().map_or(&mut self.maps, |batch| &mut batch.added).insert(iova, last);
        Ok(())
    }

    fn invalidate(&mut self, first: u64, last: u64) {
        let doomed = self.maps.touching(first, last);
        match &mut self.batch {
            None => self.maps.remove(doomed),
            Some(batch) => {
                batch.removed.extend(doomed);
                batch.added.remove(batch.added.touching(first, last));
            }
        }
    }

    fn end(&mut self) {
        let Some(Batch { removed, added }) = self.batch.take() else { return };
        self.maps.remove(removed);
        added.iter().for_each(|(first, last)| self.maps.insert(first, last));
    }
}
