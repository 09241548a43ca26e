//! What each call does.

use crate::VhostFile;
use crate::error::VhostError;
use crate::memory::{CONTAINER_ASID, has_own_iommu};
use devnode::{Ioctl, IoctlReply};
use nix::errno::Errno;
use vfio_container::call::{argument, eventfd, tell, tell_bytes};
use vfio_container::trace::Trace;
use vfio_container::{Attachment, Client, regions};
use vhost_abi::command::*;
use vhost_abi::feature::*;
use vhost_abi::{ConfigRange, IovaRange, Message, Request, VringAddr, VringFile, VringState};
use virtio_mdev_api::dma::Permissions;
use virtio_mdev_api::{SessionError, Status};
use zerocopy::{FromBytes, IntoBytes};

/// The backend features of every device. IOTLB_PERSIST says that maps survive a reset: here they always do.
const BACKEND_FEATURES: u64 = VHOST_BACKEND_F_IOTLB_MSG_V2
    | VHOST_BACKEND_F_IOTLB_BATCH
    | VHOST_BACKEND_F_SUSPEND
    | VHOST_BACKEND_F_RESUME
    | VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK
    | VHOST_BACKEND_F_IOTLB_PERSIST;
const KNOWN_BACKEND_FEATURES: u64 = BACKEND_FEATURES | VHOST_BACKEND_F_IOTLB_ASID | VHOST_BACKEND_F_DESC_ASID;

/// Bytes of configuration space before the bytes themselves, in `struct vhost_vdpa_config`.
const CONFIG_HEADER: u64 = 8;
/// QEMU reads this much of a network device's space, whatever its size; beyond the end it finds zeros.
const CONFIG_READABLE: u32 = 8;

impl VhostFile {
    pub(crate) fn dispatch(
        &self,
        client: &dyn Client,
        call: &Ioctl<'_>,
        name: &'static str,
        trace: &mut Trace,
    ) -> Result<IoctlReply, VhostError> {
        let session = self.session();
        let info = session.info();
        match call.cmd {
            VHOST_GET_FEATURES => tell(info.features, trace),
            VHOST_SET_FEATURES => {
                let features: u64 = argument(call)?;
                trace.arg("features", format!("{features:#x}"));
                self.set_features(client, features)
            }
            VHOST_GET_BACKEND_FEATURES => tell(self.backend_features(), trace),
            VHOST_SET_BACKEND_FEATURES => self.set_backend_features(argument(call)?, trace),
            VHOST_SET_OWNER => self.set_owner(client).map(|()| IoctlReply::ok()),
            VHOST_SET_LOG_BASE => self.set_log_base(client, argument(call)?),
            VHOST_SET_LOG_FD => self.set_log_fd(eventfd(client, argument(call)?, trace)?),
            VHOST_VDPA_GET_DEVICE_ID => tell(info.device_id, trace),
            VHOST_VDPA_GET_STATUS => tell(session.status()?.bits(), trace),
            VHOST_VDPA_SET_STATUS => self.set_status(client, argument(call)?, trace),
            VHOST_VDPA_GET_CONFIG => self.get_config(client, call.arg, trace),
            VHOST_VDPA_SET_CONFIG => self.set_config(client, call, trace),
            VHOST_VDPA_SET_CONFIG_CALL => {
                let call = eventfd(client, argument(call)?, trace)?;
                self.settle(|_| {
                    session.set_config_call(call);
                    Ok(())
                })
            }
            VHOST_VDPA_GET_VRING_NUM => tell(info.queues.iter().map(|queue| queue.max_size).max().unwrap_or(0), trace),
            VHOST_VDPA_GET_IOVA_RANGE => {
                let range = IovaRange { first: info.limits.first, last: info.limits.last };
                tell_bytes(range.as_bytes())
            }
            VHOST_VDPA_GET_CONFIG_SIZE => tell(info.config_size, trace),
            VHOST_VDPA_GET_VQS_COUNT => tell(count(info.queues.len()), trace),
            VHOST_VDPA_GET_GROUP_NUM => tell(info.groups(), trace),
            VHOST_VDPA_GET_AS_NUM => tell(info.address_spaces.max(1), trace),
            VHOST_VDPA_SUSPEND => self.settle(|_| Ok(session.suspend()?)),
            VHOST_VDPA_RESUME => {
                let attachment = self.attachment(client);
                self.settle(|state| {
                    state.memory.choose(session, self.node.group(), attachment.as_ref())?;
                    Ok(session.resume()?)
                })
            }
            _ => self.dispatch_vring(client, call, name, trace),
        }
    }

