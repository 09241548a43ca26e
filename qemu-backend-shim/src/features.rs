//! Which virtio feature bits pass between front end and instance, and which belong to one side only.

/// VHOST_USER_F_PROTOCOL_FEATURES: between the front end and this program.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// VIRTIO_F_RING_PACKED.
pub const RING_PACKED: u64 = 1 << 34;
/// VIRTIO_F_ACCESS_PLATFORM: the instance addresses memory by IOVA. To a front end it would mean that ring addresses are IOVAs too, and QEMU refuses it
/// from a backend that cannot ask for translations.
const ACCESS_PLATFORM: u64 = 1 << 33;

/// Bits this program cannot keep the promise of.
const HIDDEN: u64 = ACCESS_PLATFORM
    // VHOST_F_LOG_ALL: dirty logging
    | 1 << 26
    // VIRTIO_NET_F_CTRL_VQ and what needs it (CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, MQ, CTRL_MAC_ADDR, VQ_NOTF_COAL, NOTF_COAL, HASH_REPORT,
    // RSS): there are two rings
    | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 22 | 1 << 23 | 1 << 52 | 1 << 53 | 1 << 57 | 1 << 60
    // VIRTIO_F_NOTIFICATION_DATA: a kick is an eventfd and carries none
    | 1 << 38;

/// What the front end is offered, by what the instance offers.
pub fn for_front_end(instance: u64) -> u64 {
    instance & !HIDDEN | PROTOCOL_FEATURES
}

/// What the instance is asked for, by what the front end acknowledged and what the instance offers.
pub fn for_instance(acknowledged: u64, instance: u64) -> u64 {
    acknowledged & !PROTOCOL_FEATURES | instance & ACCESS_PLATFORM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_platform_stays_between_this_program_and_the_instance() {
        let instance = 1 << 32 | ACCESS_PLATFORM | 1 << 15;
        assert_eq!(for_front_end(instance), 1 << 32 | 1 << 15 | PROTOCOL_FEATURES);
        assert_eq!(for_instance(1 << 32 | PROTOCOL_FEATURES, instance), 1 << 32 | ACCESS_PLATFORM);
        assert_eq!(for_instance(1 << 32, 1 << 32), 1 << 32);
    }
}
