//! `key=value` parameters of `create`.

use crate::features::{
    CONTROL, SEVERAL_PAIRS, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MTU, VIRTIO_NET_F_SPEED_DUPLEX, in_words,
    trim,
};
use crate::mac::Mac;
use nix::errno::Errno;
use std::collections::BTreeMap;
use virtio_mdev_api::{CreateRequest, ParameterSpec, Refusal, Values};

/// Smallest MTU: what IPv4 needs (virtio 1.3 §5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// MTU unless said otherwise.
pub const DEFAULT_MTU: u16 = 1500;
/// Largest ring there can be (virtio 1.3 §2.7).
pub const MAX_QUEUE_SIZE: u16 = 1 << 15;
/// Largest ring unless said otherwise: what QEMU goes up to.
pub const DEFAULT_QUEUE_SIZE: u16 = 1024;
/// Most queue pairs. One thread serves them all, so more would only share it.
pub const MAX_PAIRS: u16 = 16;

/// What a type of network card can have.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Features with one queue pair and no control queue.
    pub features: u64,
    /// Features that come with a control queue, besides those of all.
    pub with_control: u64,
    /// Features that come with `doorbell=page`.
    pub with_doorbells: u64,
    /// A card with one queue pair has a control queue too. One with more always has.
    pub control: bool,
    /// The rings of frames can be given memory of their own.
    pub ring_group: bool,
}

/// The parameters of a network instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetParameters {
    /// `mac=`.
    pub mac: Mac,
    /// `mtu=`.
    pub mtu: u16,
    /// `pairs=`: receive and transmit queues, so many of each.
    pub pairs: u16,
    /// `queue-size=`: entries of the largest ring.
    pub queue_size: u16,
    /// `features=`: what is offered.
    pub features: u64,
    /// `speed=`: in Mbit/s, if it is to be known.
    pub speed: Option<u32>,
    /// `duplex=`, if it is to be known.
    pub duplex: Option<Duplex>,
    /// As the type [offers](Offer::ring_group) it.
    pub ring_group: bool,
    /// `doorbell=`.
    pub doorbell: Doorbell,
}

/// Which ways frames go at a time. The numbers are those of configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Duplex {
    /// One.
    Half = 0,
    /// Both.
    Full = 1,
}

impl Duplex {
    /// The value of the parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Full => "full",
        }
    }
}

/// What nobody says of speed and duplex.
pub(crate) const UNKNOWN: &str = "unknown";
/// Fastest link, in Mbit/s (virtio 1.3 §5.1.4).
const MAX_SPEED: u32 = 0x7fff_ffff;

fn parse_speed(spec: &ParameterSpec, value: &str) -> Result<Option<u32>, Refusal> {
    if value == UNKNOWN {
        return Ok(None);
    }
    let speed = value.parse().ok().filter(|speed| *speed <= MAX_SPEED);
    speed.map(Some).ok_or_else(|| spec.refuse(value, &format!("neither a number in 0..{MAX_SPEED} nor {UNKNOWN}")))
}

fn parse_duplex(spec: &ParameterSpec, value: &str) -> Result<Option<Duplex>, Refusal> {
    let known = [Duplex::Half, Duplex::Full].into_iter().find(|duplex| duplex.as_str() == value);
    match known {
        None if value != UNKNOWN => Err(spec.refuse(value, "none of half, full, unknown")),
        known => Ok(known),
    }
}

/// How a driver kicks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doorbell {
    /// By the eventfds it hands over, alone.
    EventFd,
    /// By a store to a page as well, which the device watches.
    Page,
}

impl Doorbell {
    /// The value of the parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventFd => "eventfd",
            Self::Page => "page",
        }
    }

    fn parse(spec: &ParameterSpec, value: &str, pages: bool) -> Result<Self, Refusal> {
        match value {
            "eventfd" => Ok(Self::EventFd),
            "page" if pages => Ok(Self::Page),
            "page" => {
                let why =
                    "clients cannot map files here: that takes Linux 6.9 with FUSE passthrough, and CAP_SYS_ADMIN";
                Err(Refusal::new(Errno::EOPNOTSUPP, format!("{}={value}: {why}", spec.name)))
            }
            _ => Err(spec.refuse(value, "neither eventfd nor page")),
        }
    }
}

