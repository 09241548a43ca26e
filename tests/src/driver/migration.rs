//! Moving a device: its migration states, the data stream, and the log of the pages it writes.

use super::abi::*;
use super::device::empty_handle;
use super::vfio::{bitmap_for, pages_in};
use super::{CallResult, Client, Device, DriverError, sys};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// The data stream of a state.
#[derive(Debug)]
pub struct DataStream(pub File);

impl DataStream {
    /// What there is to read, to its end or until there is nothing now.
    pub fn read(&mut self) -> CallResult<Vec<u8>> {
        let mut all = Vec::new();
        let mut part = [0; 100];
        loop {
            match self.0.read(&mut part) {
                Ok(0) => return Ok(all),
                Ok(len) => all.extend_from_slice(&part[..len]),
                Err(error) if error.raw_os_error() == Some(ENOMSG) => return Ok(all),
                Err(error) => return Err(DriverError::io("read the data stream")(error)),
            }
        }
    }

    /// Writes all of it.
    pub fn write(&mut self, bytes: &[u8]) -> CallResult<()> {
        self.0.write_all(bytes).map_err(DriverError::io("write the data stream"))
    }

    /// VFIO_MIG_GET_PRECOPY_INFO: bytes to be read, and bytes that came since.
    pub fn precopy_info(&self) -> CallResult<(u64, u64)> {
        let mut bytes = [0; 24];
        bytes[0] = 24;
        let told = sys::ioctl(&self.0, VFIO_MIG_GET_PRECOPY_INFO, &mut bytes);
        told.map_err(DriverError::call("VFIO_MIG_GET_PRECOPY_INFO"))?;
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Ok((word(8), word(16)))
    }
}

impl Device {
    /// VFIO_DEVICE_FEATURE: the argument afterwards.
    pub fn feature(&self, name: &str, flags: u32, argument: &[u64]) -> CallResult<Vec<u64>> {
        let argsz = u32::try_from(8 + 8 * argument.len()).expect("a short one");
        let mut bytes = [argsz.to_ne_bytes(), flags.to_ne_bytes()].concat();
        argument.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        sys::ioctl(self, VFIO_DEVICE_FEATURE, &mut bytes).map_err(DriverError::call(name))?;
        Ok(bytes[8..].as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
    }

    /// `VFIO_MIGRATION_*`.
    pub fn migration_flags(&self) -> CallResult<u64> {
        let flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION;
        Ok(self.feature("VFIO_DEVICE_FEATURE_MIGRATION", flags, &[0])?[0])
    }

    /// The state it is in, and -1.
    pub fn migration_state(&self) -> CallResult<(u32, i32)> {
        let flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
        let word = self.feature("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", flags, &[0])?[0];
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        Ok((u32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])))
    }

    /// Sets a state, with no place for a data stream.
    pub fn set_migration_state(&self, state: u32) -> CallResult<()> {
        let flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
        self.feature("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", flags, &[state.into()]).map(drop)
    }

    /// The same by a handle: the data stream, where the state begins one.
    pub fn begin(&self, root: &Path, state: u32) -> CallResult<Option<DataStream>> {
        let handle = empty_handle(root)?;
        let mut bytes = [self.as_fd().as_raw_fd().to_ne_bytes(), state.to_ne_bytes()].concat();
        let became = sys::ioctl(&handle, UMDEV_HANDLE_MIG_STATE, &mut bytes);
        let became = became.map_err(DriverError::call("UMDEV_HANDLE_MIG_STATE"))?;
        Ok((became == 1).then_some(DataStream(handle)))
    }

    /// The same for a state that begins one.
    pub fn stream(&self, root: &Path, state: u32) -> CallResult<DataStream> {
        let none = || DriverError::Wrong { what: format!("state {state} began no data stream") };
        self.begin(root, state)?.ok_or_else(none)
    }

    /// VFIO_DEVICE_FEATURE_DMA_LOGGING_START for ranges of address and length.
    pub fn log_start(&self, ranges: &[(u64, u64)]) -> CallResult<()> {
        let flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
        let words: Vec<u64> = ranges.iter().flat_map(|&(iova, len)| [iova, len]).collect();
        let at = u64::try_from(words.as_ptr().expose_provenance()).expect("64 bits");
        let count = u64::try_from(ranges.len()).expect("64 bits");
        let started = self.feature("VFIO_DEVICE_FEATURE_DMA_LOGGING_START", flags, &[4096, count, at]);
        std::hint::black_box(words);
        started.map(drop)
    }

    /// VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP.
    pub fn log_stop(&self) -> CallResult<()> {
        let flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP;
        self.feature("VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP", flags, &[]).map(drop)
    }

    /// VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: the pages of the range that were written, by their place in it.
    pub fn log_report(&self, iova: u64, size: u64) -> CallResult<Vec<u64>> {
        let mut bitmap = bitmap_for(size);
        let at = u64::try_from(bitmap.as_mut_ptr().expose_provenance()).expect("64 bits");
        let flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
        self.feature("VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT", flags, &[iova, size, 4096, at])?;
        Ok(pages_in(&bitmap))
    }
}

impl Client {
    /// Its rings are where another driver's are, who has the same memory: what that one began it goes on with.
    pub fn continue_from(&mut self, source: &Self) {
        for (ring, other) in [(&mut self.rx, &source.rx), (&mut self.tx, &source.tx)] {
            (ring.avail_idx, ring.seen) = (other.avail_idx, other.seen);
        }
    }

    /// Gives the device the eventfds of the rings, and nothing else.
    pub fn connect(&self) -> CallResult<()> {
        for ring in [&self.rx, &self.tx] {
            self.vhost.set_vring_fd(VHOST_SET_VRING_KICK, ring.index, &ring.kick)?;
            self.vhost.set_vring_fd(VHOST_SET_VRING_CALL, ring.index, &ring.call)?;
        }
        Ok(())
    }
}
