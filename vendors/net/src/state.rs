//! What a card has besides features, configuration space and queues, for another one to continue it.

use crate::config::Wanted;
use crate::filter::Filter;
use crate::hash::Hashing;
use crate::rss::Rss;
use nix::errno::Errno;
use virtio_mdev_api::Refusal;
use virtqueue::Patience;

/// Of the layout.
const VERSION: u16 = 3;
/// Without the patience of queues, and hashes of frames that are not spread by them.
const VERSION_2: u16 = 2;
/// Without what the driver wants of frames: it had no say.
const VERSION_1: u16 = 1;

/// What of hashes is in a state.
const NO_HASHES: u8 = 0;
const SPREAD: u8 = 1;
const HASHED: u8 = 2;

/// The state of a card: a version and three numbers, of 16 bits each, the lowest byte first; then filter, two numbers
/// of 32 bits for each queue of frames, what there is of hashes, and that as the command of the driver had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardState {
    /// Largest packet, which the driver was told of.
    pub mtu: u16,
    /// Queue pairs there are, which the driver was told of.
    pub pairs: u16,
    /// How many of them the driver enabled.
    pub enabled: u16,
    /// What it wants of frames.
    pub wanted: Wanted,
    /// How long interrupts wait for each other, by queue of frames.
    pub patience: Vec<Patience>,
}

impl CardState {
    pub fn encode(&self) -> Vec<u8> {
        let words = [VERSION, self.mtu, self.pairs, self.enabled];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(self.wanted.filter.encode());
        let numbers = self.patience.iter().flat_map(|patience| [patience.buffers, patience.micros]);
        numbers.for_each(|number| bytes.extend(number.to_le_bytes()));
        let Wanted { hashing, rss, .. } = &self.wanted;
        let (what, hashes) = match rss {
            Some(rss) => (SPREAD, rss.encode(hashing, self.enabled)),
            None if *hashing != Hashing::NONE => (HASHED, hashing.encode()),
            None => (NO_HASHES, Vec::new()),
        };
        bytes.push(what);
        bytes.extend(hashes);
        bytes
    }

    /// The state of a card like this one, which is as its driver knows it.
    pub fn decode(self, bytes: &[u8]) -> Result<Self, Refusal> {
        let refuse = |why: String| Refusal::new(Errno::EINVAL, format!("state of a network card: {why}"));
        let Some((words, rest)) = bytes.split_at_checked(8) else { return Err(refuse("cut off".to_owned())) };
        let words: Vec<u16> = words.as_chunks().0.iter().map(|word| u16::from_le_bytes(*word)).collect();
        let [version @ (VERSION_1 | VERSION_2 | VERSION), mtu, pairs, enabled] = words[..] else {
            return Err(refuse(format!("{words:?} is none")));
        };
        if (mtu, pairs) != (self.mtu, self.pairs) {
            let Self { mtu: own_mtu, pairs: own_pairs, .. } = self;
            return Err(refuse(format!("mtu={mtu} pairs={pairs}, and here mtu={own_mtu} pairs={own_pairs}")));
        }
        if enabled == 0 || enabled > pairs {
            return Err(refuse(format!("{enabled} of {pairs} pairs enabled")));
        }
        let decoded = match (version, rest) {
            (VERSION_1, []) => Some((self.wanted, self.patience)),
            (VERSION_1, _) => None,
            _ => decode_rest(version, rest, pairs),
        };
        let (wanted, patience) =
            decoded.ok_or_else(|| refuse("neither filter nor what is made of frames".to_owned()))?;
        Ok(Self { mtu, pairs, enabled, wanted, patience })
    }
}