    fn dispatch_vring(
        &self,
        client: &dyn Client,
        call: &Ioctl<'_>,
        name: &'static str,
        trace: &mut Trace,
    ) -> Result<IoctlReply, VhostError> {
        let session = self.session();
        match call.cmd {
            VHOST_SET_VRING_NUM
            | VHOST_SET_VRING_BASE
            | VHOST_GET_VRING_BASE
            | VHOST_VDPA_SET_VRING_ENABLE
            | VHOST_VDPA_GET_VRING_GROUP
            | VHOST_VDPA_GET_VRING_DESC_GROUP
            | VHOST_VDPA_GET_VRING_SIZE
            | VHOST_VDPA_SET_GROUP_ASID => {
                let state: VringState = argument(call)?;
                trace.arg("index", state.index);
                trace.arg("num", state.num);
                self.check_index(state.index)?;
                self.vring_state(client, call.cmd, state)
            }
            VHOST_SET_VRING_ADDR => self.set_vring_addr(client, argument(call)?, trace),
            VHOST_SET_VRING_KICK | VHOST_SET_VRING_CALL | VHOST_SET_VRING_ERR => {
                let VringFile { index, fd } = argument(call)?;
                trace.arg("index", index);
                self.check_index(index)?;
                let event = eventfd(client, fd, trace)?;
                let proven = self.attachment(client);
                self.settle(|state| {
                    state.proven = proven;
                    match call.cmd {
                        VHOST_SET_VRING_KICK => session.set_kick(index, event)?,
                        VHOST_SET_VRING_CALL => session.set_call(index, event)?,
                        _ => session.set_err(index, event)?,
                    }
                    Ok(())
                })
            }
            _ => Err(VhostError::NotOffered(name)),
        }
    }

    fn vring_state(&self, client: &dyn Client, cmd: u32, state: VringState) -> Result<IoctlReply, VhostError> {
        let VringState { index, num } = state;
        let session = self.session();
        let queue = usize::try_from(index).ok().and_then(|index| session.info().queues.get(index));
        let queue = queue.ok_or(SessionError::NoSuchQueue { index })?;
        match cmd {
            VHOST_SET_VRING_NUM => {
                self.settle(|_| Ok(session.set_queue_size(index, num)?))?;
                self.log_rings(client)?;
                Ok(IoctlReply::ok())
            }
            VHOST_SET_VRING_BASE => self.settle(|_| Ok(session.set_queue_base(index, num)?)),
            VHOST_GET_VRING_BASE => {
                let held = self.lock()?;
                let num = session.queue_base(index)?;
                drop(held);
                tell_bytes(VringState { index, num }.as_bytes())
            }
            VHOST_VDPA_GET_VRING_GROUP => {
                let (num, _) = session.queue_groups(index)?;
                tell_bytes(VringState { index, num }.as_bytes())
            }
            VHOST_VDPA_GET_VRING_SIZE => tell_bytes(VringState { index, num: queue.max_size.into() }.as_bytes()),
            VHOST_VDPA_GET_VRING_DESC_GROUP => {
                let (_, ring_group) = session.queue_groups(index)?;
                let num = ring_group.ok_or(VhostError::NotOffered("a group for the ring of this queue"))?;
                tell_bytes(VringState { index, num }.as_bytes())
            }
            // Here the index is that of a group; that it is first taken for a queue's is the kernel's way.
            VHOST_VDPA_SET_GROUP_ASID => self.settle(|_| Ok(session.set_group_asid(index, num)?)),
            _ => self.enable(client, index, num != 0),
        }
    }

