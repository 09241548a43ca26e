//! MISS messages: what a device needs and nobody has mapped, for a client that maps on demand.
//!
//! A client that never reads or polls its file maps everything before; there an access to what is not mapped is a fault.
//! The owner's first read, or poll for input, says that it answers misses: from then on, until the file is closed, the
//! queue that misses something waits for it.

use crate::VhostFile;
use crate::error::VhostError;
use crate::memory::has_own_iommu;
use devnode::{PollEvents, Read, WaitQueue};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use vfio_container::Client;
use vhost_abi::command::Access;
use vhost_abi::feature::VHOST_BACKEND_F_IOTLB_MSG_V2;
use vhost_abi::{MESSAGE_SIZE, Message, Version};
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::dma::{MissHandler, Permissions};

/// Messages that wait for a client that does not read; a device that misses more asks again later.
const MAX_MESSAGES: usize = 1024;

/// The messages of one open file that were not read yet.
#[derive(Default)]
pub struct MissQueue {
    messages: Mutex<VecDeque<Miss>>,
    waiters: WaitQueue,
}

#[derive(Clone, Copy)]
struct Miss {
    asid: u32,
    iova: u64,
    access: Permissions,
}

impl MissQueue {
    /// Without a message.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Turns the misses of address space `asid` into messages.
    pub fn handler(self: &Arc<Self>, asid: u32) -> Arc<dyn MissHandler> {
        Arc::new(Asker { queue: Arc::clone(self), asid })
    }

    /// Those who wait for a message.
    pub fn waiters(&self) -> &WaitQueue {
        &self.waiters
    }

    /// The oldest message, as a client of `version` understands it.
    pub fn take(&self, version: Version) -> Option<[u8; MESSAGE_SIZE]> {
        let Miss { asid, iova, access } = self.messages.lock().pop_front()?;
        Some(Message::miss(version, asid, iova, access.bits()))
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.messages.lock().is_empty()
    }

    /// Forgets all messages.
    pub fn clear(&self) {
        self.messages.lock().clear();
    }
}

struct Asker {
    queue: Arc<MissQueue>,
    asid: u32,
}

impl MissHandler for Asker {
    fn miss(&self, iova: u64, access: Permissions) -> bool {
        let mut messages = self.queue.messages.lock();
        if messages.len() >= MAX_MESSAGES {
            return false;
        }
        messages.push_back(Miss { asid: self.asid, iova, access });
        drop(messages);
        self.queue.waiters.wake();
        true
    }

    fn obsolete(&self, first: u64, last: u64) {
        // The page of a miss is what was asked for.
        let page = |iova: u64| (iova & !0xfff, iova | 0xfff);
        let stays = |miss: &Miss| miss.asid != self.asid || page(miss.iova).1 < first || page(miss.iova).0 > last;
        self.queue.messages.lock().retain(stays);
    }
}

impl VhostFile {
    /// Serves a `read(2)`: one message, of the owner. What is shorter than a message gets nothing.
    ///
    /// EAGAIN: there is none now. EBADFD: nor will there be, because the device does not use the IOTLB.
    pub fn serve_read(&self, client: &dyn Client, read: &Read) -> Result<Vec<u8>, Errno> {
        self.next_message(client, read).map_err(|error| error.errno())
    }

    fn next_message(&self, client: &dyn Client, read: &Read) -> Result<Vec<u8>, VhostError> {
        drop(self.lock()?);
        self.check(client, Access::Owner)?;
        if read.len < MESSAGE_SIZE {
            return Ok(Vec::new());
        }
        self.answer_misses()?;
        let state = self.lock()?;
        let version =
            if state.backend_features & VHOST_BACKEND_F_IOTLB_MSG_V2 != 0 { Version::V2 } else { Version::V1 };
        match self.misses.take(version) {
            Some(message) => Ok(message.to_vec()),
            None if read.nonblock || state.memory.is_iotlb() && !has_own_iommu(self.session()) => {
                Err(Errno::EAGAIN.into())
            }
            None => Err(Errno::EBADFD.into()),
        }
    }

    /// What `poll(2)` finds. The owner that waits for input answers misses.
    pub fn serve_poll(&self, client: &dyn Client, wanted: PollEvents) -> PollEvents {
        if self.lock().is_err() {
            return PollEvents::HUP | PollEvents::ERR;
        }
        if wanted.intersects(PollEvents::IN)
            && self.check(client, Access::Owner).is_ok()
            && let Err(error) = self.answer_misses()
        {
            tracing::debug!(%error, "misses are faults");
        }
        let messages = if self.misses.is_empty() { PollEvents::empty() } else { PollEvents::IN };
        messages | PollEvents::OUT
    }

    /// From now on the client is asked for what is not mapped.
    fn answer_misses(&self) -> Result<(), VhostError> {
        let mut state = self.lock()?;
        if !std::mem::replace(&mut state.answers_misses, true) {
            state.memory.ask(&self.misses);
        }
        Ok(())
    }

    /// The device was reset: what it asked for is obsolete, and what it asks for next is new.
    pub(crate) fn forget_misses(&self, state: &mut crate::file::State) {
        self.misses.clear();
        if state.answers_misses {
            state.memory.ask(&self.misses);
        }
    }
}
