//! What an operator sees of a port, and sets.

use crate::counters::Counters;
use crate::frame::address_of;
use crate::hub::{Hub, Joined};
use crate::member::Settings;
use crate::parameters::{LIMITS, parse_limit, parse_switch};
use crate::vlan::Kind;
use nix::errno::Errno;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use virtio_mdev_api::{AttributeSpec, Refusal};
use virtio_net::{Controls, LinkState, Mac, Seat};

pub struct PortControls {
    pub hub: Arc<Hub>,
    pub settings: Arc<Settings>,
    pub link: Arc<LinkState>,
    /// Left with the instance.
    pub joined: Arc<OnceLock<Joined>>,
    /// Given back with the instance.
    pub _seat: Seat,
}

impl PortControls {
    fn vlans(&self) -> &[&str] {
        match self.settings.membership.kind {
            Kind::Uplink => &["native"],
            Kind::Access => &["vlan"],
            Kind::Trunk => &["vlans", "native"],
        }
    }

    fn native(&self) -> String {
        self.settings.membership.native.map_or_else(|| "none".to_owned(), |vid| vid.to_string())
    }
}

impl Controls for PortControls {
    fn attributes(&self) -> Vec<AttributeSpec> {
        let attribute = |name: &str, writable| AttributeSpec { name: name.to_owned(), writable };
        let read = self.vlans().iter().copied().chain(["max-learned", "learned"]).map(|name| attribute(name, false));
        let written =
            LIMITS.iter().map(|(name, _)| *name).chain(["spoofchk", "link"]).map(|name| attribute(name, true));
        let counters = Counters::names().map(|name| attribute(&format!("statistics/{name}"), false));
        read.chain(written).chain(counters).collect()
    }

    fn show(&mut self, name: &str) -> Option<Result<String, Refusal>> {
        let on = |on, yes: &str, no: &str| if on { yes.to_owned() } else { no.to_owned() };
        let settings = &self.settings;
        if let Some(count) = name.strip_prefix("statistics/").and_then(|name| settings.counters.show(name)) {
            return Some(Ok(count.to_string()));
        }
        if let Some(bucket) = settings.limit(name) {
            return Some(Ok(bucket.limit().map_or_else(|| "0".to_owned(), |limit| limit.to_string())));
        }
        Some(Ok(match name {
            "vlan" | "native" if self.vlans().contains(&name) => self.native(),
            "vlans" if self.vlans().contains(&name) => settings.membership.vlans.to_string(),
            "max-learned" => settings.max_learned.to_string(),
            "learned" => self.joined.get().map_or(0, |joined| self.hub.learned(joined.id())).to_string(),
            "spoofchk" => on(settings.spoofchk.load(Ordering::Relaxed), "on", "off"),
            "link" => on(self.link.is_up(), "up", "down"),
            _ => return None,
        }))
    }

    fn store(&mut self, name: &str, value: &str) -> Option<Result<(), Refusal>> {
        let refuse = |why: &str| Refusal::new(Errno::EINVAL, format!("{name}={value}: {why}"));
        if let Some(bucket) = self.settings.limit(name) {
            return Some(parse_limit(value).map(|limit| bucket.set(limit)).map_err(refuse));
        }
        match name {
            "spoofchk" => {
                let on = parse_switch(value).ok_or_else(|| refuse("neither on nor off"));
                Some(on.map(|on| self.settings.spoofchk.store(on, Ordering::Relaxed)))
            }
            "link" => Some(match value {
                "up" | "down" => {
                    self.link.set(value == "up");
                    Ok(())
                }
                _ => Err(refuse("neither up nor down")),
            }),
            _ => None,
        }
    }

    fn address_changed(&mut self, mac: Mac) {
        self.hub.readdress(&self.settings, address_of(mac));
    }
}
