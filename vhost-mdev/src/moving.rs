//! How a virtio instance moves to another one: its session, as text.
//!
//! An instance can be continued by any other of the same device id whose queues, features and configuration space have room
//! for it, whatever is behind it.

use crate::VirtioDevice;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use vfio_container::Migratable;
use virtio_mdev_api::{DeviceInfo, Refusal, SavedSession};

/// Of the layout of [`SavedSession`] and of [`Identity`].
const VERSION: u32 = 1;

/// Bytes of a state, about: of what every one has, of a queue, and of a byte of configuration space.
const STATE_SIZE: u64 = 256;
const QUEUE_SIZE: u64 = 208;
const CONFIG_SIZE: u64 = 4;

/// What a device offers, whatever its driver accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    virtio: u32,
    device_id: u32,
    vendor_id: u32,
    features: u64,
    config_size: u32,
    address_spaces: u32,
    groups: u32,
    desc_groups: bool,
    /// The largest ring of each queue.
    queues: Vec<u16>,
}

impl Identity {
    fn of(info: &DeviceInfo) -> Self {
        Self {
            virtio: VERSION,
            device_id: info.device_id,
            vendor_id: info.vendor_id,
            features: info.features,
            config_size: info.config_size,
            address_spaces: info.address_spaces.max(1),
            groups: info.groups(),
            desc_groups: info.has_desc_groups(),
            queues: info.queues.iter().map(|queue| queue.max_size).collect(),
        }
    }

    /// Whether a device that offers what `other` does can be continued by this one.
    fn accepts(&self, other: &Self) -> Result<(), Refusal> {
        let refuse = |what: &str| Err(Refusal::new(Errno::EINVAL, format!("the device that is to come has {what}")));
        if other.virtio != self.virtio {
            return refuse("a state of another version");
        }
        if (other.device_id, other.vendor_id) != (self.device_id, self.vendor_id) {
            return refuse("another id");
        }
        if other.features & !self.features != 0 {
            return refuse(&format!("features {:#x}, which are not offered here", other.features & !self.features));
        }
        if other.config_size != self.config_size {
            return refuse("a configuration space of another size");
        }
        if other.queues.len() != self.queues.len() || other.queues.iter().zip(&self.queues).any(|(its, own)| its > own)
        {
            return refuse("other or larger queues");
        }
        let room = other.address_spaces <= self.address_spaces && other.groups <= self.groups;
        if !room || other.desc_groups && !self.desc_groups {
            return refuse("more address spaces");
        }
        Ok(())
    }
}

impl Migratable for VirtioDevice {
    fn identity(&self) -> Vec<u8> {
        encode(&Identity::of(self.session().info()))
    }

    fn accepts(&self, identity: &[u8]) -> Result<(), Refusal> {
        Identity::of(self.session().info()).accepts(&decode(identity)?)
    }

    fn stop(&self) -> Result<(), Refusal> {
        Ok(self.session().freeze()?)
    }

    fn run(&self) -> Result<(), Refusal> {
        self.give_memory()?;
        Ok(self.session().thaw()?)
    }

    fn save(&self) -> Result<Vec<u8>, Refusal> {
        Ok(encode(&self.session().save()?))
    }

    fn state_size(&self) -> u64 {
        let info = self.session().info();
        let queues = u64::try_from(info.queues.len()).unwrap_or(u64::MAX);
        STATE_SIZE + queues.saturating_mul(QUEUE_SIZE) + u64::from(info.config_size) * CONFIG_SIZE
    }

    fn restore(&self, state: &[u8]) -> Result<(), Refusal> {
        let saved: SavedSession = decode(state)?;
        // Its driver goes on by the device file, and must not meet a device that is reset when it is first called.
        self.take_seat()?;
        Ok(self.session().restore(&saved)?)
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Numbers, flags and sequences of them can always be told.
    serde_json::to_vec(value).unwrap_or_default()
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::new(Errno::EINVAL, format!("the state: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Identity {
        Identity {
            virtio: VERSION,
            device_id: 1,
            vendor_id: 0,
            features: 0b111,
            config_size: 24,
            address_spaces: 2,
            groups: 2,
            desc_groups: true,
            queues: vec![256, 256, 64],
        }
    }

    #[test]
    fn a_device_goes_where_there_is_room_for_it() {
        let accepts = |change: &dyn Fn(&mut Identity)| {
            let mut other = card();
            change(&mut other);
            card().accepts(&other).is_ok()
        };
        assert!(accepts(&|_| {}));
        assert!(accepts(&|other| other.features = 0b101));
        assert!(accepts(&|other| other.queues[2] = 16));
        assert!(accepts(&|other| (other.address_spaces, other.groups, other.desc_groups) = (1, 1, false)));
        assert!(!accepts(&|other| other.virtio += 1));
        assert!(!accepts(&|other| other.device_id = 2));
        assert!(!accepts(&|other| other.vendor_id = 2));
        assert!(!accepts(&|other| other.features |= 8));
        assert!(!accepts(&|other| other.config_size = 12));
        assert!(!accepts(&|other| other.queues.truncate(2)));
        assert!(!accepts(&|other| other.queues.push(64)));
        assert!(!accepts(&|other| other.queues[2] = 128));
        assert!(!accepts(&|other| other.address_spaces = 3));
        assert!(!accepts(&|other| other.groups = 3));
        let mut plain = card();
        plain.desc_groups = false;
        assert!(plain.accepts(&card()).is_err());
    }
}
