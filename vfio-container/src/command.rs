//! The VFIO commands, by number. All are encoded `_IO`: they carry no size, their arguments say it in `argsz`.

use vfio_bindings::bindings::vfio::{VFIO_BASE, VFIO_TYPE};

const fn command(nr: u32) -> u32 {
    ((VFIO_TYPE as u32) << 8) | (VFIO_BASE + nr)
}

macro_rules! commands {
    ($($name:ident = $nr:literal;)*) => {
        $(pub(crate) const $name: u32 = command($nr);)*

        /// The name of a command, `None` when no VFIO command has this number.
        ///
        /// Numbers from `VFIO_BASE + 12` mean different things on different files; the name is that on a container.
        pub(crate) fn name(cmd: u32) -> Option<&'static str> {
            match cmd {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

commands! {
    VFIO_GET_API_VERSION = 0;
    VFIO_CHECK_EXTENSION = 1;
    VFIO_SET_IOMMU = 2;
    VFIO_GROUP_GET_STATUS = 3;
    VFIO_GROUP_SET_CONTAINER = 4;
    VFIO_GROUP_UNSET_CONTAINER = 5;
    VFIO_GROUP_GET_DEVICE_FD = 6;
    VFIO_DEVICE_GET_INFO = 7;
    VFIO_DEVICE_GET_REGION_INFO = 8;
    VFIO_DEVICE_GET_IRQ_INFO = 9;
    VFIO_DEVICE_SET_IRQS = 10;
    VFIO_DEVICE_RESET = 11;
    VFIO_IOMMU_GET_INFO = 12;
    VFIO_IOMMU_MAP_DMA = 13;
    VFIO_IOMMU_UNMAP_DMA = 14;
    VFIO_IOMMU_ENABLE = 15;
    VFIO_IOMMU_DISABLE = 16;
    VFIO_IOMMU_DIRTY_PAGES = 17;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(VFIO_GET_API_VERSION, 0x3b64);
        assert_eq!(VFIO_GROUP_GET_DEVICE_FD, 0x3b6a);
        assert_eq!(VFIO_IOMMU_GET_INFO, 0x3b70);
        assert_eq!(VFIO_IOMMU_DIRTY_PAGES, 0x3b75);
        assert_eq!(name(VFIO_IOMMU_MAP_DMA), Some("VFIO_IOMMU_MAP_DMA"));
        assert_eq!(name(0x3b63), None);
    }
}