    fn enable(&self, client: &dyn Client, index: u32, enabled: bool) -> Result<IoctlReply, VhostError> {
        let session = self.session();
        let attachment = self.attachment(client);
        self.settle(|state| {
            if enabled && session.status()?.contains(Status::DRIVER_OK) {
                state.memory.choose(session, self.node.group(), attachment.as_ref())?;
            }
            Ok(session.set_queue_enabled(index, enabled)?)
        })
    }

    fn set_status(&self, client: &dyn Client, status: u8, trace: &mut Trace) -> Result<IoctlReply, VhostError> {
        trace.arg("status", format!("{status:#x}"));
        let session = self.session();
        let starts = status & Status::DRIVER_OK.bits() != 0;
        let attachment = if starts { self.attachment(client) } else { None };
        self.cover_container(client, attachment.as_ref())?;
        self.settle(|state| {
            if starts {
                state.memory.choose(session, self.node.group(), attachment.as_ref())?;
            }
            let written = session.set_status(status);
            let runs = session.status().is_ok_and(|now| now.contains(Status::DRIVER_OK));
            let released = if runs { Ok(()) } else { state.memory.release(session) };
            // The first failure is the one to tell of.
            written?;
            released?;
            if status == 0 {
                self.forget_run(state);
            }
            Ok(())
        })
    }

    /// The device is reset by another way than its status byte.
    pub(crate) fn reset(&self) -> Result<(), VhostError> {
        let session = self.session();
        self.settle(|state| {
            session.reset()?;
            state.memory.release(session)?;
            self.forget_run(state);
            Ok(())
        })
        .map(drop)
    }

    /// What is known of the run that a reset ended.
    fn forget_run(&self, state: &mut crate::file::State) {
        state.log.reset();
        self.forget_misses(state);
    }

    fn set_vring_addr(
        &self,
        client: &dyn Client,
        addr: VringAddr,
        trace: &mut Trace,
    ) -> Result<IoctlReply, VhostError> {
        let VringAddr { index, flags, desc, used, avail, log } = addr;
        trace.arg("index", index);
        trace.arg("desc", desc);
        trace.arg("avail", avail);
        trace.arg("used", used);
        self.check_index(index)?;
        if flags & !VHOST_VRING_F_LOG != 0 {
            return Err(VhostError::VringFlags(flags));
        }
        if log % 4 != 0 {
            return Err(VhostError::LogAlignment(log));
        }
        self.set_ring(client, index, [desc, avail, used], (flags & VHOST_VRING_F_LOG != 0).then_some(log))
    }

    fn set_backend_features(&self, features: u64, trace: &mut Trace) -> Result<IoctlReply, VhostError> {
        trace.arg("features", format!("{features:#x}"));
        if features & VHOST_BACKEND_F_DESC_ASID != 0
            && features & VHOST_BACKEND_F_IOTLB_ASID == 0
            && features & !KNOWN_BACKEND_FEATURES == 0
        {
            return Err(VhostError::DescAsidAlone);
        }
        let unknown = features & !self.backend_features();
        if unknown != 0 {
            return Err(VhostError::BackendFeatures { unknown });
        }
        self.settle(|state| {
            self.session().use_desc_groups(features & VHOST_BACKEND_F_DESC_ASID != 0)?;
            state.backend_features = features;
            Ok(())
        })
    }

