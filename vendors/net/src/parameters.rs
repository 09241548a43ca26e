//! `key=value` parameters of `create`.

use crate::mac::Mac;
use nix::errno::Errno;
use std::collections::BTreeMap;
use uuid::Uuid;
use virtio_mdev_api::{CreateRequest, Refusal};

/// Smallest MTU: what IPv4 needs (virtio 1.3 §5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// MTU unless said otherwise.
pub const DEFAULT_MTU: u16 = 1500;

/// The parameters of a network instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetParameters {
    /// `mac=`.
    pub mac: Mac,
    /// `mtu=`.
    pub mtu: u16,
}

impl NetParameters {
    /// Takes `mac` and `mtu` out of the request; `own` are keys the parent itself takes. Any other key is EINVAL.
    pub fn parse(request: &CreateRequest, own: &[&str]) -> Result<Self, Refusal> {
        Self::from_map(&request.uuid, &request.parameters, own)
    }

    fn from_map(uuid: &Uuid, parameters: &BTreeMap<String, String>, own: &[&str]) -> Result<Self, Refusal> {
        let refuse = |words: String| Refusal::new(Errno::EINVAL, words);
        let mut parsed = Self { mac: Mac::for_instance(uuid), mtu: DEFAULT_MTU };
        for (key, value) in parameters {
            match key.as_str() {
                "mac" => parsed.mac = value.parse().map_err(|why| refuse(format!("mac={value}: {why}")))?,
                "mtu" => {
                    let mtu = value.parse().ok().filter(|mtu| *mtu >= MIN_MTU);
                    parsed.mtu =
                        mtu.ok_or_else(|| refuse(format!("mtu={value}: not a number in {MIN_MTU}..=65535")))?;
                }
                key if own.contains(&key) => {}
                key => {
                    let known = [&["mac", "mtu"], own].concat().join(", ");
                    return Err(refuse(format!("unknown parameter {key}; known are: {known}")));
                }
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<NetParameters, Refusal> {
        let map = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        NetParameters::from_map(&Uuid::from_u128(7), &map, &["ifname"])
    }

    #[test]
    fn parameters_have_defaults() {
        let defaults = parse(&[("ifname", "tap0")]).unwrap();
        assert_eq!((defaults.mac, defaults.mtu), (Mac::for_instance(&Uuid::from_u128(7)), 1500));
    }

    #[test]
    fn an_unknown_key_is_told_what_is_known() {
        let refusal = parse(&[("speed", "10")]).unwrap_err();
        assert_eq!(refusal.errno(), Errno::EINVAL);
        assert_eq!(refusal.reason(), "unknown parameter speed; known are: mac, mtu, ifname");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for pair in [("mtu", "67"), ("mtu", "65536"), ("mtu", "-1"), ("mtu", ""), ("mac", "01:02:03:04:05:06")] {
            assert_eq!(parse(&[pair]).unwrap_err().errno(), Errno::EINVAL, "{pair:?}");
        }
    }
}
