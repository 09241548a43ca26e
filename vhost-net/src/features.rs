//! What is offered.

use vhost_abi::feature::{VHOST_BACKEND_F_IOTLB_MSG_V2, VHOST_F_LOG_ALL, VHOST_NET_F_VIRTIO_NET_HDR};
use virtio_mdev_api::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};
use virtio_net::features::VIRTIO_NET_F_MRG_RXBUF;

/// The features offered. Checksums and segmentation are not among them, as with the kernel: they are between the driver,
/// the VMM and the interface, and the header that carries them passes as it is. A ring that its driver resets is given no
/// back end until it is set up anew.
pub const OFFERED: u64 = VHOST_F_LOG_ALL
    | VIRTIO_F_VERSION_1
    | VIRTIO_F_EVENT_IDX
    | VIRTIO_F_INDIRECT_DESC
    | VIRTIO_F_RING_RESET
    | VIRTIO_NET_F_MRG_RXBUF
    | VHOST_NET_F_VIRTIO_NET_HDR;

/// The backend features offered.
pub const BACKEND: u64 = VHOST_BACKEND_F_IOTLB_MSG_V2;

/// Whether the header before a frame has 12 bytes (virtio 1.3 §5.1.6.1), the only kind there is here.
pub fn has_whole_header(features: u64) -> bool {
    features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) != 0
}

/// Whether features may change from `old` to `new` under a ring that runs: what its frames begin with may not.
pub fn may_change(old: u64, new: u64) -> bool {
    has_whole_header(new) && (old ^ new) & VHOST_NET_F_VIRTIO_NET_HDR == 0
}
