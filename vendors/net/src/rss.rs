//! Receive-side scaling (virtio 1.3 §5.1.6.5.7): which queue pair gets a frame, by the hash of its flow.

use crate::hash::{Bytes, Hash, Hashing};

/// Entries of the longest indirection table.
pub const MAX_TABLE: usize = 128;

/// How a driver wants its frames spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rss {
    /// For frames without a hash.
    unclassified: u16,
    /// Queue pairs by the low bits of the hash; a power of two of them.
    table: Vec<u16>,
}

impl Rss {
    /// What a command says (`struct virtio_net_rss_config`), with the hash and the number of transmit queues, for a card with
    /// so many pairs. `None`: it does not hold together, or asks for what there is not.
    pub fn parse(bytes: &[u8], pairs: u16) -> Option<(Self, Hashing, u16)> {
        let mut bytes = Bytes(bytes);
        let types = u32::from_le_bytes(bytes.take()?);
        let len = usize::from(bytes.number()?) + 1;
        let unclassified = bytes.number()?;
        if !len.is_power_of_two() || len > MAX_TABLE || unclassified >= pairs {
            return None;
        }
        let table: Vec<u16> = (0..len).map(|_| bytes.number().filter(|pair| *pair < pairs)).collect::<Option<_>>()?;
        let transmit = bytes.number().filter(|transmit| (1..=pairs).contains(transmit))?;
        Some((Self { unclassified, table }, Hashing::new(types, bytes)?, transmit))
    }

    /// As bytes that [`parse`](Self::parse) takes.
    pub fn encode(&self, hashing: &Hashing, transmit: u16) -> Vec<u8> {
        let mask = u16::try_from(self.table.len() - 1).unwrap_or(u16::MAX);
        let words = [mask, self.unclassified].into_iter().chain(self.table.iter().copied()).chain([transmit]);
        let mut bytes = hashing.types().to_le_bytes().to_vec();
        words.for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(hashing.encode_key());
        bytes
    }

    /// The queue pair that gets a frame with this hash.
    pub fn pair(&self, hash: Option<Hash>) -> u16 {
        match hash {
            // The mask is within the table, so the low bits are all that count.
            Some(hash) => self.table[hash.value as usize & (self.table.len() - 1)],
            None => self.unclassified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::published::*;
    use crate::hash::{HASH_TYPES, MAX_KEY};

    fn command(types: u32, mask: u16, unclassified: u16, table: &[u16], transmit: u16, key: &[u8]) -> Vec<u8> {
        let words = [mask, unclassified].into_iter().chain(table.iter().copied()).chain([transmit]);
        let words = words.flat_map(u16::to_le_bytes);
        types
            .to_le_bytes()
            .into_iter()
            .chain(words)
            .chain([u8::try_from(key.len()).unwrap()])
            .chain(key.iter().copied())
            .collect()
    }

    #[test]
    fn a_frame_goes_where_the_table_says_and_others_to_the_pair_for_them() {
        let (rss, hashing, transmit) = Rss::parse(&command(HASH_TYPES, 3, 3, &[0, 1, 2, 1], 2, &KEY), 4).unwrap();
        assert_eq!(transmit, 2);
        for (from, from_port, to, to_port, _, hash) in PUBLISHED {
            let frame = packet(from, to, 6, &ports(from_port, to_port));
            assert_eq!(rss.pair(hashing.of(&frame)), [0, 1, 2, 1][hash as usize % 4], "{from}");
        }
        assert_eq!(rss.pair(hashing.of(&[0; 60])), 3);
        assert_eq!(Rss::parse(&rss.encode(&hashing, 2), 4), Some((rss, hashing, 2)));
    }

    #[test]
    fn f22_a_command_that_does_not_hold_together_is_refused() {
        let good = command(HASH_TYPES, 1, 0, &[0, 1], 2, &KEY);
        assert!(Rss::parse(&good, 2).is_some());
        for len in 0..good.len() {
            assert_eq!(Rss::parse(&good[..len], 2), None, "{len} bytes");
        }
        assert_eq!(Rss::parse(&[&good[..], &[0]].concat(), 2), Rss::parse(&good, 2), "padding, as Linux has it");
        for (wrong, what) in [
            (command(1 << 6, 1, 0, &[0, 1], 2, &KEY), "a hash type that is not offered"),
            (command(HASH_TYPES, 2, 0, &[0, 1, 1], 2, &KEY), "a mask with a hole"),
            (command(HASH_TYPES, 255, 0, &[0; 256], 2, &KEY), "a table too long"),
            (command(HASH_TYPES, u16::MAX, 0, &[0; 2], 2, &KEY), "a table that is not there"),
            (command(HASH_TYPES, 1, 2, &[0, 1], 2, &KEY), "no such pair"),
            (command(HASH_TYPES, 1, 0, &[0, 2], 2, &KEY), "no such pair in the table"),
            (command(HASH_TYPES, 1, 0, &[0, 1], 0, &KEY), "no transmit queue"),
            (command(HASH_TYPES, 1, 0, &[0, 1], 3, &KEY), "too many transmit queues"),
            (command(HASH_TYPES, 1, 0, &[0, 1], 2, &[0; MAX_KEY + 1]), "a key too long"),
        ] {
            assert_eq!(Rss::parse(&wrong, 2), None, "{what}");
        }
        let (short, hashing, _) = Rss::parse(&command(0, 0, 1, &[0], 1, &[]), 2).unwrap();
        assert_eq!(short.pair(hashing.of(&packet("10.0.0.1", "10.0.0.2", 6, &[0; 4]))), 1, "nothing is hashed");
    }
}
