//! IOTLB messages as clients write them (`struct vhost_msg` and `struct vhost_msg_v2`).

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a message has in full; what a write of one answers.
pub const MESSAGE_SIZE: usize = 72;

const VHOST_IOTLB_MSG: u32 = 1;
const VHOST_IOTLB_MSG_V2: u32 = 2;
/// Type of a message: a device misses a mapping.
pub const VHOST_IOTLB_MISS: u8 = 1;
/// Type of a message: map.
pub const VHOST_IOTLB_UPDATE: u8 = 2;
/// Type of a message: unmap.
pub const VHOST_IOTLB_INVALIDATE: u8 = 3;
/// Type of a message: what follows is published together.
pub const VHOST_IOTLB_BATCH_BEGIN: u8 = 5;
/// Type of a message: publish it.
pub const VHOST_IOTLB_BATCH_END: u8 = 6;
/// `VHOST_ACCESS_RW`: no permission has a bit beyond these.
const VHOST_ACCESS_RW: u8 = 3;

/// Which structure a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `struct vhost_msg`: it names no address space.
    V1,
    /// `struct vhost_msg_v2`.
    V2,
}

/// A message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Which structure it came in.
    pub version: Version,
    /// The address space id; 0 in version 1, where its place is padding and may hold anything. It means something only
    /// to a client that acknowledged `VHOST_BACKEND_F_IOTLB_ASID`.
    pub asid: u32,
    /// What it asks for.
    pub request: Request,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Map memory.
    Update {
        /// Where the device sees it.
        iova: u64,
        /// Bytes, at least one.
        size: u64,
        /// Where the client has it.
        uaddr: u64,
        /// `VHOST_ACCESS_RO`, `VHOST_ACCESS_WO` or `VHOST_ACCESS_RW`: 1 to 3.
        permission: u8,
    },
    /// Remove every map that touches the range.
    Invalidate {
        /// First address.
        first: u64,
        /// Last address.
        last: u64,
    },
    /// Changes from here on are published together.
    BatchBegin,
    /// Publish them.
    BatchEnd,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Less than a message has.
    #[error("{0} bytes are too short for a message")]
    Short(usize),
    /// Neither version.
    #[error("{0} is no type of message")]
    Type(u32),
    /// Not a client's to send.
    #[error("{0} is nothing a client may ask for")]
    Request(u8),
    /// None, or bits there are none of.
    #[error("permission {0} is not read, write or both")]
    Permission(u8),
    /// A range of no bytes.
    #[error("a map of no bytes at {0:#x}")]
    Empty(u64),
}

/// Type, address space id (version 2) or padding (version 1), and `struct vhost_iotlb_msg`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Wire {
    kind: u32,
    asid: u32,
    iova: u64,
    size: u64,
    uaddr: u64,
    permission: u8,
    request: u8,
    pad: [u8; 6],
}

impl Message {
    /// Reads a message of either version.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let (wire, _) = Wire::read_from_prefix(bytes).map_err(|_| MessageError::Short(bytes.len()))?;
        let (version, asid) = match wire.kind {
            VHOST_IOTLB_MSG => (Version::V1, 0),
            VHOST_IOTLB_MSG_V2 => (Version::V2, wire.asid),
            kind => return Err(MessageError::Type(kind)),
        };
        Ok(Self { version, asid, request: Request::decode(&wire)? })
    }

    /// The message that asks a client to map the page of `iova` (`VHOST_IOTLB_MISS`).
    pub fn miss(version: Version, asid: u32, iova: u64, permission: u8) -> [u8; MESSAGE_SIZE] {
        let (kind, asid) = match version {
            Version::V1 => (VHOST_IOTLB_MSG, 0),
            Version::V2 => (VHOST_IOTLB_MSG_V2, asid),
        };
        let wire = Wire { kind, asid, iova, size: 0, uaddr: 0, permission, request: VHOST_IOTLB_MISS, pad: [0; 6] };
        let mut bytes = [0; MESSAGE_SIZE];
        bytes[..size_of::<Wire>()].copy_from_slice(wire.as_bytes());
        bytes
    }
}

impl Request {
    fn decode(wire: &Wire) -> Result<Self, MessageError> {
        let &Wire { iova, size, uaddr, permission, .. } = wire;
        match wire.request {
            VHOST_IOTLB_UPDATE if permission == 0 || permission > VHOST_ACCESS_RW => {
                Err(MessageError::Permission(permission))
            }
            VHOST_IOTLB_UPDATE if size == 0 => Err(MessageError::Empty(iova)),
            VHOST_IOTLB_UPDATE => Ok(Self::Update { iova, size, uaddr, permission }),
            // Nothing at 0 stands for everything: 2^64 bytes cannot be said otherwise.
            VHOST_IOTLB_INVALIDATE if size == 0 && iova == 0 => Ok(Self::Invalidate { first: 0, last: u64::MAX }),
            VHOST_IOTLB_INVALIDATE if size == 0 => Err(MessageError::Empty(iova)),
            VHOST_IOTLB_INVALIDATE => Ok(Self::Invalidate { first: iova, last: iova.saturating_add(size - 1) }),
            VHOST_IOTLB_BATCH_BEGIN => Ok(Self::BatchBegin),
            VHOST_IOTLB_BATCH_END => Ok(Self::BatchEnd),
            request => Err(MessageError::Request(request)),
        }
    }

