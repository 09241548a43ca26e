//! Where the device stands on a ring: its private half, of either format.

use crate::area::Areas;
use crate::batch::{Batch, Places};
use crate::chain::{Chain, Rules};
use crate::error::{Cause, RingError};
use crate::layout::Layout;
use crate::packed::Packed;
use crate::split::Split;
use crate::sync::{Ordering, fence};
use virtio_mdev_api::dirty::{DirtyRecord, RingPart};
use virtio_mdev_api::dma::{Held, View};
use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED};
use virtio_mdev_api::{QueueConfig, QueueState};

/// What was negotiated about notifications and used buffers.
#[derive(Clone, Copy)]
pub struct Traits {
    pub event_idx: bool,
    pub in_order: bool,
}

/// Where writes to a ring are reported.
pub struct Marks<'a> {
    pub dirty: &'a DirtyRecord,
    pub part: RingPart,
}

impl Marks<'_> {
    /// These ranges were written.
    #[inline]
    pub fn mark<const N: usize>(&self, ranges: [(u64, u64); N]) {
        self.dirty.mark_ring(self.part, ranges);
    }
}

enum Format {
    Split(Split),
    Packed(Packed),
}

/// A ring as the device keeps it. Places on it are 16 bits that only its format understands.
pub struct Ring {
    pub index: u16,
    pub layout: Layout,
    /// Its addresses are in another address space than those of the buffers.
    pub elsewhere: bool,
    traits: Traits,
    indirect: bool,
    format: Format,
    /// Where the chains of the batch begin.
    begin: u16,
    /// The first chain not used for good, when it is one of an earlier batch.
    behind: u16,
    batch: Batch,
    completed: Completed,
    /// Chains published, by a number that wraps.
    pub used: u32,
}

impl Ring {
    /// Of `config`, with at most `max_size` entries, at `state`.
    pub fn new(
        index: u16,
        config: &QueueConfig,
        max_size: u16,
        state: QueueState,
        features: u64,
        elsewhere: bool,
    ) -> Result<Self, RingError> {
        let has = |feature| features & feature != 0;
        let packed = has(VIRTIO_F_RING_PACKED);
        let layout = Layout::new(config, packed, max_size)?;
        let size = layout.size;
        let (format, place) = match state {
            QueueState::Split { avail } if !packed => (Format::Split(Split::new(size, avail)), avail),
            QueueState::Packed { .. } if packed => {
                let (ring, place) = Packed::new(size, state).ok_or(RingError::State)?;
                (Format::Packed(ring), place)
            }
            _ => return Err(RingError::State),
        };
        Ok(Self {
            index,
            layout,
            elsewhere,
            traits: Traits { event_idx: has(VIRTIO_F_EVENT_IDX), in_order: has(VIRTIO_F_IN_ORDER) },
            indirect: has(VIRTIO_F_INDIRECT_DESC),
            format,
            begin: place,
            behind: place,
            batch: Batch::new(size),
            completed: Completed::new(size),
            used: 0,
        })
    }

    /// Where it stands: what was taken and not committed is not counted.
    pub fn state(&self) -> QueueState {
        match &self.format {
            Format::Split(_) => QueueState::Split { avail: self.committed() },
            Format::Packed(ring) => ring.state(self.committed()),
        }
    }

    /// The next chain to take. Nobody keeps it: a place that changes with every chain is one more store for each.
    #[inline]
    fn cursor(&self) -> u16 {
        self.batch.after().unwrap_or(self.begin)
    }

    /// The first chain not used for good.
    #[inline]
    fn committed(&self) -> u16 {
        match self.batch.kept() {
            None => self.behind,
            Some(after) => after.unwrap_or(self.begin),
        }
    }