impl Offer {
    /// What is offered with so many queue pairs.
    fn with_pairs(&self, pairs: u16) -> u64 {
        match pairs {
            1 if !self.control => self.features,
            1 => self.features | CONTROL | self.with_control & !SEVERAL_PAIRS,
            _ => self.features | CONTROL | self.with_control | VIRTIO_NET_F_MQ,
        }
    }

    /// The parameters that every network card takes.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let spec = |name, values, default: Option<String>, what| ParameterSpec { name, values, default, what };
        vec![
            spec("mac", Values::Shape("xx:xx:xx:xx:xx:xx"), None, "address; made of the UUID unless given"),
            spec(
                "mtu",
                Values::Number(MIN_MTU..=u16::MAX),
                Some(DEFAULT_MTU.to_string()),
                "largest packet, Ethernet header aside",
            ),
            spec(
                "pairs",
                Values::Number(1..=MAX_PAIRS),
                Some("1".to_owned()),
                "queue pairs; more than one come with a control queue",
            ),
            spec(
                "queue-size",
                Values::PowerOfTwo(2..=MAX_QUEUE_SIZE),
                Some(DEFAULT_QUEUE_SIZE.to_string()),
                "largest ring; QEMU and DPDK take no more than the default",
            ),
            spec(
                "features",
                Values::Shape("MASK|-NAME[,-NAME]..."),
                Some(format!("{:#x}", self.with_pairs(1))),
                "what is offered: a mask, or what to leave out; pairs= adds its own to the default",
            ),
            spec(
                "speed",
                Values::Shape("MBIT|unknown"),
                Some(UNKNOWN.to_owned()),
                "of the link, which the driver is told",
            ),
            spec(
                "duplex",
                Values::Shape("half|full|unknown"),
                Some(UNKNOWN.to_owned()),
                "of the link, which the driver is told",
            ),
            spec(
                "doorbell",
                Values::Shape("eventfd|page"),
                Some(Doorbell::EventFd.as_str().to_owned()),
                "how a driver kicks; a page is rung by a store, and costs processor time to watch",
            ),
        ]
    }
}

impl NetParameters {
    /// Takes the parameters of a card out of the request; `own` are those the parent itself takes. Any other key is
    /// EINVAL, and so is a value that another contradicts.
    pub fn parse(request: &CreateRequest, offer: &Offer, own: &[ParameterSpec]) -> Result<Self, Refusal> {
        let written = &request.parameters;
        let mut parsed = Self {
            mac: Mac::for_instance(&request.uuid),
            mtu: DEFAULT_MTU,
            pairs: 1,
            queue_size: DEFAULT_QUEUE_SIZE,
            features: 0,
            speed: None,
            duplex: None,
            ring_group: offer.ring_group,
            doorbell: Doorbell::EventFd,
        };
        let specs = [&offer.parameters(), own].concat();
        let mut features = None;
        for (key, value) in written {
            let Some(spec) = specs.iter().find(|spec| spec.name == key) else {
                let known: Vec<_> = specs.iter().map(|spec| spec.name).chain(["owner"]).collect();
                let words = format!("unknown parameter {key}; known are: {}", known.join(", "));
                return Err(Refusal::new(Errno::EINVAL, words));
            };
            match spec.name {
                "mac" => parsed.mac = value.parse().map_err(|why| spec.refuse(value, why))?,
                "mtu" => parsed.mtu = spec.number(value)?,
                "pairs" => parsed.pairs = spec.number(value)?,
                "queue-size" => parsed.queue_size = spec.number(value)?,
                "features" => features = Some((spec, value)),
                "speed" => parsed.speed = parse_speed(spec, value)?,
                "duplex" => parsed.duplex = parse_duplex(spec, value)?,
                "doorbell" => parsed.doorbell = Doorbell::parse(spec, value, request.doorbell_pages)?,
                // The parent's own.
                _ => {}
            }
        }
        // As in QEMU, there is a field for them when one of them is known.
        let is_known = parsed.speed.is_some() || parsed.duplex.is_some();
        let doorbells = if parsed.doorbell == Doorbell::Page { offer.with_doorbells } else { 0 };
        let speed = if is_known { VIRTIO_NET_F_SPEED_DUPLEX } else { 0 };
        let supported = offer.with_pairs(parsed.pairs) | doorbells | speed;
        parsed.features = match features {
            Some((spec, value)) => trim(supported, value).map_err(|why| spec.refuse(value, &why))?,
            None => supported,
        };
        parsed.check_needs(written)?;
        Ok(parsed)
    }

