//! `key=value` parameters of `create`, besides those of every network card.

use crate::bucket::Rate;
use crate::frame::address_of;
use crate::member::Settings;
use crate::vlan::{Kind, MAX_VID, Membership, VlanSet, parse_vid};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use virtio_mdev_api::{ParameterSpec, Refusal, Values};
use virtio_net::Mac;

/// Names of the limits, and what they are about.
pub const LIMITS: [(&str, &str); 4] = [
    ("rx-pps", "most packets a second that its driver receives, and at once; 0 for no limit"),
    ("rx-bps", "most bits a second that its driver receives, and at once; 0 for no limit"),
    ("tx-pps", "most packets a second that its driver sends, and at once; 0 for no limit"),
    ("tx-bps", "most bits a second that its driver sends, and at once; 0 for no limit"),
];
/// Addresses that are learnt at a port unless said otherwise; at an uplink, where the world is, as many as there may be.
const MAX_LEARNED: u16 = 1024;
const DEFAULT_VLAN: u16 = 1;

/// What a port of this kind takes.
pub fn specs(kind: Kind) -> Vec<ParameterSpec> {
    let spec =
        |name, values, default: &str, what| ParameterSpec { name, values, default: Some(default.to_owned()), what };
    let vid = || Values::Number(1..=MAX_VID);
    let native = |default| {
        let what = "VLAN whose frames have no tag here; frames without one are dropped where there is none";
        spec("native", Values::Shape("VLAN|none"), default, what)
    };
    let vlans = || spec("vlans", Values::Shape("VLAN[-VLAN][,...]"), "1-4094", "VLANs, whose frames have tags here");
    let vlan = || spec("vlan", vid(), &DEFAULT_VLAN.to_string(), "VLAN of all its frames, which have no tags here");
    let mut specs = match kind {
        Kind::Uplink => vec![native(&DEFAULT_VLAN.to_string())],
        Kind::Access => vec![vlan()],
        Kind::Trunk => vec![vlans(), native("none")],
    };
    specs.extend(LIMITS.map(|(name, what)| spec(name, Values::Shape("RATE[:BURST]"), "0", what)));
    let learned = if kind == Kind::Uplink { u16::MAX } else { MAX_LEARNED };
    let max = "most addresses that are learnt here; the oldest makes room for another one";
    specs.push(spec("max-learned", Values::Number(1..=u16::MAX), &learned.to_string(), max));
    let spoofchk = "on: frames whose source is not its own address are dropped";
    specs.push(spec("spoofchk", Values::Shape("on|off"), "off", spoofchk));
    specs
}

/// Settings of a port of this kind, with this address.
pub fn parse(kind: Kind, mac: Mac, written: &BTreeMap<String, String>) -> Result<Settings, Refusal> {
    let specs = specs(kind);
    // Given, or the default, which every one of them has.
    let value = |name: &str| {
        let spec = specs.iter().find(|spec| spec.name == name)?;
        let value = written.get(name).map(String::as_str).or(spec.default.as_deref())?;
        Some((spec, value))
    };
    let native = || match value("native") {
        Some((_, "none")) | None => Ok(None),
        Some((spec, text)) => parse_vid(text).map(Some).ok_or_else(|| spec.refuse(text, "neither none nor 1 to 4094")),
    };
    let number = |name| value(name).map(|(spec, text)| spec.number(text)).transpose();
    let membership = match kind {
        Kind::Uplink => Membership::uplink(native()?),
        Kind::Access => Membership::access(number("vlan")?.unwrap_or(DEFAULT_VLAN)),
        Kind::Trunk => {
            let vlans = value("vlans").map(|(spec, text)| text.parse().map_err(|why| spec.refuse(text, why)));
            Membership::trunk(vlans.unwrap_or_else(|| Ok(VlanSet::all()))?, native()?)
        }
    };
    let mut settings = Settings::new(membership, address_of(mac));
    settings.max_learned = number("max-learned")?.unwrap_or(MAX_LEARNED).into();
    for (name, _) in LIMITS {
        if let (Some((spec, text)), Some(bucket)) = (value(name), settings.limit(name)) {
            bucket.set(parse_limit(text).map_err(|why| spec.refuse(text, why))?);
        }
    }
    if let Some((spec, text)) = value("spoofchk") {
        let on = parse_switch(text).ok_or_else(|| spec.refuse(text, "neither on nor off"))?;
        settings.spoofchk.store(on, Ordering::Relaxed);
    }
    Ok(settings)
}

