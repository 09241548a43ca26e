//! IOTLB messages as clients write them (`struct vhost_msg` and `struct vhost_msg_v2`).

use thiserror::Error;
use virtio_mdev_api::dma::Permissions;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What a message has in full; what a write of one answers.
pub(crate) const MESSAGE_SIZE: usize = 72;

const VHOST_IOTLB_MSG: u32 = 1;
const VHOST_IOTLB_MSG_V2: u32 = 2;
const VHOST_IOTLB_UPDATE: u8 = 2;
const VHOST_IOTLB_INVALIDATE: u8 = 3;
const VHOST_IOTLB_BATCH_BEGIN: u8 = 5;
const VHOST_IOTLB_BATCH_END: u8 = 6;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// Map memory.
    Update { iova: u64, size: u64, uaddr: u64, permissions: Permissions },
    /// Remove every map that touches the range.
    Invalidate { first: u64, last: u64 },
    /// Changes from here on are published together.
    BatchBegin,
    /// Publish them.
    BatchEnd,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum MessageError {
    #[error("{0} bytes are too short for a message")]
    Short(usize),
    #[error("{0} is no type of message")]
    Type(u32),
    #[error("{0} is nothing a client may ask for")]
    Request(u8),
    #[error("permission {0} is not read, write or both")]
    Permission(u8),
    #[error("a map of no bytes at {0:#x}")]
    Empty(u64),
}

/// Type, address space id (version 2) or padding (version 1), and `struct vhost_iotlb_msg`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Wire {
    kind: u32,
    _asid: u32,
    iova: u64,
    size: u64,
    uaddr: u64,
    permission: u8,
    request: u8,
    _pad: [u8; 6],
}

impl Message {
    /// Reads a message of either version. The address space id is ignored, because the feature that gives it a meaning
    /// is not offered; in version 1 its place is padding, and may hold anything.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let (wire, _) = Wire::read_from_prefix(bytes).map_err(|_| MessageError::Short(bytes.len()))?;
        if !matches!(wire.kind, VHOST_IOTLB_MSG | VHOST_IOTLB_MSG_V2) {
            return Err(MessageError::Type(wire.kind));
        }
        let Wire { iova, size, uaddr, permission, .. } = wire;
        match wire.request {
            VHOST_IOTLB_UPDATE => {
                let permissions = Permissions::from_bits(permission).filter(|given| !given.is_empty());
                let permissions = permissions.ok_or(MessageError::Permission(permission))?;
                if size == 0 {
                    Err(MessageError::Empty(iova))
                } else {
                    Ok(Self::Update { iova, size, uaddr, permissions })
                }
            }
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

    #[test]
    fn both_versions_say_the_same_and_padding_is_ignored() {
        let permissions = Permissions::READ | Permissions::WRITE;
        let wanted = Message::Update { iova: 0x1000, size: 0x2000, uaddr: 0x7000, permissions };
        for (kind, asid) in [(1, 0), (1, 0xdead_beef), (2, 0), (2, 7)] {
            assert_eq!(Message::decode(&bytes(kind, asid, [0x1000, 0x2000, 0x7000], 3, 2)), Ok(wanted));
        }
    }

    #[test]
    fn forty_bytes_are_enough_and_thirty_nine_are_not() {
        let whole = bytes(2, 0, [0, 0, 0], 0, 6);
        assert_eq!(Message::decode(&whole[..40]), Ok(Message::BatchEnd));
        assert_eq!(Message::decode(&whole[..39]), Err(MessageError::Short(39)));
    }

    #[test]
    fn what_is_no_request_of_a_client_is_refused() {
        for request in [0, 1, 4, 7, 255] {
            assert_eq!(Message::decode(&bytes(1, 0, [0, 1, 0], 3, request)), Err(MessageError::Request(request)));
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
        let everything = Ok(Message::Invalidate { first: 0, last: u64::MAX });
        assert_eq!(Message::decode(&bytes(2, 0, [0, 0, 0], 0, 3)), everything);
        let almost = Ok(Message::Invalidate { first: 0, last: u64::MAX - 1 });
        assert_eq!(Message::decode(&bytes(2, 0, [0, u64::MAX, 0], 0, 3)), almost);
        assert_eq!(
            Message::decode(&bytes(2, 0, [0x1000, u64::MAX, 0], 0, 3)),
            Ok(Message::Invalidate { first: 0x1000, last: u64::MAX })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(Message::Update { size, permissions, .. }) = Message::decode(&bytes) {
                prop_assert!(size != 0 && !permissions.is_empty());
            }
        }
    }
}
