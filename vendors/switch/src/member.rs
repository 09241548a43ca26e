//! A port of the switch, as the others see it.

use crate::bucket::{Bucket, Policer};
use crate::counters::Counters;
use crate::frame::Address;
use crate::table::PortId;
use crate::uplink::TapUplink;
use crate::vlan::Membership;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use virtio_net::Lanes;

/// Where frames for a port go.
pub enum Exit {
    /// To an instance's driver.
    Driver(Lanes),
    /// To the host.
    Tap(Arc<TapUplink>),
}

/// What a port is, limits and counters.
pub struct Settings {
    /// Kind and VLANs.
    pub membership: Membership,
    /// Of what its driver receives.
    pub rx: Policer,
    /// Of what its driver sends.
    pub tx: Policer,
    /// Most addresses that are learnt here.
    pub max_learned: u32,
    /// Only its own address may be a source here.
    pub spoofchk: AtomicBool,
    /// What was dropped, by reason.
    pub counters: Counters,
    /// The address that it has whoever claims it; 0 for none.
    pub address: AtomicU64,
    /// In effect with its driver.
    pub features: AtomicU64,
    /// When it was started, in the order of all starts.
    pub started: AtomicU64,
}

impl Settings {
    /// A port without limits.
    pub fn new(membership: Membership, address: Address) -> Self {
        Self {
            membership,
            rx: Policer::default(),
            tx: Policer::default(),
            max_learned: u32::MAX,
            spoofchk: AtomicBool::new(false),
            counters: Counters::default(),
            address: AtomicU64::new(address),
            features: AtomicU64::new(0),
            started: AtomicU64::new(0),
        }
    }

    /// Its own address.
    pub fn address(&self) -> Address {
        self.address.load(Ordering::Relaxed)
    }

    /// The limit of this name.
    pub fn limit(&self, name: &str) -> Option<&Bucket> {
        match name {
            "rx-pps" => Some(&self.rx.packets),
            "rx-bps" => Some(&self.rx.bits),
            "tx-pps" => Some(&self.tx.packets),
            "tx-bps" => Some(&self.tx.bits),
            _ => None,
        }
    }

    /// Whether frames of `vid` go out here.
    pub fn is_in(&self, vid: u16) -> bool {
        self.membership.vlans.contains(vid)
    }
}

/// A port that takes part.
pub struct Member {
    /// Its place.
    pub id: PortId,
    /// What it is called.
    pub name: String,
    /// Its settings, shared with its own tasks.
    pub settings: Arc<Settings>,
    /// Where its frames go.
    pub exit: Exit,
}
