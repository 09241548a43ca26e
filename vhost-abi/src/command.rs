//! The vhost commands: number, name, and who may use each.

/// Who may use a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody who has the file open.
    Any,
    /// The same, until there is an owner; then the owner alone.
    Mutating,
    /// The owner, and nobody while there is none.
    Owner,
}

macro_rules! commands {
    ($($name:ident = $nr:literal, $access:ident;)*) => {
        $(#[doc = concat!("`", stringify!($name), "`.")] pub const $name: u32 = $nr;)*

        /// Name and access of a command, `None` when no vhost command has this number.
        pub fn find(cmd: u32) -> Option<(&'static str, Access)> {
            match cmd {
                $($name => Some((stringify!($name), Access::$access)),)*
                _ => None,
            }
        }
    };
}

commands! {
    VHOST_GET_FEATURES = 0x8008_af00, Any;
    VHOST_SET_FEATURES = 0x4008_af00, Mutating;
    VHOST_SET_OWNER = 0xaf01, Any;
    VHOST_RESET_OWNER = 0xaf02, Owner;
    VHOST_SET_MEM_TABLE = 0x4008_af03, Owner;
    VHOST_SET_LOG_BASE = 0x4008_af04, Owner;
    VHOST_SET_LOG_FD = 0x4004_af07, Owner;
    VHOST_NEW_WORKER = 0x8004_af08, Owner;
    VHOST_FREE_WORKER = 0x4004_af09, Owner;
    VHOST_SET_VRING_NUM = 0x4008_af10, Owner;
    VHOST_SET_VRING_ADDR = 0x4028_af11, Owner;
    VHOST_SET_VRING_BASE = 0x4008_af12, Owner;
    VHOST_GET_VRING_BASE = 0xc008_af12, Owner;
    VHOST_SET_VRING_ENDIAN = 0x4008_af13, Owner;
    VHOST_GET_VRING_ENDIAN = 0x4008_af14, Owner;
    VHOST_ATTACH_VRING_WORKER = 0x4008_af15, Owner;
    VHOST_GET_VRING_WORKER = 0xc008_af16, Owner;
    VHOST_SET_VRING_KICK = 0x4008_af20, Owner;
    VHOST_SET_VRING_CALL = 0x4008_af21, Owner;
    VHOST_SET_VRING_ERR = 0x4008_af22, Owner;
    VHOST_SET_VRING_BUSYLOOP_TIMEOUT = 0x4008_af23, Owner;
    VHOST_GET_VRING_BUSYLOOP_TIMEOUT = 0x4008_af24, Owner;
    VHOST_SET_BACKEND_FEATURES = 0x4008_af25, Mutating;
    VHOST_GET_BACKEND_FEATURES = 0x8008_af26, Any;
    VHOST_NET_SET_BACKEND = 0x4008_af30, Owner;
    VHOST_VDPA_GET_DEVICE_ID = 0x8004_af70, Any;
    VHOST_VDPA_GET_STATUS = 0x8001_af71, Any;
    VHOST_VDPA_SET_STATUS = 0x4001_af72, Mutating;
    VHOST_VDPA_GET_CONFIG = 0x8008_af73, Any;
    VHOST_VDPA_SET_CONFIG = 0x4008_af74, Mutating;
    VHOST_VDPA_SET_VRING_ENABLE = 0x4008_af75, Owner;
    VHOST_VDPA_GET_VRING_NUM = 0x8002_af76, Any;
    VHOST_VDPA_SET_CONFIG_CALL = 0x4004_af77, Mutating;
    VHOST_VDPA_GET_IOVA_RANGE = 0x8010_af78, Any;
    VHOST_VDPA_GET_CONFIG_SIZE = 0x8004_af79, Any;
    VHOST_VDPA_GET_AS_NUM = 0x8004_af7a, Any;
    VHOST_VDPA_GET_VRING_GROUP = 0xc008_af7b, Owner;
    VHOST_VDPA_SET_GROUP_ASID = 0x4008_af7c, Owner;
    VHOST_VDPA_SUSPEND = 0xaf7d, Mutating;
    VHOST_VDPA_RESUME = 0xaf7e, Mutating;
    VHOST_VDPA_GET_VRING_DESC_GROUP = 0xc008_af7f, Owner;
    VHOST_VDPA_GET_VQS_COUNT = 0x8004_af80, Any;
    VHOST_VDPA_GET_GROUP_NUM = 0x8004_af81, Any;
    VHOST_VDPA_GET_VRING_SIZE = 0xc008_af82, Owner;
    VHOST_GET_FEATURES_ARRAY = 0x8008_af83, Any;
    VHOST_SET_FEATURES_ARRAY = 0x4008_af83, Mutating;
    VHOST_SET_FORK_FROM_OWNER = 0x4001_af84, Any;
    VHOST_GET_FORK_FROM_OWNER = 0x8001_af85, Any;
}

#[cfg(test)]
mod tests {
    use super::*;
    use vhost::vhost_kern::vhost_binding as kernel;

    #[test]
    fn numbers_are_those_of_the_vhost_crate() {
        let pairs = [
            (VHOST_GET_FEATURES, kernel::VHOST_GET_FEATURES()),
            (VHOST_SET_FEATURES, kernel::VHOST_SET_FEATURES()),
            (VHOST_SET_OWNER, kernel::VHOST_SET_OWNER()),
            (VHOST_RESET_OWNER, kernel::VHOST_RESET_OWNER()),
            (VHOST_SET_MEM_TABLE, kernel::VHOST_SET_MEM_TABLE()),
            (VHOST_SET_LOG_BASE, kernel::VHOST_SET_LOG_BASE()),
            (VHOST_SET_LOG_FD, kernel::VHOST_SET_LOG_FD()),
            (VHOST_SET_VRING_NUM, kernel::VHOST_SET_VRING_NUM()),
            (VHOST_SET_VRING_ADDR, kernel::VHOST_SET_VRING_ADDR()),
            (VHOST_SET_VRING_BASE, kernel::VHOST_SET_VRING_BASE()),
            (VHOST_GET_VRING_BASE, kernel::VHOST_GET_VRING_BASE()),
            (VHOST_SET_VRING_KICK, kernel::VHOST_SET_VRING_KICK()),
            (VHOST_SET_VRING_CALL, kernel::VHOST_SET_VRING_CALL()),
            (VHOST_SET_VRING_ERR, kernel::VHOST_SET_VRING_ERR()),
            (VHOST_SET_BACKEND_FEATURES, kernel::VHOST_SET_BACKEND_FEATURES()),
            (VHOST_GET_BACKEND_FEATURES, kernel::VHOST_GET_BACKEND_FEATURES()),
            (VHOST_VDPA_GET_DEVICE_ID, kernel::VHOST_VDPA_GET_DEVICE_ID()),
            (VHOST_VDPA_GET_STATUS, kernel::VHOST_VDPA_GET_STATUS()),
            (VHOST_VDPA_SET_STATUS, kernel::VHOST_VDPA_SET_STATUS()),
            (VHOST_VDPA_GET_CONFIG, kernel::VHOST_VDPA_GET_CONFIG()),
            (VHOST_VDPA_SET_CONFIG, kernel::VHOST_VDPA_SET_CONFIG()),
            (VHOST_VDPA_SET_VRING_ENABLE, kernel::VHOST_VDPA_SET_VRING_ENABLE()),
            (VHOST_VDPA_GET_VRING_NUM, kernel::VHOST_VDPA_GET_VRING_NUM()),
            (VHOST_VDPA_SET_CONFIG_CALL, kernel::VHOST_VDPA_SET_CONFIG_CALL()),
            (VHOST_VDPA_GET_IOVA_RANGE, kernel::VHOST_VDPA_GET_IOVA_RANGE()),
            (VHOST_VDPA_GET_CONFIG_SIZE, kernel::VHOST_VDPA_GET_CONFIG_SIZE()),
            (VHOST_VDPA_GET_VQS_COUNT, kernel::VHOST_VDPA_GET_VQS_COUNT()),
            (VHOST_VDPA_GET_GROUP_NUM, kernel::VHOST_VDPA_GET_GROUP_NUM()),
            (VHOST_VDPA_GET_AS_NUM, kernel::VHOST_VDPA_GET_AS_NUM()),
            (VHOST_VDPA_GET_VRING_GROUP, kernel::VHOST_VDPA_GET_VRING_GROUP()),
            (VHOST_VDPA_SET_GROUP_ASID, kernel::VHOST_VDPA_SET_GROUP_ASID()),
            (VHOST_VDPA_SUSPEND, kernel::VHOST_VDPA_SUSPEND()),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(u64::from(ours), theirs, "{:?}", find(ours));
        }
    }
}