    /// Its areas in `memory`. Before the first chain of a split ring its used index is read.
    pub fn find<'b>(&self, memory: View<'b>) -> Result<Areas<'b>, (crate::Part, virtio_mdev_api::dma::AccessError)> {
        Areas::find(memory, &self.layout, matches!(self.format, Format::Packed(_)))
    }

    /// What is read once.
    pub fn prepare(&mut self, areas: &Areas<'_>) -> Result<(), Cause> {
        match &mut self.format {
            Format::Split(ring) => ring.prepare(areas),
            Format::Packed(_) => Ok(()),
        }
    }

    /// Whether there is a chain that was fetched and not taken.
    #[inline]
    pub fn has_next(&self) -> bool {
        self.batch.has_next()
    }

    /// Whether the device may write to the next of the chains that were fetched, if there is one.
    #[inline]
    pub fn next_is_writable(&self) -> Option<bool> {
        self.batch.next().map(|entry| entry.writable > 0)
    }

    /// Takes the next of the chains that were fetched.
    #[inline(always)]
    pub fn take(&mut self) -> Option<Chain> {
        self.batch.take()
    }

    /// Fetches chains, if there are any, after all of those fetched before were taken. Where the buffer of one is in place it
    /// is held, in `places`.
    pub fn fetch<'b>(&mut self, areas: &Areas<'_>, memory: &View<'b>, places: &mut Places<'b>) -> Result<(), Cause> {
        let (cursor, committed) = (self.cursor(), self.committed());
        self.batch.renew(cursor == committed);
        (self.begin, self.behind) = (cursor, committed);
        let Self { layout, elsewhere, indirect, format, batch, .. } = self;
        let rules = Rules { layout, elsewhere: *elsewhere, indirect: *indirect, memory };
        match format {
            Format::Split(ring) => ring.fetch(areas, &rules, cursor, batch, places),
            Format::Packed(ring) => ring.fetch(areas, &rules, cursor, batch, places),
        }
    }

    /// Where the buffer of `chain` is, if it has one only and that is reached in place.
    #[inline]
    pub fn hold<'b>(&self, memory: &View<'b>, chain: &Chain) -> Option<Held<'b>> {
        self.batch.entry(chain)?.hold(memory)
    }

    /// The buffers of a chain: readable, writable.
    #[inline]
    pub fn buffers(&self, chain: &Chain) -> (&[crate::Buffer], &[crate::Buffer]) {
        self.batch.buffers(chain)
    }

    #[inline]
    pub fn complete(&mut self, chain: &Chain, written: u32) {
        self.completed.push(chain, written, self.traits.in_order);
    }

    #[inline]
    pub fn commit(&mut self) {
        self.batch.commit();
        self.completed.keep();
    }

    /// What was not committed was never taken.
    pub fn rewind(&mut self) {
        if self.batch.kept().is_none() {
            self.begin = self.behind;
        }
        self.batch.rewind();
        self.completed.rewind();
    }

    /// Asks for a notification of the next chain. `true`: there is one already.
    pub fn enable_notifications(&mut self, areas: &Areas<'_>, marks: &Marks<'_>) -> Result<bool, Cause> {
        let cursor = self.cursor();
        match &mut self.format {
            Format::Split(ring) => ring.notify(areas, marks, self.traits, Some(cursor))?,
            Format::Packed(ring) => ring.notify(areas, marks, self.traits, Some(cursor))?,
        }
        // The driver makes a chain available, then reads this; one of the two sees the other.
        fence(Ordering::SeqCst);
        let more = self.batch.has_next()
            || match &mut self.format {
                Format::Split(ring) => ring.available(areas, cursor)? > 0,
                Format::Packed(ring) => ring.available(areas, cursor)?,
            };
        if !more {
            // What says that there is nothing may be memory the client took away.
            match &self.format {
                Format::Split(_) => Split::check_kept(areas)?,
                Format::Packed(_) => Packed::check_kept(areas, cursor)?,
            }
        }
        Ok(more)
    }

    /// Notifications are a waste from now on.
    pub fn disable_notifications(&mut self, areas: &Areas<'_>, marks: &Marks<'_>) -> Result<(), Cause> {
        match &mut self.format {
            Format::Split(ring) => ring.notify(areas, marks, self.traits, None),
            Format::Packed(ring) => ring.notify(areas, marks, self.traits, None),
        }
    }

    /// Publishes what was committed. Says whether the driver wants to be told.
    pub fn publish(&mut self, areas: &Areas<'_>, marks: &Marks<'_>) -> Result<bool, Cause> {
        self.rewind();
        let (completed, end) = (&self.completed, self.committed());
        let published = match &mut self.format {
            Format::Split(ring) => ring.publish(areas, marks, self.traits, completed, end)?,
            Format::Packed(ring) => ring.publish(areas, marks, self.traits, completed, end)?,
        };
        if !published {
            return Ok(false);
        }
        // No more than the size of the ring.
        self.used = self.used.wrapping_add(u32::try_from(self.completed.len()).unwrap_or(0));
        self.completed.clear();
        match &mut self.format {
            Format::Split(ring) => ring.wants_interrupt(areas, self.traits),
            Format::Packed(ring) => ring.wants_interrupt(areas),
        }
    }
}

/// Chains that were used, in order: 8 bytes each, as an entry of a split used ring has them, but that the two upper bytes
/// of the id, which are zero there, hold the descriptors of a packed ring.
pub struct Completed {
    entries: Box<[[u8; 8]]>,
    len: usize,
    /// How many of them are committed.
    kept: usize,
    /// Room for writing in any of them, where that matters: used in order.
    room: u64,
}

impl Completed {
    fn new(size: u16) -> Self {
        Self { entries: vec![[0; 8]; usize::from(size)].into_boxed_slice(), len: 0, kept: 0, room: 0 }
    }

    /// Chains beyond the size of the ring are none: nobody has so many.
    #[inline]
    fn push(&mut self, chain: &Chain, written: u32, in_order: bool) {
        let Some(place) = self.entries.get_mut(self.len) else { return };
        *place = chain.used(written).to_le_bytes();
        self.len += 1;
        if in_order {
            self.room |= chain.writable;
        }
    }

    #[inline]
    fn keep(&mut self) {
        self.kept = self.len;
    }

    fn rewind(&mut self) {
        self.len = self.kept;
    }

    fn clear(&mut self) {
        (self.len, self.kept, self.room) = (0, 0, 0);
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing could be written in any of them, if they are used in order; `false` may be wrong. A driver takes
    /// what is not named one by one as filled (virtio 1.3 §2.7.9).
    pub fn are_readable(&self) -> bool {
        self.room == 0
    }

    fn all(&self) -> &[[u8; 8]] {
        &self.entries[..self.len]
    }

    pub fn bytes(&self) -> &[u8] {
        self.all().as_flattened()
    }

    /// The bytes of the last one.
    pub fn last(&self) -> &[u8] {
        self.all().last().map_or(&[], |entry| entry)
    }

    /// Id, descriptors of the ring, bytes written.
    #[allow(clippy::cast_possible_truncation, reason = "fields of the number are cut out of it")]
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16, u32)> {
        self.all().iter().map(|entry| {
            let entry = u64::from_le_bytes(*entry);
            (entry as u16, (entry >> 16) as u16, (entry >> 32) as u32)
        })
    }
}
