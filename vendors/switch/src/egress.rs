//! A frame as it leaves at a port.

use crate::burst::Source;
use crate::counters::Drop;
use crate::forward::Passing;
use crate::frame::{HEADERS, Parsed, TAG, write_head};
use crate::member::{Exit, Member};
use crate::offload::{Need, Segments, complete, silence};
use crate::vlan::Tci;
use std::sync::atomic::Ordering;
use virtio_net::{Delivery, HEADER, Halt, MAX_FRAME, Receiver};

/// Room for what is written anew of a frame.
pub struct Room {
    head: [u8; HEADERS + TAG],
    /// A segment.
    segment: Box<[u8]>,
}

impl Room {
    /// It takes little memory before a large frame is cut there.
    pub fn new() -> Self {
        Self { head: [0; HEADERS + TAG], segment: vec![0; HEADER + MAX_FRAME].into_boxed_slice() }
    }
}

impl Member {
    /// Gives the frame taken to the driver of this port.
    ///
    /// Where its driver leaves less to others than the sender does, checksums are completed in the copy of the frame, which
    /// is as right for who gets it next.
    #[inline]
    pub fn deliver(
        &self,
        driver: &mut Receiver<'_, '_>,
        frames: &mut impl Source,
        passing: &Passing,
        now: u64,
        room: &mut Room,
    ) -> Result<(), Halt> {
        let Some(tagged) = self.admit(passing, now) else {
            driver.count_dropped();
            return Ok(());
        };
        let tag = tagged.then_some(passing.tci);
        // The lane is held: these are the features of the queue that is there.
        let need = Need::of(frames.frame(), self.settings.features.load(Ordering::Relaxed));
        if matches!(need, Need::Segments | Need::Checksum) && !frames.copy_to(usize::MAX) {
            return Ok(());
        }
        match need {
            Need::Segments => return self.deliver_segments(driver, frames.frame(), &passing.parsed, tag, room),
            Need::Checksum => complete(frames.frame()),
            Need::Silence | Need::Nothing => {}
        }
        let Some((len, from)) = begin(frames.frame(), &passing.parsed, tag, &mut room.head) else { return Ok(()) };
        let head = &mut room.head[..len];
        if need == Need::Silence {
            silence(head);
        }
        let delivery = frames.give_to(driver, head, from)?;
        self.count(driver, delivery);
        Ok(())
    }

    /// Whether the frame may leave here, and if so whether with a tag.
    fn admit(&self, passing: &Passing, now: u64) -> Option<bool> {
        let tagged = self.settings.membership.egress(passing.tci.vid(), passing.parsed.inner)?;
        let admitted = self.settings.rx.admit(now, passing.packets, passing.bytes);
        if !admitted {
            self.settings.counters.count(Drop::RxLimited);
        }
        admitted.then_some(tagged)
    }

    fn count(&self, driver: &Receiver<'_, '_>, delivery: Delivery) {
        if delivery == Delivery::NoBuffers {
            self.settings.counters.count(Drop::RxNoBuffers);
            driver.count_dropped();
        }
    }

    #[cold]
    fn deliver_segments(
        &self,
        driver: &mut Receiver<'_, '_>,
        frame: &[u8],
        parsed: &Parsed,
        tag: Option<Tci>,
        room: &mut Room,
    ) -> Result<(), Halt> {
        // It was looked at when it came.
        let Some(segments) = Segments::new(frame, frame.len(), parsed) else { return Ok(()) };
        for number in 0..segments.count() {
            let Some(len) = segments.write(number, &mut room.segment) else { return Ok(()) };
            let segment = &room.segment[..len];
            let Some((len, from)) = begin(segment, parsed, tag, &mut room.head) else { return Ok(()) };
            let delivery = driver.deliver_parts(&mut room.head[..len], &segment[from..])?;
            self.count(driver, delivery);
            // The rest of it would be lost as well, and costs as much.
            if delivery == Delivery::NoBuffers {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives the frame taken to the host, if this is a port of it.
    pub fn write(&self, frames: &mut impl Source, passing: &Passing, now: u64, room: &mut Room) {
        let Exit::Tap(tap) = &self.exit else { return };
        let Some(tagged) = self.admit(passing, now) else { return };
        // No system call is to meet the memory of a client.
        if !frames.copy_to(usize::MAX) {
            return;
        }
        let frame = &*frames.frame();
        let tag = tagged.then_some(passing.tci);
        if let Some((len, from)) = begin(frame, &passing.parsed, tag, &mut room.head)
            && !tap.write(&room.head[..len], &frame[from..])
        {
            self.settings.counters.count(Drop::RxNoBuffers);
        }
    }
}

/// Writes the beginning of a frame as it leaves, of what is there of it; says how long it is, and where the rest begins.
fn begin(frame: &[u8], parsed: &Parsed, tag: Option<Tci>, head: &mut [u8]) -> Option<(usize, usize)> {
    let from = frame.len().min(HEADERS);
    Some((write_head(&frame[..from], parsed, tag, head)?, from))
}
