//! Internet checksums (RFC 1071), for drivers that do not complete them.

/// The sum of `bytes`, whose first is an even one, on top of `sum`; in the order of this machine's bytes, which the sum
/// does not mind.
pub fn add(sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    // At most 2^14 words of 2^32.
    words.iter().chain([&last]).fold(sum, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)))
}

/// The two bytes of the checksum of what was summed.
pub fn finish(mut sum: u64) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_ne_bytes()
}

/// The same for TCP and UDP, where zeros would mean that there is none.
pub fn finish_transport(sum: u64) -> [u8; 2] {
    match finish(sum) {
        [0, 0] => [0xff, 0xff],
        bytes => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the letter of the RFC.
    fn plain(bytes: &[u8]) -> [u8; 2] {
        let pairs =
            bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
        let sum = pairs.fold(0, |sum, word| {
            let sum = sum + word;
            (sum & 0xffff) + (sum >> 16)
        });
        (!u16::try_from(sum).unwrap()).to_be_bytes()
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(finish(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), [0x22, 0x0d]);
    }

    #[test]
    fn any_bytes_have_the_sum_that_the_rfc_gives_them() {
        let bytes: Vec<u8> = (0..65_535u32).map(|at| (at * 7 + at / 256).to_le_bytes()[0]).collect();
        for len in (0..64).chain([1499, 1500, 65_535]) {
            assert_eq!(finish(add(0, &bytes[..len])), plain(&bytes[..len]), "{len} bytes");
        }
        assert_eq!(finish(add(0, &[0xff; 65_534])), plain(&[0xff; 65_534]));
    }

    #[test]
    fn zeros_are_no_checksum_of_a_transport() {
        assert_eq!(finish(add(0, &[0xff, 0xff])), [0, 0]);
        assert_eq!(finish_transport(add(0, &[0xff, 0xff])), [0xff, 0xff]);
    }
}
