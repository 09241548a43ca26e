//! What each call does.

use crate::VhostNetFile;
use crate::error::NetError;
use crate::features::{BACKEND, OFFERED};
use crate::file::Permit;
use crate::memory::Table;
use crate::ring::{RINGS, Ring};
use crate::state::State;
use devnode::{Ioctl, IoctlReply};
use nix::errno::Errno;
use tap::{GivenError, GivenTap};
use vfio_container::Client;
use vfio_container::call::{UNBIND, argument, eventfd, tell, tell_bytes};
use vfio_container::trace::Trace;
use vhost_abi::command::*;
use vhost_abi::feature::{VHOST_F_LOG_ALL, VHOST_NET_F_VIRTIO_NET_HDR, VHOST_VRING_F_LOG};
use vhost_abi::{MemoryTable, VringAddr, VringFile, VringState};
use zerocopy::IntoBytes;

/// Words of features a client may ask for or send: more than any kernel knows.
const MAX_FEATURE_WORDS: usize = 512;

impl VhostNetFile {
    pub(crate) fn dispatch(
        &self,
        client: &dyn Client,
        permit: Permit,
        call: &Ioctl<'_>,
        name: &'static str,
        trace: &mut Trace,
    ) -> Result<IoctlReply, NetError> {
        match call.cmd {
            VHOST_GET_FEATURES => tell(OFFERED, trace),
            VHOST_SET_FEATURES => self.set_features(client, permit, argument(call)?),
            VHOST_GET_FEATURES_ARRAY => get_features_array(client, call.arg),
            VHOST_SET_FEATURES_ARRAY => self.set_features_array(client, permit, call),
            VHOST_GET_BACKEND_FEATURES => tell(BACKEND, trace),
            VHOST_SET_BACKEND_FEATURES => {
                let features: u64 = argument(call)?;
                check_offered(features, BACKEND)?;
                self.settle(permit, |state| {
                    state.backend_features = features;
                    Ok(())
                })
            }
            VHOST_SET_OWNER => self.set_owner(client).map(|()| IoctlReply::ok()),
            VHOST_RESET_OWNER => self.settle(permit, State::reset),
            VHOST_SET_MEM_TABLE => {
                let MemoryTable { regions, padding } = argument(call)?;
                if padding != 0 {
                    return Err(NetError::Padding(padding));
                }
                let regions_at = call.arg.checked_add(size_of::<MemoryTable>() as u64).ok_or(Errno::EFAULT)?;
                let table = Table::fetch(client, regions_at, regions)?;
                let logs = self.permitted(permit)?.features & VHOST_F_LOG_ALL != 0;
                let last = |state: &State| state.last_logged().max(table.last());
                let bitmap = if logs { self.bitmap(client, permit, None, last)? } else { None };
                self.settle(permit, |state| state.set_table(table, bitmap))
            }
            VHOST_SET_LOG_BASE => {
                self.set_log_base(client, permit, argument(call)?)?;
                Ok(IoctlReply::ok())
            }
            VHOST_SET_LOG_FD => {
                let notify = eventfd(client, argument(call)?, trace)?;
                self.settle(permit, |state| {
                    state.log.notify.set(notify);
                    Ok(())
                })
            }
            VHOST_NET_SET_BACKEND => self.set_backend(client, permit, argument(call)?),
            _ => self.dispatch_vring(client, permit, call, name, trace),
        }
    }

    fn dispatch_vring(
        &self,
        client: &dyn Client,
        permit: Permit,
        call: &Ioctl<'_>,
        name: &'static str,
        trace: &mut Trace,
    ) -> Result<IoctlReply, NetError> {
        match call.cmd {
            VHOST_SET_VRING_NUM => {
                let VringState { index, num } = argument(call)?;
                self.settle(permit, |state| state.ring(index)?.0.set_size(num))
            }
            VHOST_SET_VRING_BASE => {
                let VringState { index, num } = argument(call)?;
                self.settle(permit, |state| state.ring(index)?.0.set_base(num))
            }
            VHOST_GET_VRING_BASE => {
                let VringState { index, .. } = argument(call)?;
                let mut state = self.permitted(permit)?;
                let (ring, common) = state.ring(index)?;
                let num = ring.base(&common)?.into();
                tell_bytes(VringState { index, num }.as_bytes())
            }
            VHOST_SET_VRING_ADDR => self.set_addresses(client, permit, argument(call)?),
            VHOST_SET_VRING_KICK | VHOST_SET_VRING_CALL | VHOST_SET_VRING_ERR => {
                let VringFile { index, fd } = argument(call)?;
                check_index(index)?;
                let event = eventfd(client, fd, trace)?;
                self.settle(permit, |state| {
                    let (ring, _) = state.ring(index)?;
                    match call.cmd {
                        VHOST_SET_VRING_KICK => ring.set_kick(event),
                        VHOST_SET_VRING_CALL => ring.call.set(event),
                        _ => ring.err.set(event),
                    }
                    Ok(())
                })
            }
            VHOST_SET_VRING_BUSYLOOP_TIMEOUT => {
                let VringState { index, num } = argument(call)?;
                self.settle(permit, |state| {
                    state.ring(index)?.0.busyloop = num;
                    Ok(())
                })
            }
            VHOST_GET_VRING_BUSYLOOP_TIMEOUT => {
                let VringState { index, .. } = argument(call)?;
                let num = self.permitted(permit)?.ring(index)?.0.busyloop;
                // Its number says that it is written to, so the kernel copies nothing back for us.
                client.write(call.arg, VringState { index, num }.as_bytes())?;
                Ok(IoctlReply::ok())
            }
            _ => Err(NetError::NotOffered(name)),
        }
    }

