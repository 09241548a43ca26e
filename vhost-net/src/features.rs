//! What is offered.

use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use virtio_net::features::VIRTIO_NET_F_MRG_RXBUF;

/// `VHOST_NET_F_VIRTIO_NET_HDR`: the interface knows no virtio-net header, the device adds and removes it.
pub const VIRTIO_NET_HDR: u64 = 1 << 27;

/// `VHOST_F_LOG_ALL`: what is written is logged.
pub const LOG_ALL: u64 = 1 << 26;

/// The features offered. Checksums and segmentation are not among them, as with the kernel: they are between the driver,
/// the VMM and the interface, and the header that carries them passes as it is.
pub const OFFERED: u64 = LOG_ALL
    | VIRTIO_F_VERSION_1
    | VIRTIO_F_EVENT_IDX
    | VIRTIO_F_INDIRECT_DESC
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_NET_HDR;

/// `VHOST_BACKEND_F_IOTLB_MSG_V2`.
pub const BACKEND: u64 = 1 << 1;

/// Whether the header before a frame has 12 bytes (virtio 1.3 §5.1.6.1), the only kind there is here.
pub fn has_whole_header(features: u64) -> bool {
    features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) != 0
}

/// Whether features may change from `old` to `new` under a ring that runs: what its frames begin with may not.
pub fn may_change(old: u64, new: u64) -> bool {
    has_whole_header(new) && (old ^ new) & VIRTIO_NET_HDR == 0
}
