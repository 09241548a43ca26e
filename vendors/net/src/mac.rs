//! MAC addresses.

use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A MAC address of one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Locally administered, and always the same for the same instance.
    pub fn for_instance(uuid: &Uuid) -> Self {
        // Fowler–Noll–Vo, 64 bits: spreads UUIDs that differ in a digit only.
        let hash = uuid
            .as_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let [a, b, c, d, e, f, ..] = (hash ^ hash >> 48).to_le_bytes();
        Self([a & 0xfc | 0x02, b, c, d, e, f])
    }

    /// The address, if it is one that a station can have.
    pub fn of_station(bytes: [u8; 6]) -> Result<Self, &'static str> {
        match bytes {
            [0, 0, 0, 0, 0, 0] => Err("an address of zeros belongs to nobody"),
            [first, ..] if first & 1 != 0 => Err("this is the address of a group of stations"),
            bytes => Ok(Self(bytes)),
        }
    }

    /// The six bytes, first one first.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl From<[u8; 6]> for Mac {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "a MAC address is six pairs of hexadecimal digits with colons between them";
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or(SHAPE)?;
        }
        if parts.next().is_some() {
            return Err(SHAPE);
        }
        Self::of_station(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_is_written() {
        assert_eq!("52:54:00:ab:cd:ef".parse::<Mac>().unwrap().to_string(), "52:54:00:ab:cd:ef");
    }

    #[test]
    fn what_is_no_station_address_is_refused() {
        for text in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:ef:00",
            "52:54:00:ab:cd:+f",
            "5:54:00:ab:cd:ef",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn instances_have_different_local_addresses() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (a, b) = (Mac::for_instance(&one), Mac::for_instance(&two));
        assert_ne!(a, b);
        assert_eq!(a, Mac::for_instance(&one));
        assert_eq!(a.bytes()[0] & 3, 2, "{a}");
    }
}
