//! The device's side of a split virtqueue (virtio 1.3 §2.7).

use super::abi::{VDUSE_VQ_SETUP_KICKFD, VqInfo};
use super::memory::Memory;
use crate::driver::{CallResult, DriverError, sys};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A queue that runs.
#[derive(Debug)]
pub struct Queue {
    size: u16,
    desc: u64,
    driver: u64,
    device: u64,
    available: u16,
    kick: EventFd,
}

/// Buffers of a driver, in order.
pub struct Chain {
    head: u16,
    readable: Vec<(u64, usize)>,
    writable: Vec<(u64, usize)>,
}

impl Queue {
    /// Starts where the driver said.
    pub fn start(file: &File, info: &VqInfo) -> CallResult<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let kick = event.map_err(DriverError::call("eventfd"))?;
        let mut argument = [0; 8];
        argument[..4].copy_from_slice(&info.index.to_ne_bytes());
        argument[4..].copy_from_slice(&kick.as_fd().as_raw_fd().to_ne_bytes());
        sys::ioctl(file, VDUSE_VQ_SETUP_KICKFD, &mut argument).map_err(DriverError::call("VDUSE_VQ_SETUP_KICKFD"))?;
        let &VqInfo { size, desc, driver, device, base, .. } = info;
        Ok(Self { size, desc, driver, device, available: base, kick })
    }

    /// Rung when the driver kicks.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Forgets a kick.
    pub fn kicked(&self) {
        // There may be none.
        let _ = self.kick.read();
    }

    /// Chains taken so far.
    pub fn available(&self) -> u16 {
        self.available
    }

    /// The next chain, which stays where it is until it is [`used`](Self::used). None as well where the ring is broken.
    pub fn next(&self, file: &File, memory: &mut Memory) -> Option<Chain> {
        if self.size == 0 || memory.load(file, self.driver + 2)? == self.available {
            return None;
        }
        let head = memory.load(file, self.driver + 4 + u64::from(self.available % self.size) * 2)?;
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let mut at = head;
        for _ in 0..self.size {
            let mut bytes = [0; 16];
            if at >= self.size || !memory.read(file, self.desc + u64::from(at) * 16, &mut bytes) {
                return None;
            }
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
            let (address, len) = (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u32::from_le_bytes([i, j, k, l]));
            let flags = u16::from_le_bytes([m, n]);
            let list = if flags & WRITE != 0 { &mut chain.writable } else { &mut chain.readable };
            list.push((address, usize::try_from(len).ok()?));
            if flags & NEXT == 0 {
                return Some(chain);
            }
            at = u16::from_le_bytes([o, p]);
        }
        None
    }

    /// Gives a chain back.
    pub fn used(&mut self, file: &File, memory: &mut Memory, chain: &Chain, len: usize) {
        let index = memory.load(file, self.device + 2).unwrap_or(0);
        if self.size == 0 {
            return;
        }
        let mut element = u64::from(chain.head).to_le_bytes();
        element[4..].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        if memory.write(file, self.device + 4 + u64::from(index % self.size) * 8, &element) {
            self.available = self.available.wrapping_add(1);
            memory.store(file, self.device + 2, index.wrapping_add(1));
        } else {
            // Nothing can be given back any more.
            self.size = 0;
        }
    }
}

impl Chain {
    /// What the driver sent.
    pub fn read(&self, file: &File, memory: &mut Memory) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(address, len) in &self.readable {
            let begin = bytes.len();
            bytes.resize(begin + len.min(1 << 16), 0);
            if !memory.read(file, address, &mut bytes[begin..]) {
                bytes.truncate(begin);
            }
        }
        bytes
    }

    /// Writes into the driver's buffers; how much.
    pub fn write(&self, file: &File, memory: &mut Memory, mut bytes: &[u8]) -> usize {
        let mut written = 0;
        for &(address, len) in &self.writable {
            let (now, later) = bytes.split_at(len.min(bytes.len()));
            if now.is_empty() || !memory.write(file, address, now) {
                break;
            }
            written += now.len();
            bytes = later;
        }
        written
    }
}
