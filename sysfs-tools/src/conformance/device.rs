//! The file that is driven.

use super::abi::*;
use super::calls::Calls;
use super::sys::Room;
use nix::errno::Errno;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A file closed a moment ago may still be busy.
const BUSY: Duration = Duration::from_secs(2);

/// What the rules are about: a file, and the way to it.
#[derive(Clone)]
pub struct Subject {
    pub path: PathBuf,
    pub calls: Rc<dyn Calls>,
}

/// A vhost-vdpa file, open. Each call is the ioctl of its name.
pub struct Device {
    file: File,
    calls: Rc<dyn Calls>,
}

impl Device {
    /// Opens the file.
    pub fn open(subject: &Subject) -> nix::Result<Self> {
        let begun = Instant::now();
        loop {
            match Self::try_open(subject) {
                Err(Errno::EBUSY) if begun.elapsed() < BUSY => std::thread::sleep(Duration::from_millis(5)),
                opened => return opened,
            }
        }
    }

    /// Opens the file if it is free now.
    pub fn try_open(subject: &Subject) -> nix::Result<Self> {
        Ok(Self { file: subject.calls.open(&subject.path)?, calls: Rc::clone(&subject.calls) })
    }

    /// An ioctl that takes nothing.
    pub fn order(&self, cmd: u32) -> nix::Result<()> {
        self.call(cmd, &mut [])
    }

    /// An ioctl on bytes.
    pub fn call(&self, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        self.calls.ioctl(&self.file, cmd, argument)
    }

    /// The same from a process of its own, which is not the owner.
    pub fn call_elsewhere(&self, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        self.calls.ioctl_elsewhere(&self.file, cmd, argument)
    }

    /// The same with an argument at an address where nothing is.
    pub fn call_nowhere(&self, cmd: u32) -> nix::Result<()> {
        self.calls.ioctl_nowhere(&self.file, cmd)
    }

    /// An ioctl that answers a number, of as many bytes as its own number says.
    pub fn number(&self, cmd: u32) -> nix::Result<u64> {
        let mut bytes = [0; 8];
        self.call(cmd, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn status(&self) -> nix::Result<u8> {
        let mut byte = [0];
        self.call(VHOST_VDPA_GET_STATUS, &mut byte)?;
        Ok(byte[0])
    }

    pub fn set_status(&self, status: u8) -> nix::Result<()> {
        self.call(VHOST_VDPA_SET_STATUS, &mut [status])
    }

    pub fn set_features(&self, features: u64) -> nix::Result<()> {
        self.call(VHOST_SET_FEATURES, &mut features.to_le_bytes())
    }

    pub fn set_backend_features(&self, features: u64) -> nix::Result<()> {
        self.call(VHOST_SET_BACKEND_FEATURES, &mut features.to_le_bytes())
    }

    /// First and last IOVA.
    pub fn iova_range(&self) -> nix::Result<(u64, u64)> {
        let mut bytes = [0; 16];
        self.call(VHOST_VDPA_GET_IOVA_RANGE, &mut bytes)?;
        let range = u128::from_le_bytes(bytes);
        let half = |value: u128| u64::try_from(value & u128::from(u64::MAX)).unwrap_or(u64::MAX);
        Ok((half(range), half(range >> 64)))
    }

    pub fn config(&self, offset: u32, len: u32) -> nix::Result<Vec<u8>> {
        // A device that gives out more than it has is given the place for it.
        let mut bytes = Room::new(NonZeroUsize::MIN.saturating_add(7 + usize::try_from(len).unwrap_or(usize::MAX)))?;
        bytes[..8].copy_from_slice(&pair(offset, len));
        self.call(VHOST_VDPA_GET_CONFIG, &mut bytes)?;
        Ok(bytes.iter().copied().skip(8).take(1 << 16).collect())
    }

    pub fn set_config(&self, offset: u32, data: &[u8]) -> nix::Result<()> {
        let mut bytes = pair(offset, u32::try_from(data.len()).unwrap_or(u32::MAX)).to_vec();
        bytes.extend_from_slice(data);
        self.call(VHOST_VDPA_SET_CONFIG, &mut bytes)
    }

    /// A call on `struct vhost_vring_state`; `num` afterwards.
    pub fn vring(&self, cmd: u32, index: u32, num: u32) -> nix::Result<u32> {
        let mut bytes = pair(index, num);
        self.call(cmd, &mut bytes)?;
        let [.., a, b, c, d] = bytes;
        Ok(u32::from_le_bytes([a, b, c, d]))
    }

    /// Ring addresses; they are IOVAs.
    pub fn set_vring_addr(&self, index: u32, desc: u64, avail: u64, used: u64) -> nix::Result<()> {
        self.set_vring_addr_logged(index, 0, [desc, avail, used], 0)
    }

    /// The same with flags, and where writes to the used ring are logged.
    pub fn set_vring_addr_logged(
        &self,
        index: u32,
        flags: u32,
        [desc, avail, used]: [u64; 3],
        log: u64,
    ) -> nix::Result<()> {
        let mut bytes = pair(index, flags).to_vec();
        [desc, used, avail, log].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        self.call(VHOST_SET_VRING_ADDR, &mut bytes)
    }

    /// A call on `struct vhost_vring_file`.
    pub fn vring_fd(&self, cmd: u32, index: u32, fd: i32) -> nix::Result<()> {
        self.call(cmd, &mut pair(index, fd.cast_unsigned()))
    }

    /// The same, with a descriptor that is one.
    pub fn set_event(&self, cmd: u32, index: u32, event: impl AsFd) -> nix::Result<()> {
        self.vring_fd(cmd, index, event.as_fd().as_raw_fd())
    }

    /// Writes bytes; how many were taken.
    pub fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        self.calls.write(&self.file, bytes)
    }

    /// Reads what is there; how much.
    pub fn read(&self, into: &mut [u8]) -> nix::Result<usize> {
        self.calls.read(&self.file, into)
    }

    /// Writes an IOTLB message of version 2, about the address space 0.
    pub fn message(&self, request: u8, iova: u64, size: u64, address: u64) -> nix::Result<usize> {
        self.write(&Message { request, iova, size, address, ..Message::default() }.bytes())
    }
}

/// An IOTLB message.
#[derive(Clone, Copy)]
pub struct Message {
    pub version: u32,
    pub asid: u32,
    pub request: u8,
    pub iova: u64,
    pub size: u64,
    pub address: u64,
    pub permission: u8,
}

impl Default for Message {
    /// Version 2, with permission to read and write.
    fn default() -> Self {
        Self { version: 2, asid: 0, request: 0, iova: 0, size: 0, address: 0, permission: 3 }
    }
}

impl Message {
    /// As it is written.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = pair(self.version, self.asid).to_vec();
        [self.iova, self.size, self.address].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend([self.permission, self.request]);
        bytes.resize(MESSAGE, 0);
        bytes
    }
}

/// Two 32-bit words.
pub fn pair(first: u32, second: u32) -> [u8; 8] {
    (u64::from(first) | u64::from(second) << 32).to_le_bytes()
}