fn decode_rest(version: u16, bytes: &[u8], pairs: u16) -> Option<(Wanted, Vec<Patience>)> {
    let (filter, mut rest) = Filter::decode(bytes)?;
    let mut patience = vec![Patience::default(); 2 * usize::from(pairs)];
    if version > VERSION_2 {
        for place in &mut patience {
            let ([b0, b1, b2, b3, m0, m1, m2, m3], after) = rest.split_first_chunk()?;
            let (buffers, micros) = ([*b0, *b1, *b2, *b3], [*m0, *m1, *m2, *m3]);
            *place = Patience { buffers: u32::from_le_bytes(buffers), micros: u32::from_le_bytes(micros) };
            rest = after;
        }
    }
    let (hashing, rss) = match rest {
        [NO_HASHES] => (Hashing::NONE, None),
        [SPREAD, spread @ ..] => {
            let (rss, hashing, transmit) = Rss::parse(spread, pairs)?;
            (rss.encode(&hashing, transmit) == spread).then_some((hashing, Some(rss)))?
        }
        [HASHED, hashes @ ..] if version > VERSION_2 => {
            let hashing = Hashing::parse(hashes)?;
            (hashing.encode() == hashes).then_some((hashing, None))?
        }
        _ => return None,
    };
    Some((Wanted { filter, hashing, rss }, patience))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Mode;

    fn card() -> CardState {
        let mut filter = Filter::new(true);
        filter.set_mode(Mode::Promiscuous, false);
        let wanted = Wanted { filter, hashing: Hashing::NONE, rss: None };
        CardState { mtu: 1500, pairs: 4, enabled: 1, wanted, patience: vec![Patience::default(); 8] }
    }

    fn spread() -> CardState {
        let rss = [&[0x3f, 0, 0, 0, 1, 0, 2, 0, 3, 0, 1, 0, 3, 0, 40][..], &[7; 40]].concat();
        let (rss, hashing, enabled) = Rss::parse(&rss, 4).unwrap();
        CardState { enabled, wanted: Wanted { rss: Some(rss), hashing, ..card().wanted }, ..card() }
    }

    fn hashed() -> CardState {
        CardState { wanted: Wanted { rss: None, ..spread().wanted }, ..card() }
    }

    fn patient() -> CardState {
        let patience = (1..=8).map(|n| Patience { buffers: n, micros: n << 24 }).collect();
        CardState { patience, ..spread() }
    }

    #[test]
    fn a_state_continues_in_a_card_of_the_same_size() {
        for state in [CardState { enabled: 3, ..card() }, spread(), hashed(), patient()] {
            assert_eq!(card().decode(&state.encode()), Ok(state));
        }
    }

    #[test]
    fn a_state_from_before_filters_leaves_them_as_they_are() {
        let old = [1, 0, 0xdc, 5, 4, 0, 2, 0];
        assert_eq!(card().decode(&old), Ok(CardState { enabled: 2, ..card() }));
        assert!(card().decode(&[&old[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_state_from_before_hashes_were_told_spreads_frames_as_it_did() {
        let version_2 = |state: CardState| {
            let new = CardState { patience: Vec::new(), ..state }.encode();
            [&[2, 0], &new[2..]].concat()
        };
        assert_eq!(card().decode(&version_2(spread())), Ok(spread()));
        assert!(card().decode(&version_2(hashed())).is_err());
    }

    #[test]
    fn f41_a_state_that_is_of_no_such_card_is_refused() {
        let good = spread().encode();
        for len in 0..good.len() {
            assert!(card().decode(&good[..len]).is_err(), "{len} bytes");
        }
        assert!(card().decode(&[&good[..], &[0, 0]].concat()).is_err(), "too long");
        assert!(card().decode(&[&[4, 0], &good[2..]].concat()).is_err(), "of a newer version");
        for (wrong, what) in [
            (CardState { mtu: 9000, ..card() }, "another size of packets"),
            (CardState { pairs: 8, ..card() }, "more pairs"),
            (CardState { enabled: 0, ..card() }, "no pair"),
            (CardState { enabled: 5, ..card() }, "pairs that are not there"),
        ] {
            assert!(card().decode(&wrong.encode()).is_err(), "{what}");
        }
        let two = CardState { pairs: 2, ..card() };
        let wrong = CardState { pairs: 2, enabled: 2, patience: vec![Patience::default(); 4], ..spread() };
        assert!(two.decode(&wrong.encode()).is_err(), "frames spread over pairs that are not there");
    }
}
