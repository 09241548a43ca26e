//! Token buckets, which any number of threads take from without a lock.
//!
//! Instead of tokens, which somebody would have to add, a bucket keeps the time at which it is full again: what is taken
//! puts that off, and nothing can be taken that puts it further off than a full bucket lasts.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Parts of a nanosecond that time is counted in: so fine that a frame of 64 bytes at 100 Gbit/s is well above 1, so
/// coarse that nine years are below 2^64.
const PARTS: u64 = 64;
const SECOND: u64 = 1_000_000_000 * PARTS;
/// A bucket that is not said how large to be is one for a tenth of a second.
const DEFAULT_BURST: u64 = 10;

/// A rate, and how much may come at once: packets, or bits. Written `RATE[:BURST]`, either with `k`, `M` or `G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Of it in a second.
    pub rate: NonZeroU64,
    /// At once.
    pub burst: NonZeroU64,
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rate, burst) = text.split_once(':').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
        let rate = number(rate)?;
        let burst = match burst {
            Some(burst) => number(burst)?,
            None => NonZeroU64::new(rate.get() / DEFAULT_BURST).unwrap_or(NonZeroU64::MIN),
        };
        // A bucket that is full in years says nothing, and time that is counted in it would run over.
        if burst.get() / rate.get() > 3600 {
            return Err("the burst is more than an hour of the rate");
        }
        Ok(Self { rate, burst })
    }
}

fn number(text: &str) -> Result<NonZeroU64, &'static str> {
    let (digits, factor) = match text.as_bytes() {
        [.., b'k'] => (&text[..text.len() - 1], 1_000),
        [.., b'M'] => (&text[..text.len() - 1], 1_000_000),
        [.., b'G'] => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(factor));
    // Up to 10 Tbit/s, far from where the arithmetic ends.
    number
        .filter(|number| *number <= 10_000_000_000_000)
        .and_then(NonZeroU64::new)
        .ok_or("not RATE[:BURST], each a number from 1 on, with k, M or G for thousands")
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.rate, self.burst)
    }
}

/// A bucket, or none.
#[derive(Debug, Default)]
pub struct Bucket {
    /// 0: no limit.
    rate: AtomicU64,
    burst: AtomicU64,
    /// The time at which it is full again, in parts of a nanosecond.
    full_at: AtomicU64,
}

impl Bucket {
    /// What it is set to.
    pub fn limit(&self) -> Option<Rate> {
        let rate = NonZeroU64::new(self.rate.load(Ordering::Relaxed))?;
        Some(Rate { rate, burst: NonZeroU64::new(self.burst.load(Ordering::Relaxed))? })
    }

    /// Changes it; the bucket is full. Whoever takes meanwhile may see one number of the old limit.
    pub fn set(&self, limit: Option<Rate>) {
        self.burst.store(limit.map_or(0, |limit| limit.burst.get()), Ordering::Relaxed);
        self.rate.store(limit.map_or(0, |limit| limit.rate.get()), Ordering::Relaxed);
        self.full_at.store(0, Ordering::Relaxed);
    }

    /// Takes `amount` at `now`, nanoseconds of any clock, or says that there is not so much. More than the bucket holds
    /// can be had when it is full.
    #[inline]
    pub fn take(&self, now: u64, amount: u64) -> bool {
        match self.rate.load(Ordering::Relaxed) {
            0 => true,
            rate => self.take_at(rate, now.saturating_mul(PARTS), amount),
        }
    }

