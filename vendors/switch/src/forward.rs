//! Which way a frame goes.

use crate::burst::Source;
use crate::clock::seconds;
use crate::counters::Drop;
use crate::frame::{Address, GSO_NONE, HEADERS, Parsed, is_group, is_reserved, key};
use crate::hub::{Hub, Topology};
use crate::member::Member;
use crate::offload::{is_sane, on_the_wire};
use crate::table::PortId;
use crate::vlan::Tci;
use std::sync::atomic::Ordering;

/// A frame on its way: what was read of it, its VLAN with its priority, and what it takes of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passing {
    pub parsed: Parsed,
    pub tci: Tci,
    /// Packets on the wire.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To one port.
    Port(PortId, Passing),
    /// To all ports of its VLAN but its own.
    Flood(Passing),
    /// Nowhere.
    Drop(Drop),
    /// Nowhere: its virtio-net header asks for what cannot be.
    BadHeader,
    /// Nowhere: its memory is out of reach.
    Gone,
}

/// The way of the frames of one port, during one burst.
pub struct Forwarder<'b> {
    pub hub: &'b Hub,
    pub topology: &'b Topology,
    /// The port they come from.
    pub from: &'b Member,
    /// Nanoseconds.
    pub now: u64,
}

impl Forwarder<'_> {
    /// Looks at a frame, learns from it, and says where it goes.
    #[inline]
    pub fn route(&self, frames: &mut impl Source) -> Route {
        let settings = &*self.from.settings;
        // How a large frame is to be cut stands in headers of the network and the transport.
        if frames.frame()[1] != GSO_NONE && !frames.copy_to(HEADERS) {
            return Route::Gone;
        }
        let len = frames.len();
        let frame = &*frames.frame();
        let parsed = Parsed::new(frame).filter(|parsed| is_sane(frame, len, parsed));
        let Some(parsed) = parsed else { return Route::BadHeader };
        let Parsed { destination, source, .. } = parsed;
        if is_reserved(destination) {
            return Route::Drop(Drop::TxReserved);
        }
        if source == 0 || is_group(source) {
            return Route::Drop(Drop::TxBadSource);
        }
        let Some(tci) = settings.membership.ingress(parsed.tag) else { return Route::Drop(Drop::TxVlan) };
        let is_own = source == settings.address();
        if !is_own && settings.spoofchk.load(Ordering::Relaxed) {
            return Route::Drop(Drop::TxSpoofed);
        }
        let (packets, bytes) = on_the_wire(frame, len, &parsed);
        if !settings.tx.admit(self.now, packets, bytes) {
            return Route::Drop(Drop::TxLimited);
        }
        let vid = tci.vid();
        // What belongs to another port is not learnt here, whoever sends it.
        if !is_own && self.topology.station(vid, source).is_none() {
            self.hub.table.learn(key(vid, source), self.from.id, seconds(self.now));
        }
        let passing = Passing { parsed, tci, packets, bytes };
        match self.find(vid, destination) {
            None => Route::Flood(passing),
            Some(port) if port == self.from.id => Route::Drop(Drop::TxNoPort),
            Some(port) => Route::Port(port, passing),
        }
    }

    fn find(&self, vid: u16, destination: Address) -> Option<PortId> {
        if is_group(destination) {
            return None;
        }
        let station = self.topology.station(vid, destination);
        station.or_else(|| self.hub.table.find(key(vid, destination), seconds(self.now)))
    }
}
