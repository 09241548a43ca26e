//! A frame as it leaves at a port.

use crate::counters::Drop;
use crate::forward::Passing;
use crate::frame::{Head, Parsed};
use crate::member::{Exit, Member};
use crate::offload::{Need, Segments, complete, silence};
use std::sync::atomic::Ordering;
use virtio_net::{Delivery, Halt, Receiver};

impl Member {
    /// Gives a frame to the driver of this port. `scratch` has room for a frame.
    ///
    /// Where its driver leaves less to others than the sender does, checksums are completed in the frame itself, which is
    /// as right for who gets it next.
    #[inline]
    pub fn deliver(
        &self,
        driver: &mut Receiver<'_, '_>,
        frame: &mut [u8],
        passing: &Passing,
        now: u64,
        scratch: &mut [u8],
    ) -> Result<(), Halt> {
        let Some(tagged) = self.admit(passing, now) else {
            driver.count_dropped();
            return Ok(());
        };
        let tag = tagged.then_some(passing.tci);
        // The lane is held: these are the features of the queue that is there.
        let need = Need::of(frame, self.settings.features.load(Ordering::Relaxed));
        if need == Need::Segments {
            return self.deliver_segments(driver, frame, &passing.parsed, tag, scratch);
        }
        if need == Need::Checksum {
            complete(frame);
        }
        let Some(mut head) = Head::new(frame, &passing.parsed, tag) else { return Ok(()) };
        if need == Need::Silence {
            silence(head.bytes_mut());
        }
        self.hand_over(driver, &mut head, frame).map(drop)
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

    #[cold]
    fn deliver_segments(
        &self,
        driver: &mut Receiver<'_, '_>,
        frame: &[u8],
        parsed: &Parsed,
        tag: Option<crate::vlan::Tci>,
        scratch: &mut [u8],
    ) -> Result<(), Halt> {
        // It was looked at when it came.
        let Some(segments) = Segments::new(frame, parsed) else { return Ok(()) };
        for number in 0..segments.count() {
            let Some(len) = segments.write(number, scratch) else { return Ok(()) };
            let segment = &scratch[..len];
            let Some(mut head) = Head::new(segment, parsed, tag) else { return Ok(()) };
            // The rest of it would be lost as well, and costs as much.
            if self.hand_over(driver, &mut head, segment)? == Delivery::NoBuffers {
                return Ok(());
            }
        }
        Ok(())
    }

    fn hand_over(&self, driver: &mut Receiver<'_, '_>, head: &mut Head, frame: &[u8]) -> Result<Delivery, Halt> {
        let rest = &frame[head.rest()..];
        let delivery = driver.deliver_parts(head.bytes_mut(), rest)?;
        if delivery == Delivery::NoBuffers {
            self.settings.counters.count(Drop::RxNoBuffers);
            driver.count_dropped();
        }
        Ok(delivery)
    }

    /// Gives a frame to the host, if this is a port of it.
    pub fn write(&self, frame: &[u8], passing: &Passing, now: u64) {
        let Exit::Tap(tap) = &self.exit else { return };
        let Some(tagged) = self.admit(passing, now) else { return };
        if let Some(head) = Head::new(frame, &passing.parsed, tagged.then_some(passing.tci))
            && !tap.write(head.bytes(), &frame[head.rest()..])
        {
            self.settings.counters.count(Drop::RxNoBuffers);
        }
    }
}
