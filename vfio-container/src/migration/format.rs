//! What a data stream is made of.
//!
//! ```text
//! preface   magic "umdevmig", format version u32, zero u32
//! identity  1 u32, length u32, what the device said of itself
//! state     2 u32, length u32, what the stopped device was
//! end       3 u32, 4 u32, CRC-32 of all bytes before it
//! ```
//!
//! Numbers have their lowest byte first. Preface and identity come while the device still runs: a destination that cannot
//! take it says so before the source stops. A stream has these parts and no others; what is to be told besides makes another
//! version.

use nix::errno::Errno;
use thiserror::Error;
use virtio_mdev_api::HasErrno;

const MAGIC: &[u8; 8] = b"umdevmig";
const VERSION: u32 = 1;

const IDENTITY: u32 = 1;
const STATE: u32 = 2;
const END: u32 = 3;

/// The longest stream.
pub const MAX_STREAM: usize = 1 << 20;

/// What precedes the bytes of a section, and what follows the bytes of the state.
const SECTION_HEADER: usize = 8;
/// Bytes of a stream that are neither identity nor state.
pub const OVERHEAD: usize = 16 + 3 * SECTION_HEADER + 4;

/// Why bytes are no stream, or not one for this device.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum StreamError {
    #[error("this is no stream of a device's state")]
    Magic,
    #[error("the stream is of format {0}, and {VERSION} is known here")]
    Version(u32),
    #[error("section {found} where {expected} should be")]
    Section { expected: u32, found: u32 },
    #[error("a section of {0} bytes")]
    Length(usize),
    #[error("a stream may have {MAX_STREAM} bytes")]
    TooLong,
    #[error("bytes after the end")]
    Trailing,
    #[error("the checksum is wrong")]
    Checksum,
    #[error("the stream ends before its end")]
    Truncated,
}

impl HasErrno for StreamError {
    fn errno(&self) -> Errno {
        match self {
            Self::TooLong => Errno::ENOMEM,
            _ => Errno::EINVAL,
        }
    }
}

/// What a stream begins with.
pub(crate) fn begin(identity: &[u8]) -> Result<Vec<u8>, StreamError> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    push_section(&mut bytes, IDENTITY, identity)?;
    Ok(bytes)
}

/// Completes a stream of which `bytes` is the beginning.
pub(crate) fn finish(bytes: &mut Vec<u8>, state: &[u8]) -> Result<(), StreamError> {
    let mut whole = bytes.clone();
    push_section(&mut whole, STATE, state)?;
    let sum = crc32fast::hash(&whole);
    push_section(&mut whole, END, &sum.to_le_bytes())?;
    *bytes = whole;
    Ok(())
}

fn push_section(bytes: &mut Vec<u8>, kind: u32, content: &[u8]) -> Result<(), StreamError> {
    if bytes.len() + SECTION_HEADER + content.len() > MAX_STREAM {
        return Err(StreamError::TooLong);
    }
    bytes.extend(kind.to_le_bytes());
    bytes.extend(u32::try_from(content.len()).map_err(|_| StreamError::TooLong)?.to_le_bytes());
    bytes.extend(content);
    Ok(())
}

/// As much of a stream as has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed<'a> {
    /// What the device said of itself, once it is there.
    pub identity: Option<&'a [u8]>,
    /// Its state, once the stream is there to its end and its checksum is right.
    pub state: Option<&'a [u8]>,
}

/// Looks at the beginning of a stream, which is refused as soon as it is known to be none.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, StreamError> {
    let mut parsed = Parsed::default();
    if bytes.len() > MAX_STREAM {
        return Err(StreamError::TooLong);
    }
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(StreamError::Magic);
    }
    let mut rest = &bytes[known..];
    let Some(version) = take_number(&mut rest) else { return Ok(parsed) };
    if version != VERSION {
        return Err(StreamError::Version(version));
    }
    match take_number(&mut rest) {
        None => return Ok(parsed),
        Some(0) => {}
        Some(_) => return Err(StreamError::Magic),
    }
    parsed.identity = take_section(&mut rest, IDENTITY)?;
    if parsed.identity.is_none() {
        return Ok(parsed);
    }
    let Some(state) = take_section(&mut rest, STATE)? else { return Ok(parsed) };
    let summed = bytes.len() - rest.len();
    let Some(sum) = take_section(&mut rest, END)? else { return Ok(parsed) };
    if sum != crc32fast::hash(&bytes[..summed]).to_le_bytes() {
        return Err(StreamError::Checksum);
    }
    if !rest.is_empty() {
        return Err(StreamError::Trailing);
    }
    parsed.state = Some(state);
    Ok(parsed)
}