/// A limit as it is written: 0 for none.
pub fn parse_limit(text: &str) -> Result<Option<Rate>, &'static str> {
    if text == "0" { Ok(None) } else { text.parse().map(Some) }
}

/// `on` or `off`.
pub fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    fn settings(kind: Kind, written: &[(&str, &str)]) -> Result<Settings, Refusal> {
        let written = written.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        parse(kind, Mac::from([2, 0, 0, 0, 0, 1]), &written)
    }

    #[test]
    fn a_port_is_what_its_kind_is_unless_said_otherwise() {
        let membership = |kind, written: &[_]| settings(kind, written).unwrap().membership;
        assert_eq!(membership(Kind::Access, &[]), Membership::access(1));
        assert_eq!(membership(Kind::Uplink, &[]), Membership::uplink(Some(1)));
        assert_eq!(membership(Kind::Trunk, &[]), Membership::trunk(VlanSet::all(), None));
        assert_eq!(membership(Kind::Access, &[("vlan", "7")]), Membership::access(7));
        assert_eq!(membership(Kind::Uplink, &[("native", "none")]), Membership::uplink(None));
        let trunk = Membership::trunk("10,20-22".parse().unwrap(), Some(5));
        assert_eq!(membership(Kind::Trunk, &[("vlans", "10,20-22"), ("native", "5")]), trunk);
    }

    #[test]
    fn what_is_shown_as_a_default_can_be_written() {
        for kind in [Kind::Uplink, Kind::Access, Kind::Trunk] {
            let specs = specs(kind);
            let written: Vec<_> = specs.iter().map(|spec| (spec.name, spec.default.as_deref().unwrap())).collect();
            let (all, none) = (settings(kind, &written).unwrap(), settings(kind, &[]).unwrap());
            assert_eq!((&all.membership, all.max_learned), (&none.membership, none.max_learned));
            assert!(LIMITS.iter().all(|(name, _)| all.limit(name).unwrap().limit().is_none()));
        }
    }

    #[test]
    fn limits_and_checks_are_taken() {
        let port = settings(Kind::Access, &[("tx-pps", "10k:64"), ("rx-bps", "1G"), ("spoofchk", "on")]).unwrap();
        let shown = |name| port.limit(name).unwrap().limit().map(|limit| limit.to_string());
        assert_eq!(shown("tx-pps").as_deref(), Some("10000:64"));
        assert_eq!(shown("rx-bps").as_deref(), Some("1000000000:100000000"));
        assert!(port.spoofchk.load(Ordering::Relaxed));
    }

    #[test]
    fn a_value_that_is_none_is_refused_in_words() {
        for (kind, name, value, why) in [
            (Kind::Access, "vlan", "4095", "not a number in 1..4094"),
            (Kind::Trunk, "vlans", "5-3", "not numbers and ranges of 1 to 4094, as in 10,20-30"),
            (Kind::Uplink, "native", "0", "neither none nor 1 to 4094"),
            (Kind::Access, "tx-pps", "fast", "not RATE[:BURST], each a number from 1 on, with k, M or G for thousands"),
            (Kind::Access, "spoofchk", "yes", "neither on nor off"),
            (Kind::Access, "max-learned", "0", "not a number in 1..65535"),
        ] {
            let refusal = settings(kind, &[(name, value)]).err().unwrap();
            assert_eq!((refusal.errno(), refusal.reason()), (Errno::EINVAL, &*format!("{name}={value}: {why}")));
        }
    }
}
