//! The VFIO device file of an instance.

use super::abi::*;
use super::vfio::{Group, open, struct_of};
use super::{CallResult, DriverError, sys};
use nix::errno::Errno;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A VFIO device, open.
#[derive(Debug)]
pub struct Device(pub File);

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What VFIO_DEVICE_GET_REGION_INFO tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionInfo {
    /// Whether it can be read, written, mapped, and has capabilities.
    pub flags: u32,
    /// Bytes.
    pub size: u64,
    /// Where it begins in the file.
    pub offset: u64,
}

/// An empty `dev/vfio/handle`.
pub fn empty_handle(root: &Path) -> CallResult<File> {
    open(&root.join("dev/vfio/handle"))
}

/// Makes a handle the device `name` of the group that is descriptor `group`.
pub fn become_device(handle: &File, group: i32, name: &[u8]) -> CallResult<()> {
    let mut bytes = [0; 72];
    bytes[..4].copy_from_slice(&group.to_ne_bytes());
    bytes[8..8 + name.len()].copy_from_slice(name);
    sys::ioctl(handle, UMDEV_HANDLE_GET_DEVICE, &mut bytes).map(drop).map_err(DriverError::call("GET_DEVICE"))
}

impl Device {
    /// The device of an open group in a container.
    pub fn of(root: &Path, group: &Group, uuid: &str) -> CallResult<Self> {
        let handle = empty_handle(root)?;
        become_device(&handle, group.as_fd().as_raw_fd(), uuid.as_bytes())?;
        Ok(Self(handle))
    }

    /// A call on a structure that is given as words: its words afterwards.
    pub fn ask(&self, name: &str, cmd: u32, words: &[u32]) -> CallResult<Vec<u32>> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        sys::ioctl(self, cmd, &mut bytes).map_err(DriverError::call(name))?;
        Ok(bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect())
    }

    /// VFIO_DEVICE_GET_INFO: flags, regions, interrupts.
    pub fn info(&self) -> CallResult<[u32; 3]> {
        let words = self.ask("VFIO_DEVICE_GET_INFO", VFIO_DEVICE_GET_INFO, &[16, 0, 0, 0])?;
        Ok([words[1], words[2], words[3]])
    }

    /// VFIO_DEVICE_GET_REGION_INFO.
    pub fn region(&self, index: u32) -> CallResult<RegionInfo> {
        let words = [32, 0, index, 0, 0, 0, 0, 0];
        let words = self.ask("VFIO_DEVICE_GET_REGION_INFO", VFIO_DEVICE_GET_REGION_INFO, &words)?;
        let long = |at: usize| u64::from(words[at + 1]) << 32 | u64::from(words[at]);
        Ok(RegionInfo { flags: words[1], size: long(4), offset: long(6) })
    }

    /// VFIO_DEVICE_GET_IRQ_INFO: flags and count.
    pub fn irq(&self, index: u32) -> CallResult<[u32; 2]> {
        let words = self.ask("VFIO_DEVICE_GET_IRQ_INFO", VFIO_DEVICE_GET_IRQ_INFO, &[16, 0, index, 0])?;
        Ok([words[1], words[3]])
    }

    /// VFIO_DEVICE_SET_IRQS.
    pub fn set_irqs(&self, flags: u32, index: u32, start: u32, count: u32, data: &[u8]) -> CallResult<()> {
        let argsz = 20 + u32::try_from(data.len()).expect("a short one");
        let mut bytes = struct_of(argsz, flags, &[]);
        [index, start, count].iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend_from_slice(data);
        sys::ioctl(self, VFIO_DEVICE_SET_IRQS, &mut bytes).map(drop).map_err(DriverError::call("VFIO_DEVICE_SET_IRQS"))
    }

    /// From now on `events` are the interrupts from the first of an index; a negative one is none.
    pub fn set_events(&self, index: u32, events: &[i32]) -> CallResult<()> {
        let data: Vec<u8> = events.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
        let count = u32::try_from(events.len()).expect("a few");
        self.set_irqs(VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, count, &data)
    }

    /// VFIO_DEVICE_RESET.
    pub fn reset(&self) -> CallResult<()> {
        sys::ioctl_value(self, VFIO_DEVICE_RESET, 0).map(drop).map_err(DriverError::call("VFIO_DEVICE_RESET"))
    }

    /// Reads the file at an offset.
    pub fn read(&self, offset: u64, len: usize) -> CallResult<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.0.read_at(&mut bytes, offset).map_err(DriverError::io("pread"))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Writes the file at an offset.
    pub fn write(&self, offset: u64, data: &[u8]) -> CallResult<usize> {
        self.0.write_at(data, offset).map_err(DriverError::io("pwrite"))
    }

    /// Writes to the doorbell of a queue of a virtio device.
    pub fn kick(&self, queue: u32) -> CallResult<()> {
        match self.write(u64::from(queue) * 4096, &queue.to_le_bytes()[..2]) {
            Ok(2) => Ok(()),
            Ok(_) => Err(DriverError::Call { what: "doorbell".into(), errno: Errno::EIO }),
            Err(error) => Err(error),
        }
    }
}
