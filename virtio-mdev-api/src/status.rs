//! The device status byte (virtio 1.3 §2.1) and the one table of its legal transitions.

use crate::HasErrno;
use nix::errno::Errno;
use thiserror::Error;

bitflags::bitflags! {
    /// The device status byte.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Status: u8 {
        /// The guest has noticed the device.
        const ACKNOWLEDGE = 1;
        /// The guest knows how to drive it.
        const DRIVER = 2;
        /// The driver is ready.
        const DRIVER_OK = 4;
        /// Feature negotiation is complete.
        const FEATURES_OK = 8;
        /// The device met an error it cannot recover from. Set by the device alone.
        const NEEDS_RESET = 64;
        /// The guest gave up on the device.
        const FAILED = 128;
    }
}

/// What a legal write to the status byte asks the device to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Zero was written.
    Reset,
    /// Bits were added that start nothing. Carries the new status.
    Update(Status),
    /// DRIVER_OK was added: queues start. Carries the new status.
    Start(Status),
}

/// Why a write to the status byte was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StatusError {
    /// A set bit may only be cleared by writing zero.
    #[error("status {written:#04x} clears bits {cleared:#04x}; only a reset (0) may clear them")]
    BitCleared {
        /// The written byte.
        written: u8,
        /// The bits it would clear.
        cleared: u8,
    },
    /// Bits the specification reserves.
    #[error("status {written:#04x} sets reserved bits {reserved:#04x}")]
    Reserved {
        /// The written byte.
        written: u8,
        /// The reserved bits in it.
        reserved: u8,
    },
    /// DEVICE_NEEDS_RESET is the device's to set.
    #[error("only the device sets DEVICE_NEEDS_RESET")]
    NeedsResetWritten,
    /// DRIVER_OK without FEATURES_OK: legacy drivers, which this device does not offer to serve.
    #[error("DRIVER_OK needs FEATURES_OK")]
    FeaturesNotOk,
}

impl HasErrno for StatusError {
    fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

impl Status {
    /// What writing `written` means when this is the current status.
    ///
    /// As in vhost-vdpa, bits may be added in any order and all at once (a client may write 0xf alone, or 0x8 and
    /// then 0xc), and a set bit is cleared only by writing zero.
    pub fn write(self, written: u8) -> Result<Transition, StatusError> {
        if written == 0 {
            return Ok(Transition::Reset);
        }
        let cleared = self.bits() & !written;
        if cleared != 0 {
            return Err(StatusError::BitCleared { written, cleared });
        }
        let Some(new) = Self::from_bits(written) else {
            return Err(StatusError::Reserved { written, reserved: written & !Self::all().bits() });
        };
        let added = new - self;
        if added.contains(Self::NEEDS_RESET) {
            return Err(StatusError::NeedsResetWritten);
        }
        if added.contains(Self::DRIVER_OK) {
            if !new.contains(Self::FEATURES_OK) {
                return Err(StatusError::FeaturesNotOk);
            }
            return Ok(Transition::Start(new));
        }
        Ok(Transition::Update(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bits: u8) -> Status {
        Status::from_bits(bits).unwrap()
    }

    #[test]
    fn zero_resets_from_every_status() {
        for bits in 0..=255u8 {
            assert_eq!(Status::from_bits_retain(bits).write(0), Ok(Transition::Reset));
        }
    }

    #[test]
    fn the_orders_of_real_clients_are_legal() {
        // QEMU 7.2: 3, 0xb, 0xf. QEMU 10: 3, 0, 0x8, 0xc. cloud-hypervisor: 0xf alone.
        assert_eq!(at(0).write(3), Ok(Transition::Update(at(3))));
        assert_eq!(at(3).write(0xb), Ok(Transition::Update(at(0xb))));
        assert_eq!(at(0xb).write(0xf), Ok(Transition::Start(at(0xf))));
        assert_eq!(at(0).write(8), Ok(Transition::Update(at(8))));
        assert_eq!(at(8).write(0xc), Ok(Transition::Start(at(0xc))));
        assert_eq!(at(0).write(0xf), Ok(Transition::Start(at(0xf))));
    }

    #[test]
    fn writing_the_same_status_again_starts_nothing() {
        assert_eq!(at(0xf).write(0xf), Ok(Transition::Update(at(0xf))));
    }

    #[test]
    fn f24_a_bit_is_cleared_only_by_reset() {
        assert_eq!(at(0xf).write(0xb), Err(StatusError::BitCleared { written: 0xb, cleared: 4 }));
        assert_eq!(at(0x4f).write(0xf), Err(StatusError::BitCleared { written: 0xf, cleared: 0x40 }));
    }

    #[test]
    fn f24_driver_ok_needs_features_ok() {
        assert_eq!(at(3).write(7), Err(StatusError::FeaturesNotOk));
    }

    #[test]
    fn f24_reserved_bits_and_needs_reset_are_refused() {
        assert_eq!(at(3).write(0x13), Err(StatusError::Reserved { written: 0x13, reserved: 0x10 }));
        assert_eq!(at(3).write(0x43), Err(StatusError::NeedsResetWritten));
        assert_eq!(at(0x43).write(0xc3), Ok(Transition::Update(at(0xc3))));
    }
}