fn take_number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*number))
}

/// The bytes of the section `kind`, if all of them are there.
fn take_section<'a>(rest: &mut &'a [u8], kind: u32) -> Result<Option<&'a [u8]>, StreamError> {
    let Some(found) = take_number(rest) else { return Ok(None) };
    if found != kind {
        return Err(StreamError::Section { expected: kind, found });
    }
    let Some(len) = take_number(rest) else { return Ok(None) };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > MAX_STREAM {
        return Err(StreamError::TooLong);
    }
    if kind == END && len != 4 {
        return Err(StreamError::Length(len));
    }
    let Some((content, after)) = rest.split_at_checked(len) else {
        // Nothing of what comes is another section.
        *rest = &[];
        return Ok(None);
    };
    *rest = after;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(identity: &[u8], state: &[u8]) -> Vec<u8> {
        let mut bytes = begin(identity).unwrap();
        finish(&mut bytes, state).unwrap();
        bytes
    }

    #[test]
    fn a_stream_is_as_it_is_described() {
        let bytes = stream(b"card", b"xyz");
        assert_eq!(bytes.len(), OVERHEAD + 7);
        assert_eq!(bytes[..16], *b"umdevmig\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[16..28], *b"\x01\0\0\0\x04\0\0\0card");
        assert_eq!(bytes[28..39], *b"\x02\0\0\0\x03\0\0\0xyz");
        assert_eq!(bytes[39..47], *b"\x03\0\0\0\x04\0\0\0");
        assert_eq!(parse(&bytes), Ok(Parsed { identity: Some(b"card"), state: Some(b"xyz") }));
    }

    #[test]
    fn the_identity_is_known_before_the_device_stops() {
        let bytes = begin(b"card").unwrap();
        assert_eq!(parse(&bytes), Ok(Parsed { identity: Some(b"card"), state: None }));
    }

    #[test]
    fn f41_a_newer_format_is_told() {
        let mut bytes = stream(b"card", b"xyz");
        bytes[8] = 2;
        assert_eq!(parse(&bytes), Err(StreamError::Version(2)));
    }

    #[test]
    fn f41_no_more_is_taken_than_a_stream_may_have() {
        let huge = [MAGIC, &[1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0, 1, 0, 16, 0]].concat();
        assert_eq!(parse(&huge), Err(StreamError::TooLong));
        assert_eq!(begin(&vec![0; MAX_STREAM]), Err(StreamError::TooLong));
        assert_eq!(parse(&[&MAGIC[..], &vec![0; MAX_STREAM]].concat()), Err(StreamError::TooLong));
    }

    proptest! {
        #[test]
        fn f41_a_stream_that_is_cut_off_or_goes_on_is_none(
            identity in prop::collection::vec(any::<u8>(), 0..40),
            state in prop::collection::vec(any::<u8>(), 0..200),
            cut in any::<prop::sample::Index>(),
            more in prop::collection::vec(any::<u8>(), 1..9),
        ) {
            let bytes = stream(&identity, &state);
            prop_assert_eq!(parse(&bytes).unwrap().state, Some(&state[..]));
            let part = parse(&bytes[..cut.index(bytes.len())]).unwrap();
            prop_assert_eq!(part.state, None);
            let longer = [&bytes[..], &more].concat();
            prop_assert_eq!(parse(&longer), Err(StreamError::Trailing));
        }

        #[test]
        fn f41_no_bit_of_a_stream_can_be_another(
            identity in prop::collection::vec(any::<u8>(), 0..40),
            state in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            bit in 0u32..8,
        ) {
            let mut bytes = stream(&identity, &state);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert!(parse(&bytes).map_or(true, |parsed| parsed.state.is_none()));
        }

        #[test]
        fn any_bytes_are_refused_or_wait_for_more(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = parse(&[&MAGIC[..], &[1, 0, 0, 0, 0, 0, 0, 0], &bytes].concat());
        }
    }
}
