//! What a card has besides features, configuration space and queues, for another one to continue it.
//!
//! Receive modes and filter tables are not among it: they were taken and change nothing.

use nix::errno::Errno;
use virtio_mdev_api::Refusal;

/// Of the layout.
const VERSION: u16 = 1;

/// The state of a card: a version and three numbers, of 16 bits each, the lowest byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardState {
    /// Largest packet, which the driver was told of.
    pub mtu: u16,
    /// Queue pairs there are, which the driver was told of.
    pub pairs: u16,
    /// How many of them the driver enabled.
    pub enabled: u16,
}

impl CardState {
    pub fn encode(self) -> Vec<u8> {
        [VERSION, self.mtu, self.pairs, self.enabled].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The state of a card like this one, which is as its driver knows it.
    pub fn decode(self, bytes: &[u8]) -> Result<Self, Refusal> {
        let refuse = |why: String| Refusal::new(Errno::EINVAL, format!("state of a network card: {why}"));
        let (words, []) = bytes.as_chunks() else { return Err(refuse("half a number".to_owned())) };
        let words: Vec<u16> = words.iter().map(|word| u16::from_le_bytes(*word)).collect();
        let [VERSION, mtu, pairs, enabled] = words[..] else { return Err(refuse(format!("{words:?} is none"))) };
        if (mtu, pairs) != (self.mtu, self.pairs) {
            let Self { mtu: own_mtu, pairs: own_pairs, .. } = self;
            return Err(refuse(format!("mtu={mtu} pairs={pairs}, and here mtu={own_mtu} pairs={own_pairs}")));
        }
        if enabled == 0 || enabled > pairs {
            return Err(refuse(format!("{enabled} of {pairs} pairs enabled")));
        }
        Ok(Self { mtu, pairs, enabled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: CardState = CardState { mtu: 1500, pairs: 4, enabled: 1 };

    #[test]
    fn a_state_continues_in_a_card_of_the_same_size() {
        let state = CardState { enabled: 3, ..CARD };
        assert_eq!(CARD.decode(&state.encode()), Ok(state));
    }

    #[test]
    fn f41_a_state_that_is_of_no_such_card_is_refused() {
        let good = CARD.encode();
        for len in 0..good.len() {
            assert!(CARD.decode(&good[..len]).is_err(), "{len} bytes");
        }
        assert!(CARD.decode(&[&good[..], &[0, 0]].concat()).is_err(), "too long");
        assert!(CARD.decode(&[&[2, 0], &good[2..]].concat()).is_err(), "of another version");
        for (wrong, what) in [
            (CardState { mtu: 9000, ..CARD }, "another size of packets"),
            (CardState { pairs: 8, ..CARD }, "more pairs"),
            (CardState { enabled: 0, ..CARD }, "no pair"),
            (CardState { enabled: 5, ..CARD }, "pairs that are not there"),
        ] {
            assert!(CARD.decode(&wrong.encode()).is_err(), "{what}");
        }
    }
}
