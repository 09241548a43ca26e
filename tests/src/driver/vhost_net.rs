//! The driver on vhost-net: rings at addresses in this process, a memory table, and a TAP interface as the back end.

use super::abi::*;
use super::client::{Client, Options, QUEUE_SIZE};
use super::memory::{IOVA, Memory};
use super::ring::Ring;
use super::vhost::Vhost;
use super::{CallResult, DriverError, sys};
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

impl Client {
    /// Opens `dev/vhost-net`, sets it up, and runs it on `tap`.
    pub fn on_tap(root: &Path, tap: &impl AsFd) -> CallResult<Self> {
        let path = root.join("dev/vhost-net");
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let vhost = Vhost(file.map_err(DriverError::io(format_args!("open {}", path.display())))?);
        vhost.set_owner()?;
        let memory = Arc::new(Memory::new()?);
        let rx = Ring::new(Arc::clone(&memory), 0, QUEUE_SIZE)?;
        let tx = Ring::new(Arc::clone(&memory), 1, QUEUE_SIZE)?;
        let mut client = Self { vhost, vfio: None, memory, rx, tx, options: Options::default() };
        client.vhost.set_features(VIRTIO_F_VERSION_1)?;
        client.set_memory_table(IOVA)?;
        client.program_by_address(&client.rx)?;
        client.program_by_address(&client.tx)?;
        client.vhost.set_vring_fd(VHOST_NET_SET_BACKEND, 0, tap)?;
        client.vhost.set_vring_fd(VHOST_NET_SET_BACKEND, 1, tap)?;
        client.offer_receive_buffers()?;
        Ok(client)
    }

    /// VHOST_SET_MEM_TABLE: all memory, from a guest-physical address on.
    pub fn set_memory_table(&self, gpa: u64) -> CallResult<()> {
        let words = [1, gpa, self.memory.size(), self.memory.address(), 0];
        let mut table: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let set = sys::ioctl(&self.vhost, VHOST_SET_MEM_TABLE, &mut table);
        set.map(drop).map_err(DriverError::call("VHOST_SET_MEM_TABLE"))
    }

    fn program_by_address(&self, ring: &Ring) -> CallResult<()> {
        let here = |iova: u64| iova - IOVA + self.memory.address();
        let (desc, avail, used) = ring.addresses();
        self.vhost.set_vring_num(ring.index, u32::from(ring.size))?;
        self.vhost.set_vring_base(ring.index, 0)?;
        self.vhost.set_vring_addr(ring.index, here(desc), here(avail), here(used))?;
        self.vhost.set_vring_fd(VHOST_SET_VRING_KICK, ring.index, &ring.kick)?;
        self.vhost.set_vring_fd(VHOST_SET_VRING_CALL, ring.index, &ring.call)
    }
}