    fn set_features(&self, client: &dyn Client, permit: Permit, features: u64) -> Result<IoctlReply, NetError> {
        check_offered(features, OFFERED)?;
        let logs = features & VHOST_F_LOG_ALL != 0;
        let bitmap = if logs { self.bitmap(client, permit, None, State::last_logged)? } else { None };
        self.settle(permit, |state| state.set_features(features, bitmap))
    }

    fn set_features_array(
        &self,
        client: &dyn Client,
        permit: Permit,
        call: &Ioctl<'_>,
    ) -> Result<IoctlReply, NetError> {
        let words = features_array(client, call.arg, argument(call)?)?;
        let (features, rest) = words.split_first().unwrap_or((&0, &[]));
        if let Some(&unknown) = rest.iter().find(|word| **word != 0) {
            return Err(NetError::Features { unknown });
        }
        self.set_features(client, permit, *features)
    }

    fn set_addresses(&self, client: &dyn Client, permit: Permit, addresses: VringAddr) -> Result<IoctlReply, NetError> {
        let VringAddr { index, flags, desc, used, avail, log } = addresses;
        check_index(index)?;
        if flags & !VHOST_VRING_F_LOG != 0 {
            return Err(NetError::VringFlags(flags));
        }
        if desc % 16 != 0 || avail % 2 != 0 || used % 4 != 0 || log % 4 != 0 {
            return Err(NetError::Alignment);
        }
        let (logs, last) = {
            let mut state = self.permitted(permit)?;
            (state.features & VHOST_F_LOG_ALL != 0, state.ring(index)?.0.last_logged(&addresses))
        };
        let bitmap = if logs {
            let bitmap = self.bitmap(client, permit, None, |state| state.last_logged().max(last));
            bitmap.map_err(|_| NetError::LogRange)?
        } else {
            None
        };
        self.settle(permit, |state| {
            let (ring, common) = state.ring(index)?;
            ring.set_addresses(addresses, &common)?;
            state.use_log(bitmap)
        })
    }

    fn set_backend(&self, client: &dyn Client, permit: Permit, backend: VringFile) -> Result<IoctlReply, NetError> {
        let VringFile { index, fd } = backend;
        check_index(index)?;
        let bare = {
            let mut state = self.permitted(permit)?;
            if fd == UNBIND {
                state.ring(index)?.0.detach()?;
                return Ok(IoctlReply::ok());
            }
            state.check_threads()?;
            let (ring, common) = state.ring(index)?;
            // Before the descriptor is looked at, as in the kernel.
            ring.check(&common)?;
            common.features & VHOST_NET_F_VIRTIO_NET_HDR != 0
        };
        let file = client.file(fd).map_err(|errno| match errno {
            Errno::EINVAL => NetError::BackEnd(GivenError::NotTap),
            errno => NetError::Caller(errno),
        })?;
        let tap = GivenTap::adopt(file, Ring::half(index), bare)?;
        self.settle(permit, |state| {
            if bare != (state.features & VHOST_NET_F_VIRTIO_NET_HDR != 0) {
                return Err(NetError::Running);
            }
            state.check_log(state.features)?;
            state.check_threads()?;
            state.use_log(None)?;
            let name = state.name();
            let (ring, common) = state.ring(index)?;
            ring.attach(tap, &name, &common)
        })
    }

    /// Does `work` while no other call on this file does anything.
    fn settle(
        &self,
        permit: Permit,
        work: impl FnOnce(&mut State) -> Result<(), NetError>,
    ) -> Result<IoctlReply, NetError> {
        work(&mut *self.permitted(permit)?)?;
        Ok(IoctlReply::ok())
    }
}

/// The words of a `struct vhost_features_array` at `arg` that counts `count` of them.
fn features_array(client: &dyn Client, arg: u64, count: u64) -> Result<Vec<u64>, NetError> {
    let mut words = vec![0; feature_words(count)?];
    client.read(arg.checked_add(8).ok_or(Errno::EFAULT)?, words.as_mut_bytes())?;
    Ok(words)
}

/// Fills the client's array with what is offered, and the rest of it with zeros.
fn get_features_array(client: &dyn Client, arg: u64) -> Result<IoctlReply, NetError> {
    let mut count = 0u64;
    client.read(arg, count.as_mut_bytes())?;
    let mut words = vec![0; feature_words(count)?];
    if let Some(first) = words.first_mut() {
        *first = OFFERED;
    }
    client.write(arg.checked_add(8).ok_or(Errno::EFAULT)?, words.as_bytes())?;
    Ok(IoctlReply::ok())
}

fn feature_words(count: u64) -> Result<usize, NetError> {
    usize::try_from(count).ok().filter(|count| *count <= MAX_FEATURE_WORDS).ok_or(NetError::FeatureWords(count))
}

fn check_offered(features: u64, offered: u64) -> Result<(), NetError> {
    match features & !offered {
        0 => Ok(()),
        unknown => Err(NetError::Features { unknown }),
    }
}

fn check_index(index: u32) -> Result<(), NetError> {
    let known = usize::try_from(index).is_ok_and(|index| index < RINGS);
    if known { Ok(()) } else { Err(NetError::NoSuchRing(index)) }
}