    fn get_config(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VhostError> {
        let mut header = [0; size_of::<ConfigRange>()];
        client.read(arg, &mut header)?;
        let ConfigRange { offset, len } = ConfigRange::read_from_bytes(&header).map_err(|_| Errno::EFAULT)?;
        trace.arg("offset", offset);
        trace.arg("len", len);
        let size = self.session().info().config_size;
        let len = within(offset, len, size.max(CONFIG_READABLE))?;
        let mut bytes = vec![0; len];
        let real = size.saturating_sub(offset).min(count(len));
        if real != 0 {
            let held = self.lock()?;
            let read = self.session().read_config(offset, real)?;
            drop(held);
            bytes[..read.len()].copy_from_slice(&read);
        }
        client.write(arg.checked_add(CONFIG_HEADER).ok_or(Errno::EFAULT)?, &bytes)?;
        Ok(IoctlReply::ok())
    }

    fn set_config(&self, client: &dyn Client, call: &Ioctl<'_>, trace: &mut Trace) -> Result<IoctlReply, VhostError> {
        let ConfigRange { offset, len } = argument(call)?;
        trace.arg("offset", offset);
        trace.arg("len", len);
        let mut bytes = vec![0; within(offset, len, self.session().info().config_size)?];
        client.read(call.arg.checked_add(CONFIG_HEADER).ok_or(Errno::EFAULT)?, &mut bytes)?;
        self.settle(|_| Ok(self.session().write_config(offset, bytes)?))
    }

    /// What is offered: ids of address spaces only where there is more than one, or more than one group.
    fn backend_features(&self) -> u64 {
        let info = self.session().info();
        let asid = if info.address_spaces > 1 || info.groups() > 1 || info.has_desc_groups() {
            VHOST_BACKEND_F_IOTLB_ASID
        } else {
            0
        };
        let desc_asid = if info.has_desc_groups() { VHOST_BACKEND_F_DESC_ASID } else { 0 };
        BACKEND_FEATURES | asid | desc_asid
    }

    /// An IOTLB message of the owner. Its address space id is one for who acknowledged that there are such ids.
    pub(crate) fn message(&self, client: &dyn Client, message: Message, trace: &mut Trace) -> Result<(), VhostError> {
        let asid = if self.lock()?.backend_features & VHOST_BACKEND_F_IOTLB_ASID != 0 { message.asid } else { 0 };
        trace.arg("asid", asid);
        match message.request {
            Request::Update { iova, size, uaddr, permission } => {
                // The decoder lets no other bits pass.
                let permissions = Permissions::from_bits_truncate(permission);
                trace.arg("iova", iova);
                trace.arg("size", size);
                trace.arg("uaddr", uaddr);
                trace.arg("perm", permissions.bits());
                if asid == CONTAINER_ASID && self.attachment(client).is_some() {
                    return Err(VhostError::TwoSources);
                }
                // Look first: taking hold of memory that is not going to be mapped is dear.
                self.lock()?.memory.iotlb(asid)?.check(iova, size)?;
                self.cover_map(client, iova + (size - 1))?;
                let regions = regions(client, iova, uaddr, size, permissions)?;
                Ok(self.lock()?.memory.iotlb(asid)?.update(regions)?)
            }
            Request::Invalidate { first, last } => {
                trace.arg("first", first);
                trace.arg("last", last);
                self.lock()?.memory.iotlb(asid)?.invalidate(first, last);
                Ok(())
            }
            Request::BatchBegin => {
                self.lock()?.memory.iotlb(asid)?.begin();
                Ok(())
            }
            Request::BatchEnd => Ok(self.lock()?.memory.iotlb(asid)?.end()?),
        }
    }

    /// The container that `client` proves to hold, for a device that would use it. Looks into the client.
    pub(crate) fn attachment(&self, client: &dyn Client) -> Option<Attachment> {
        if has_own_iommu(self.session()) { None } else { self.node.group().attachment(client) }
    }

    /// Does `work` while no other call on this file does anything.
    fn settle(
        &self,
        work: impl FnOnce(&mut crate::file::State) -> Result<(), VhostError>,
    ) -> Result<IoctlReply, VhostError> {
        work(&mut *self.lock()?)?;
        Ok(IoctlReply::ok())
    }

    fn check_index(&self, index: u32) -> Result<(), VhostError> {
        let known = usize::try_from(index).is_ok_and(|index| index < self.session().info().queues.len());
        if known { Ok(()) } else { Err(SessionError::NoSuchQueue { index }.into()) }
    }
}

/// The length, if the range lies within `size` bytes.
fn within(offset: u32, len: u32, size: u32) -> Result<usize, VhostError> {
    let fits = len != 0 && size.checked_sub(offset).is_some_and(|room| len <= room);
    let len_bytes = usize::try_from(len).ok().filter(|_| fits);
    len_bytes.ok_or(VhostError::ConfigRange { offset, len })
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}
