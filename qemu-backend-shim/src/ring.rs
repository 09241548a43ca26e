//! One ring as the front end described it so far: kept until the device starts, and again while it is taken down for a moment.

use std::fs::File;

/// Largest ring of the virtio specification (2.7: split, 2.8.10.1: packed).
pub const MAX_SIZE: u32 = 32768;

/// How the front end announces new buffers. Having one means the ring is started, in the words of the vhost-user specification.
#[derive(Debug)]
pub enum Kick {
    /// By this eventfd.
    Fd(File),
    /// Not at all: it asked for polling (the NOFD flag).
    Polled,
}

/// Addresses of the three areas in the front end's address space, in the order of the specification's driver/device split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Descriptor table, or the packed descriptor ring.
    pub desc: u64,
    /// Avail ring, or the driver event suppression structure.
    pub avail: u64,
    /// Used ring, or the device event suppression structure.
    pub used: u64,
}

/// What is known of a ring.
#[derive(Debug, Default)]
pub struct Ring {
    /// SET_VRING_NUM.
    pub size: Option<u32>,
    /// SET_VRING_BASE, then what the instance said when it stopped.
    pub base: u32,
    /// SET_VRING_ADDR.
    pub addresses: Option<Addresses>,
    /// SET_VRING_KICK.
    pub kick: Option<Kick>,
    /// SET_VRING_CALL.
    pub call: Option<File>,
    /// SET_VRING_ERR.
    pub err: Option<File>,
    /// SET_VRING_ENABLE.
    pub enabled: bool,
}

impl Ring {
    /// Whether the device can run it: set up and started.
    pub fn is_ready(&self) -> bool {
        self.size.is_some() && self.addresses.is_some() && self.kick.is_some()
    }

    /// Forgets all but the notifiers that a front end sends only once (call and err survive RESET_DEVICE in QEMU's view).
    pub fn reset(&mut self) {
        *self = Self { call: self.call.take(), err: self.err.take(), ..Self::default() };
    }
}

/// Bytes of the descriptor, avail and used areas of a ring of `size` entries (virtio 1.2, 2.7 and 2.8), event index fields included.
pub fn extents(size: u32, packed: bool) -> [u64; 3] {
    let size = u64::from(size);
    if packed { [16 * size, 4, 4] } else { [16 * size, 6 + 2 * size, 6 + 8 * size] }
}

/// The base to give the instance for the one the front end sent. A packed base holds the used index and its wrap counter in the upper half; front
/// ends that know the avail half alone leave it zero and mean "as the avail half", since nothing is in flight in a ring they start.
pub fn base_for_instance(base: u32, packed: bool) -> u32 {
    if packed && base >> 16 == 0 { base | base << 16 } else { base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_those_of_the_specification() {
        assert_eq!(extents(256, false), [4096, 518, 2054]);
        assert_eq!(extents(256, true), [4096, 4, 4]);
        assert_eq!(extents(MAX_SIZE, false)[2], 6 + 8 * 32768);
    }

    #[test]
    fn a_packed_base_without_its_used_half_means_nothing_in_flight() {
        assert_eq!(base_for_instance(0x8000, true), 0x8000_8000);
        assert_eq!(base_for_instance(0x8005_8007, true), 0x8005_8007);
        assert_eq!(base_for_instance(7, false), 7);
    }
}
