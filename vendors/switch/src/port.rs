//! The port of a queue pair.

use crate::burst::{Burst, Source};
use crate::egress::Room;
use crate::forward::Forwarder;
use crate::frame::LINK;
use crate::hub::Hub;
use crate::member::Settings;
use crate::table::PortId;
use std::sync::{Arc, OnceLock};
use virtio_mdev_api::Refusal;
use virtio_net::{Delivery, Halt, Outgoing, Port, Receiver, Sent, Statistics, is_valid};

/// Frames of a burst that are handed over.
pub const DELIVERIES: usize = 256;

/// One pair of an instance.
pub struct SwitchPort {
    hub: Arc<Hub>,
    settings: Arc<Settings>,
    /// Where it takes part, as soon as it does.
    place: Arc<OnceLock<PortId>>,
    /// The number of the pair.
    pair: u16,
    room: Room,
}

impl SwitchPort {
    /// The port of a pair.
    pub fn new(hub: Arc<Hub>, settings: Arc<Settings>, place: Arc<OnceLock<PortId>>, pair: u16) -> Self {
        Self { hub, settings, place, pair, room: Room::new() }
    }
}

impl Port for SwitchPort {
    const OUTSIDE: bool = true;

    fn start(&mut self, features: u64) -> Result<(), Refusal> {
        self.hub.start(&self.settings, features);
        Ok(())
    }

    fn transmit(
        &mut self,
        frames: &mut Outgoing<'_, '_>,
        _: &mut Receiver<'_, '_>,
        statistics: &Statistics,
    ) -> Result<(), Halt> {
        let topology = self.hub.topology();
        let from = self.place.get().and_then(|id| topology.member(*id));
        // A port that has left has nobody to send to, and its place may be another's.
        let Some(from) = from.filter(|member| Arc::ptr_eq(&member.settings, &self.settings)) else {
            while Source::next(frames)? {
                frames.done(Sent::Dropped);
            }
            return Ok(());
        };
        let forwarder = Forwarder { hub: &self.hub, topology: &topology, from, now: self.hub.now() };
        Burst { forwarder, statistics, lane: self.pair, room: &mut self.room, left: DELIVERIES }.run(frames)
    }
}

impl Source for Outgoing<'_, '_> {
    fn next(&mut self) -> Result<bool, Halt> {
        self.take_some(LINK, is_valid)
    }

    fn frame(&mut self) -> &mut [u8] {
        self.frame()
    }

    fn len(&self) -> usize {
        self.frame_len()
    }

    fn copy_to(&mut self, bytes: usize) -> bool {
        self.copy_to(bytes)
    }

    fn give_to(&mut self, driver: &mut Receiver<'_, '_>, head: &mut [u8], from: usize) -> Result<Delivery, Halt> {
        self.give_to(driver, head, from)
    }

    fn done(&mut self, sent: Sent) {
        self.done(sent);
    }
}