    fn take_at(&self, rate: u64, now: u64, amount: u64) -> bool {
        let burst = self.burst.load(Ordering::Relaxed);
        let (cost, room) = (time(amount, rate), time(burst.max(amount), rate));
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let after = full_at.max(now).saturating_add(cost);
            (after - now <= room).then_some(after)
        });
        taken.is_ok()
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&self, amount: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate > 0 {
            let less = |full_at: u64| Some(full_at.saturating_sub(time(amount, rate)));
            // It never refuses.
            let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// How long it takes until so much has come, rounded up.
fn time(amount: u64, rate: u64) -> u64 {
    match amount.checked_mul(SECOND) {
        Some(product) => product.div_ceil(rate),
        None => u64::try_from((u128::from(amount) * u128::from(SECOND)).div_ceil(u128::from(rate))).unwrap_or(u64::MAX),
    }
}

/// The limits of one direction of a port.
#[derive(Debug, Default)]
pub struct Policer {
    /// Packets a second.
    pub packets: Bucket,
    /// Bits a second, from Ethernet header to the last byte of payload.
    pub bits: Bucket,
}

impl Policer {
    /// Whether so much may pass at `now`; if so, it has.
    #[inline]
    pub fn admit(&self, now: u64, packets: u64, bytes: u64) -> bool {
        if !self.packets.take(now, packets) {
            return false;
        }
        let admitted = self.bits.take(now, 8 * bytes);
        if !admitted {
            self.packets.give_back(packets);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn bucket(limit: &str) -> Bucket {
        let bucket = Bucket::default();
        bucket.set(Some(limit.parse().unwrap()));
        bucket
    }

    fn taken(bucket: &Bucket, now: u64, times: u32) -> usize {
        (0..times).filter(|_| bucket.take(now, 1)).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let bucket = bucket("1000:50");
        assert_eq!(taken(&bucket, 5000 * MS, 100), 50);
        assert_eq!(taken(&bucket, 5010 * MS, 100), 10);
        assert_eq!(taken(&bucket, 9000 * MS, 100), 50, "it is no fuller than full");
    }

    #[test]
    fn what_is_larger_than_the_bucket_passes_when_that_is_full() {
        let bucket = bucket("1000:10");
        assert!(bucket.take(0, 100));
        assert!(!bucket.take(99 * MS, 100));
        assert!(bucket.take(100 * MS, 100));
    }

    #[test]
    fn a_limit_can_be_set_and_taken_away_at_any_time() {
        let bucket = bucket("1:1");
        assert_eq!(taken(&bucket, 0, 5), 1);
        bucket.set(None);
        assert_eq!((taken(&bucket, 0, 5), bucket.limit()), (5, None));
        bucket.set(Some("7:3".parse().unwrap()));
        assert_eq!((taken(&bucket, 0, 5), bucket.limit().unwrap().to_string()), (3, "7:3".to_owned()));
    }

    #[test]
    fn a_frame_has_to_pass_both_limits_and_costs_nothing_if_it_does_not() {
        let policer = Policer::default();
        policer.packets.set(Some("10:10".parse().unwrap()));
        policer.bits.set(Some("8000:8000".parse().unwrap()));
        assert!(policer.admit(0, 1, 900));
        assert!(!policer.admit(0, 1, 900));
        assert_eq!((0..20).filter(|_| policer.admit(0, 1, 1)).count(), 9);
    }

    #[test]
    fn rates_are_written_with_prefixes() {
        let parse = |text: &str| text.parse::<Rate>().map(|rate| (rate.rate.get(), rate.burst.get()));
        assert_eq!(parse("10M"), Ok((10_000_000, 1_000_000)));
        assert_eq!(parse("1G:64k"), Ok((1_000_000_000, 64_000)));
        assert_eq!(parse("3"), Ok((3, 1)));
        for wrong in
            ["", "0", "k", "1K", "-1", "+1", "1.5", "1:", "1:0", ":1", "20000G", "99999999999999999999", "1:3602"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        /// Whatever comes when: over any time no more passes than a bucket and what the rate gives meanwhile.
        #[test]
        fn no_more_passes_than_burst_and_rate(
            rate in 1u64..10_000_000_000, burst in 1u64..1_000_000,
            frames in prop::collection::vec((0u64..10_000_000, 1u64..1_000_000), 1..200),
        ) {
            prop_assume!(burst / rate <= 3600);
            let bucket = Bucket::default();
            bucket.set(Some(Rate { rate: NonZeroU64::new(rate).unwrap(), burst: NonZeroU64::new(burst).unwrap() }));
            let (mut now, mut passed, mut largest) = (1, 0u128, 0);
            for (wait, amount) in frames {
                now += wait;
                if bucket.take(now, amount) {
                    passed += u128::from(amount);
                    largest = largest.max(amount);
                }
            }
            let limit = u128::from(burst.max(largest)) + u128::from(rate) * u128::from(now) / 1_000_000_000 + 1;
            prop_assert!(passed <= limit, "{passed} of {limit}");
        }
    }
}
