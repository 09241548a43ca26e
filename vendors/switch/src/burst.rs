//! Frames on their way from one port to others, during one burst.
//!
//! One lane is held at a time. Frames in a row to the same port share it: one lock, one look at the ring, one interrupt.

use crate::counters::Drop;
use crate::egress::Room;
use crate::forward::{Forwarder, Passing, Route};
use crate::member::{Exit, Member};
use virtio_net::{Delivery, Halt, Lane, Receiver, Sent, Statistics};

/// Where frames come from: one at a time, which is done with before the next one is there.
pub trait Source {
    /// Takes the next one; `false`: there is none now. What of it is copied is enough to say where it goes.
    fn next(&mut self) -> Result<bool, Halt>;

    /// What was copied of the frame taken, which begins with its virtio-net header.
    fn frame(&mut self) -> &mut [u8];

    /// Bytes of the whole frame.
    fn len(&self) -> usize;

    /// Copies more, up to so many bytes of it. `false`: they cannot be had, and the frame is to be dropped.
    fn copy_to(&mut self, bytes: usize) -> bool;

    /// Gives `head`, and what of the frame is behind `from`, to a driver. An error is that driver's.
    fn give_to(&mut self, driver: &mut Receiver<'_, '_>, head: &mut [u8], from: usize) -> Result<Delivery, Halt>;

    /// It is done with.
    fn done(&mut self, sent: Sent);
}

/// Who gets a frame.
#[derive(Clone, Copy)]
enum To<'b> {
    One(&'b Member),
    All,
}

type Routed<'b> = Option<(To<'b>, Passing)>;

/// The frames of one source.
pub struct Burst<'b> {
    pub forwarder: Forwarder<'b>,
    /// Of the port they come from.
    pub statistics: &'b Statistics,
    /// Which of the lanes of another port they take: the frames of a flow stay in order.
    pub lane: u16,
    /// Room for what is written anew.
    pub room: &'b mut Room,
    /// How often frames may still be handed over: one that goes to a thousand ports takes as long as a thousand that go to
    /// one.
    pub left: usize,
}

impl<'b> Burst<'b> {
    /// Passes on what there is.
    pub fn run(&mut self, frames: &mut impl Source) -> Result<(), Halt> {
        let mut routed = self.next(frames)?;
        while let Some((to, passing)) = routed {
            routed = match to {
                To::One(member) => self.pass(member, passing, frames)?,
                To::All => {
                    let sent = self.flood(&passing, frames);
                    frames.done(sent);
                    self.next(frames)?
                }
            };
        }
        Ok(())
    }

    /// Takes the next frame that goes somewhere.
    #[inline]
    fn next(&mut self, frames: &mut impl Source) -> Result<Routed<'b>, Halt> {
        while self.left > 0 && frames.next()? {
            match self.forwarder.route(frames) {
                Route::Flood(passing) => return Ok(Some((To::All, passing))),
                Route::Port(id, passing) => match self.forwarder.topology.member(id) {
                    Some(member) => return Ok(Some((To::One(member), passing))),
                    None => self.drop(Drop::TxNoPort),
                },
                Route::Drop(reason) => self.drop(reason),
                Route::BadHeader => self.statistics.tx.bad_header.add(1),
                Route::Gone => {}
            }
            frames.done(Sent::Dropped);
        }
        Ok(None)
    }

    /// Hands over the frame taken, and those after it that go the same way; the one that does not comes back.
    fn pass(&mut self, member: &'b Member, passing: Passing, frames: &mut impl Source) -> Result<Routed<'b>, Halt> {
        let Some(lane) = self.lane_of(member) else {
            member.write(frames, &passing, self.forwarder.now, self.room);
            return self.after(frames);
        };
        let mut held = Some(passing);
        let mut routed = Ok(None);
        let delivered = lane.deliver(|driver| {
            while let Some(passing) = held {
                member.deliver(driver, frames, &passing, self.forwarder.now, self.room)?;
                routed = self.after(frames);
                held = match routed {
                    Ok(Some((To::One(next), passing))) if std::ptr::eq(next, member) => Some(passing),
                    _ => None,
                };
            }
            Ok(())
        });
        // What is wrong with the other driver's ring is the other driver's.
        if delivered.is_err() && held.is_some() {
            member.settings.counters.count(Drop::RxNoBuffers);
            return self.after(frames);
        }
        routed
    }

    /// The frame taken was handed over.
    fn after(&mut self, frames: &mut impl Source) -> Result<Routed<'b>, Halt> {
        frames.done(Sent::Taken);
        self.left = self.left.saturating_sub(1);
        self.next(frames)
    }

    /// Hands a frame to all ports of its VLAN, once to each.
    fn flood(&mut self, passing: &Passing, frames: &mut impl Source) -> Sent {
        let Forwarder { topology, from, now, .. } = self.forwarder;
        let mut sent = Sent::Dropped;
        for member in topology.ports_of(passing.tci.vid()).filter(|member| member.id != from.id) {
            sent = Sent::Taken;
            self.left = self.left.saturating_sub(1);
            match self.lane_of(member) {
                None => member.write(frames, passing, now, self.room),
                Some(lane) => {
                    let room = &mut *self.room;
                    let delivered = lane.deliver(|driver| member.deliver(driver, frames, passing, now, room));
                    if delivered.is_err() {
                        member.settings.counters.count(Drop::RxNoBuffers);
                    }
                }
            }
        }
        if sent == Sent::Dropped {
            self.drop(Drop::TxNoPort);
        }
        sent
    }

    /// Counts a frame that goes nowhere.
    fn drop(&self, reason: Drop) {
        self.forwarder.from.settings.counters.count(reason);
        self.statistics.tx.errors.add(1);
    }

    /// The lane to an instance's driver.
    fn lane_of(&self, member: &'b Member) -> Option<&'b Lane> {
        let Exit::Driver(lanes) = &member.exit else { return None };
        let lanes = lanes.enabled();
        lanes.get(usize::from(self.lane) % lanes.len().max(1))
    }
}
