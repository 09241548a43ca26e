//! The vhost-user protocol's requests, put to the [`Device`].

use std::fs::File;
use std::io;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error as ProtocolError, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use crate::device::{Device, RINGS};
use crate::error::Error;
use crate::instance::Instance;
use crate::memory::{MAX_REGIONS, Region};
use crate::ring::{Addresses, Kick};

/// The handler of one connection after the other.
#[derive(Debug)]
pub struct Backend<I> {
    device: Device<I>,
    /// Set by the SET_FEATURES with which every connection is primed (see [`crate::server`]).
    primed: bool,
}

impl<I: Instance> Backend<I> {
    /// A backend for `device`.
    pub fn new(device: Device<I>) -> Self {
        Self { device, primed: false }
    }

    /// The device behind it.
    pub fn device(&mut self) -> &mut Device<I> {
        &mut self.device
    }

    /// Forgets the connection; see [`Device::teardown`].
    pub fn disconnect(&mut self) -> std::result::Result<(), Error> {
        self.primed = false;
        self.device.teardown()
    }
}

impl From<Error> for ProtocolError {
    fn from(error: Error) -> Self {
        Self::ReqHandlerError(io::Error::other(error))
    }
}

fn region(sent: &VhostUserMemoryRegion) -> Result<Region> {
    Ok(Region::new(sent.guest_phys_addr, sent.memory_size, sent.user_addr).map_err(Error::from)?)
}

fn not_offered<T>(what: &'static str) -> Result<T> {
    Err(ProtocolError::InvalidOperation(what))
}

impl<I: Instance> VhostUserBackendReqHandlerMut for Backend<I> {
    fn set_owner(&mut self) -> Result<()> {
        // this process owns the instance for as long as it lives
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        // deprecated; the specification's advice is to disable the rings or to ignore it
        for ring in 0..RINGS {
            self.device.set_enabled(ring, false)?;
        }
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        Ok(self.device.reset()?)
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.offered()?)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if !std::mem::replace(&mut self.primed, true) {
            return Ok(());
        }
        Ok(self.device.set_features(features)?)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let sent = regions.iter().zip(files).map(|(sent, file)| Ok((region(sent)?, file, sent.mmap_offset)));
        self.device.set_memory(sent.collect::<Result<_>>()?)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        Ok(self.device.set_size(index, num)?)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let addresses = Addresses { desc: descriptor, avail: available, used };
        Ok(self.device.set_addresses(index, addresses, flags.bits())?)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        Ok(self.device.set_base(index, base)?)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        Ok(VhostUserVringState::new(index, self.device.stop_ring(index)?))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.device.set_kick(index.into(), fd.map_or(Kick::Polled, Kick::Fd))?)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.device.set_call(index.into(), fd)?)
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.device.set_err(index.into(), fd)?)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        // the handler around this trait keeps them, and refuses requests of those that were not acknowledged
        Ok(())
    }

    /// In queue pairs, as QEMU counts them for a network device.
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(u64::from(RINGS / 2))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        Ok(self.device.set_enabled(index, enable)?)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        sent: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        self.device.add_memory((region(sent)?, fd, sent.mmap_offset))?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, sent: &VhostUserSingleMemoryRegion) -> Result<()> {
        Ok(self.device.remove_memory(&region(sent)?)?)
    }

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        not_offered("CONFIG was not offered")
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        not_offered("CONFIG was not offered")
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        not_offered("this is no GPU")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        not_offered("SHARED_OBJECT was not offered")
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        not_offered("INFLIGHT_SHMFD was not offered")
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        not_offered("INFLIGHT_SHMFD was not offered")
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        not_offered("DEVICE_STATE was not offered")
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered("DEVICE_STATE was not offered")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered("SHMEM was not offered")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        not_offered("LOG_SHMFD was not offered")
    }
}
