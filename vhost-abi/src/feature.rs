//! Bits of vhost's own, beside those of virtio (`linux/vhost.h`, `linux/vhost_types.h`).

/// What the device writes is logged.
pub const VHOST_F_LOG_ALL: u64 = 1 << 26;
/// The back end knows no virtio-net header, vhost-net adds and removes it.
pub const VHOST_NET_F_VIRTIO_NET_HDR: u64 = 1 << 27;

/// Of a ring's flags: what is written to the used ring is logged, while [`VHOST_F_LOG_ALL`] is accepted.
pub const VHOST_VRING_F_LOG: u32 = 1;

/// IOTLB messages are of version 2.
pub const VHOST_BACKEND_F_IOTLB_MSG_V2: u64 = 1 << 1;
/// They come in batches.
pub const VHOST_BACKEND_F_IOTLB_BATCH: u64 = 1 << 2;
/// They name an address space.
pub const VHOST_BACKEND_F_IOTLB_ASID: u64 = 1 << 3;
/// A device can be suspended.
pub const VHOST_BACKEND_F_SUSPEND: u64 = 1 << 4;
/// And resumed.
pub const VHOST_BACKEND_F_RESUME: u64 = 1 << 5;
/// Rings can be enabled while the driver runs.
pub const VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK: u64 = 1 << 6;
/// Rings are in groups of their own.
pub const VHOST_BACKEND_F_DESC_ASID: u64 = 1 << 7;
/// Maps survive a reset.
pub const VHOST_BACKEND_F_IOTLB_PERSIST: u64 = 1 << 8;

#[cfg(test)]
mod tests {
    use super::*;
    use vhost::vhost_kern::vhost_binding as kernel;

    #[test]
    fn bits_are_those_of_the_vhost_crate() {
        let pairs = [
            (VHOST_F_LOG_ALL, u64::from(kernel::VHOST_F_LOG_ALL)),
            (VHOST_NET_F_VIRTIO_NET_HDR, u64::from(kernel::VHOST_NET_F_VIRTIO_NET_HDR)),
            (u64::from(VHOST_VRING_F_LOG), u64::from(kernel::VHOST_VRING_F_LOG)),
            (VHOST_BACKEND_F_IOTLB_MSG_V2, kernel::VHOST_BACKEND_F_IOTLB_MSG_V2),
            (VHOST_BACKEND_F_IOTLB_BATCH, kernel::VHOST_BACKEND_F_IOTLB_BATCH),
            (VHOST_BACKEND_F_IOTLB_ASID, kernel::VHOST_BACKEND_F_IOTLB_ASID),
            (VHOST_BACKEND_F_SUSPEND, kernel::VHOST_BACKEND_F_SUSPEND),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(ours, 1 << theirs);
        }
    }
}