    /// How trace lines call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Update { .. } => "IOTLB_UPDATE",
            Self::Invalidate { .. } => "IOTLB_INVALIDATE",
            Self::BatchBegin => "IOTLB_BATCH_BEGIN",
            Self::BatchEnd => "IOTLB_BATCH_END",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vhost::vhost_kern::vhost_binding as kernel;

    fn bytes(kind: u32, asid: u32, words: [u64; 3], permission: u8, request: u8) -> Vec<u8> {
        let mut bytes = [kind.to_ne_bytes(), asid.to_ne_bytes()].concat();
        words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend([permission, request]);
        bytes.resize(MESSAGE_SIZE, 0);
        bytes
    }

    #[test]
    fn the_layout_is_that_of_the_vhost_crate() {
        assert_eq!(size_of::<kernel::vhost_msg>(), MESSAGE_SIZE);
        assert_eq!(size_of::<kernel::vhost_msg_v2>(), MESSAGE_SIZE);
        assert_eq!(size_of::<Wire>(), 8 + size_of::<kernel::vhost_iotlb_msg>());
        assert_eq!(std::mem::offset_of!(Wire, permission), 8 + std::mem::offset_of!(kernel::vhost_iotlb_msg, perm));
    }

    fn request(bytes: &[u8]) -> Result<Request, MessageError> {
        Message::decode(bytes).map(|message| message.request)
    }

    #[test]
    fn only_version_two_names_an_address_space() {
        let request = Request::Update { iova: 0x1000, size: 0x2000, uaddr: 0x7000, permission: 3 };
        for (kind, word, version, asid) in
            [(1, 0, Version::V1, 0), (1, 0xdead_beef, Version::V1, 0), (2, 0, Version::V2, 0), (2, 7, Version::V2, 7)]
        {
            let decoded = Message::decode(&bytes(kind, word, [0x1000, 0x2000, 0x7000], 3, 2));
            assert_eq!(decoded, Ok(Message { version, asid, request }));
        }
    }

    #[test]
    fn a_miss_is_what_the_kernel_would_write() {
        assert_eq!(Message::miss(Version::V2, 3, 0x5000, 1)[..], bytes(2, 3, [0x5000, 0, 0], 1, 1));
        assert_eq!(Message::miss(Version::V1, 3, 0x5000, 2)[..], bytes(1, 0, [0x5000, 0, 0], 2, 1));
    }

    #[test]
    fn forty_bytes_are_enough_and_thirty_nine_are_not() {
        let whole = bytes(2, 0, [0, 0, 0], 0, 6);
        assert_eq!(request(&whole[..40]), Ok(Request::BatchEnd));
        assert_eq!(request(&whole[..39]), Err(MessageError::Short(39)));
    }

    #[test]
    fn what_is_no_request_of_a_client_is_refused() {
        for kind in [0, 1, 4, 7, 255] {
            assert_eq!(Message::decode(&bytes(1, 0, [0, 1, 0], 3, kind)).map(drop), Err(MessageError::Request(kind)));
        }
        assert_eq!(Message::decode(&bytes(3, 0, [0, 1, 0], 3, 2)), Err(MessageError::Type(3)));
        for permission in [0, 4, 7] {
            let refused = Message::decode(&bytes(1, 0, [0, 1, 0], permission, 2));
            assert_eq!(refused, Err(MessageError::Permission(permission)));
        }
        assert_eq!(Message::decode(&bytes(1, 0, [8, 0, 0], 3, 2)), Err(MessageError::Empty(8)));
    }

    #[test]
    fn an_invalidate_of_everything_is_said_in_two_ways() {
        let everything = Ok(Request::Invalidate { first: 0, last: u64::MAX });
        assert_eq!(request(&bytes(2, 0, [0, 0, 0], 0, 3)), everything);
        let almost = Ok(Request::Invalidate { first: 0, last: u64::MAX - 1 });
        assert_eq!(request(&bytes(2, 0, [0, u64::MAX, 0], 0, 3)), almost);
        assert_eq!(
            request(&bytes(2, 0, [0x1000, u64::MAX, 0], 0, 3)),
            Ok(Request::Invalidate { first: 0x1000, last: u64::MAX })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(Request::Update { size, permission, .. }) = request(&bytes) {
                prop_assert!(size != 0 && matches!(permission, 1..=3));
            }
        }
    }
}