    /// What is asked for needs its feature, as with vdpa's netlink.
    fn check_needs(&self, written: &BTreeMap<String, String>) -> Result<(), Refusal> {
        let needs = [
            ("mac", VIRTIO_NET_F_MAC, true),
            ("mtu", VIRTIO_NET_F_MTU, true),
            ("pairs", VIRTIO_NET_F_MQ, self.pairs > 1),
            ("speed", VIRTIO_NET_F_SPEED_DUPLEX, self.speed.is_some()),
            ("duplex", VIRTIO_NET_F_SPEED_DUPLEX, self.duplex.is_some()),
        ];
        for (key, feature, does) in needs {
            let Some(value) = written.get(key).filter(|_| self.features & feature == 0) else { continue };
            if does {
                let words =
                    format!("{key}={value} needs the feature {}, which features= leaves out", in_words(feature));
                return Err(Refusal::new(Errno::EINVAL, words));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Profile, RECEPTION, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_RSS};
    use uuid::Uuid;
    use virtio_mdev_api::DeviceLink;
    use virtio_mdev_api::features::VIRTIO_F_NOTIFICATION_DATA;

    fn offer() -> Offer {
        let (features, with_doorbells) = (Profile::Migratable.features(), VIRTIO_F_NOTIFICATION_DATA);
        Offer { features, with_control: RECEPTION, with_doorbells, control: false, ring_group: false }
    }

    fn parse(pairs: &[(&str, &str)]) -> Result<NetParameters, Refusal> {
        parse_where(true, pairs)
    }

    fn parse_where(doorbell_pages: bool, pairs: &[(&str, &str)]) -> Result<NetParameters, Refusal> {
        let request = CreateRequest {
            uuid: Uuid::from_u128(7),
            type_name: "net".to_owned(),
            parameters: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            doorbell_pages,
            owner: None,
            link: DeviceLink::new("test"),
        };
        let ifname = ParameterSpec { name: "ifname", values: Values::Shape("NAME"), default: None, what: "" };
        NetParameters::parse(&request, &offer(), &[ifname])
    }

    fn refused(pairs: &[(&str, &str)]) -> String {
        let refusal = parse(pairs).unwrap_err();
        assert_eq!(refusal.errno(), Errno::EINVAL);
        refusal.reason().to_owned()
    }

    #[test]
    fn parameters_have_the_defaults_that_are_shown() {
        let defaults = parse(&[("ifname", "tap0")]).unwrap();
        assert_eq!(defaults.mac, Mac::for_instance(&Uuid::from_u128(7)));
        for spec in offer().parameters() {
            let Some(default) = spec.default else { continue };
            assert_eq!(parse(&[(spec.name, &default)]), Ok(defaults), "{}", spec.name);
        }
    }

    #[test]
    fn an_unknown_key_is_told_what_is_known() {
        let known = "mac, mtu, pairs, queue-size, features, speed, duplex, doorbell, ifname, owner";
        assert_eq!(refused(&[("sped", "10")]), format!("unknown parameter sped; known are: {known}"));
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        for value in ["67", "65536", "-1", ""] {
            assert_eq!(refused(&[("mtu", value)]), format!("mtu={value}: not a number in 68..65535"));
        }
        assert_eq!(refused(&[("pairs", "17")]), "pairs=17: not a number in 1..16");
        assert_eq!(refused(&[("queue-size", "100")]), "queue-size=100: not a power of two in 2..32768");
        let group = "mac=01:02:03:04:05:06: this is the address of a group of stations";
        assert_eq!(refused(&[("mac", "01:02:03:04:05:06")]), group);
    }

    #[test]
    fn doorbell_pages_are_had_where_clients_can_map_them() {
        let page = [("doorbell", "page")];
        let (plain, with) = (parse(&[]).unwrap(), parse(&page).unwrap());
        assert_eq!(with.doorbell, Doorbell::Page);
        assert_eq!(with.features ^ plain.features, VIRTIO_F_NOTIFICATION_DATA, "an eventfd carries nothing");
        let refusal = parse_where(false, &page).unwrap_err();
        assert_eq!(refusal.errno(), Errno::EOPNOTSUPP);
        assert!(refusal.reason().starts_with("doorbell=page: clients cannot map files here"), "{refusal}");
        assert_eq!(parse_where(false, &[("doorbell", "eventfd")]).unwrap().doorbell, Doorbell::EventFd);
        assert_eq!(refused(&[("doorbell", "Page")]), "doorbell=Page: neither eventfd nor page");
    }

    #[test]
    fn several_pairs_come_with_a_control_queue() {
        let (one, four) = (parse(&[]).unwrap(), parse(&[("pairs", "4")]).unwrap());
        let control = |card: NetParameters| card.features & VIRTIO_NET_F_CTRL_VQ != 0;
        assert!(!control(one) && control(four));
        assert_eq!(four.features, one.features | VIRTIO_NET_F_MQ | CONTROL | RECEPTION);
        let control = Offer { control: true, ..offer() };
        assert_eq!(control.with_pairs(1), one.features | CONTROL | RECEPTION & !VIRTIO_NET_F_RSS);
    }

    #[test]
    fn speed_and_duplex_are_there_when_one_of_them_is_known() {
        let has = |card: &NetParameters| card.features & VIRTIO_NET_F_SPEED_DUPLEX != 0;
        let plain = parse(&[("speed", "unknown"), ("duplex", "unknown")]).unwrap();
        assert!(!has(&plain) && plain.speed.is_none() && plain.duplex.is_none());
        let fast = parse(&[("speed", "40000")]).unwrap();
        assert!(has(&fast) && fast.speed == Some(40_000) && fast.duplex.is_none());
        let full = parse(&[("duplex", "full")]).unwrap();
        assert!(has(&full) && full.duplex == Some(Duplex::Full));
        assert_eq!(
            refused(&[("speed", "2147483648")]),
            "speed=2147483648: neither a number in 0..2147483647 nor unknown"
        );
        assert_eq!(refused(&[("duplex", "both")]), "duplex=both: none of half, full, unknown");
        let left_out = refused(&[("speed", "10"), ("features", "-speed_duplex")]);
        assert_eq!(left_out, "speed=10 needs the feature speed_duplex, which features= leaves out");
    }

    #[test]
    fn what_features_leave_out_cannot_be_asked_for() {
        let words = |key: &str, feature: &str| format!("{key} needs the feature {feature}, which features= leaves out");
        assert_eq!(refused(&[("mtu", "1400"), ("features", "-host_mtu")]), words("mtu=1400", "host_mtu"));
        assert_eq!(
            refused(&[("mac", "02:00:00:00:00:01"), ("features", "-mac")]),
            words("mac=02:00:00:00:00:01", "mac")
        );
        assert_eq!(refused(&[("pairs", "2"), ("features", "-mq")]), words("pairs=2", "mq"));
        assert!(parse(&[("features", "-mac,-host_mtu"), ("pairs", "1")]).is_ok());
        assert!(refused(&[("features", "0x300400000")]).starts_with("features=0x300400000: mq is not within"));
    }
}
