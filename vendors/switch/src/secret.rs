//! Where addresses go in tables, which nobody can choose: drivers choose addresses.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A secret of one table.
#[derive(Debug, Clone)]
pub struct Secret([u64; 2]);

impl Secret {
    /// A new one.
    pub fn new() -> Self {
        let random = RandomState::new();
        // The second is a factor: odd, so that nothing is lost.
        Self([random.hash_one(0), random.hash_one(1) | 1])
    }

    /// A number that depends on all of the key.
    #[inline]
    pub fn mix(&self, key: u64) -> u64 {
        let mixed = (key ^ self.0[0]).wrapping_mul(self.0[1]);
        // The high bits depend on all of the key; twice, so that the factor cannot be told from what collides.
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(self.0[1]);
        mixed.rotate_right(32)
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self::new()
    }
}

impl BuildHasher for Secret {
    type Hasher = Mixer;

    #[inline]
    fn build_hasher(&self) -> Mixer {
        Mixer { secret: self.clone(), mixed: 0 }
    }
}

/// Of keys that are one number: no more than one is told from another by all there is of it.
pub struct Mixer {
    secret: Secret,
    mixed: u64,
}

impl Hasher for Mixer {
    #[inline]
    fn write_u64(&mut self, key: u64) {
        self.mixed = self.secret.mix(self.mixed ^ key);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.mixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_that_differ_in_any_bit_are_spread_by_the_low_bits_and_by_the_high_ones() {
        let secret = Secret::new();
        let keys = || (0..64).map(|bit| 1u64 << bit).chain(0..192).collect::<HashSet<_>>();
        let places = |shift: u32| keys().iter().map(|key| secret.mix(*key) >> shift & 0xffff).collect::<HashSet<_>>();
        // Of some 250 in 65,536 places few share one.
        for shift in [0, 48] {
            assert!(places(shift).len() > keys().len() - 12, "{shift}: {}", places(shift).len());
        }
    }

    #[test]
    fn each_table_has_its_own() {
        assert_ne!(Secret::new().mix(1), Secret::new().mix(1));
    }
}
