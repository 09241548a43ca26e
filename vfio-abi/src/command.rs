//! The VFIO commands, by number.

/// The type byte of VFIO and of iommufd (`;`).
pub const VFIO_TYPE: u8 = 0x3b;

const fn command(nr: u32) -> u32 {
    ((VFIO_TYPE as u32) << 8) | (100 + nr)
}

macro_rules! commands {
    ($($name:ident = $nr:literal;)*) => {
        $(#[doc = concat!("`", stringify!($name), "`.")] pub const $name: u32 = command($nr);)*
    };
}

macro_rules! names {
    ($(#[$doc:meta])* $function:ident: $($name:ident)*) => {
        $(#[$doc])*
        pub fn $function(cmd: u32) -> Option<&'static str> {
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
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = 12;
    VFIO_DEVICE_PCI_HOT_RESET = 13;
    VFIO_DEVICE_QUERY_GFX_PLANE = 14;
    VFIO_DEVICE_GET_GFX_DMABUF = 15;
    VFIO_DEVICE_IOEVENTFD = 16;
    VFIO_DEVICE_FEATURE = 17;
    VFIO_DEVICE_BIND_IOMMUFD = 18;
    VFIO_DEVICE_ATTACH_IOMMUFD_PT = 19;
    VFIO_DEVICE_DETACH_IOMMUFD_PT = 20;
    VFIO_MIG_GET_PRECOPY_INFO = 21;
    VFIO_IOMMU_GET_INFO = 12;
    VFIO_IOMMU_MAP_DMA = 13;
    VFIO_IOMMU_UNMAP_DMA = 14;
    VFIO_IOMMU_ENABLE = 15;
    VFIO_IOMMU_DISABLE = 16;
    VFIO_IOMMU_DIRTY_PAGES = 17;
}

names! {
    /// The name of a command on a group or a container, `None` when no VFIO command has this number.
    ///
    /// Numbers from `VFIO_BASE + 12` mean other things on a device, see [`device_name`].
    name:
    VFIO_GET_API_VERSION VFIO_CHECK_EXTENSION VFIO_SET_IOMMU VFIO_GROUP_GET_STATUS VFIO_GROUP_SET_CONTAINER
    VFIO_GROUP_UNSET_CONTAINER VFIO_GROUP_GET_DEVICE_FD VFIO_DEVICE_GET_INFO VFIO_DEVICE_GET_REGION_INFO
    VFIO_DEVICE_GET_IRQ_INFO VFIO_DEVICE_SET_IRQS VFIO_DEVICE_RESET VFIO_IOMMU_GET_INFO VFIO_IOMMU_MAP_DMA
    VFIO_IOMMU_UNMAP_DMA VFIO_IOMMU_ENABLE VFIO_IOMMU_DISABLE VFIO_IOMMU_DIRTY_PAGES
}

names! {
    /// The name of a command on a device, `None` when no VFIO command has this number.
    device_name:
    VFIO_GET_API_VERSION VFIO_CHECK_EXTENSION VFIO_SET_IOMMU VFIO_GROUP_GET_STATUS VFIO_GROUP_SET_CONTAINER
    VFIO_GROUP_UNSET_CONTAINER VFIO_GROUP_GET_DEVICE_FD VFIO_DEVICE_GET_INFO VFIO_DEVICE_GET_REGION_INFO
    VFIO_DEVICE_GET_IRQ_INFO VFIO_DEVICE_SET_IRQS VFIO_DEVICE_RESET VFIO_DEVICE_GET_PCI_HOT_RESET_INFO
    VFIO_DEVICE_PCI_HOT_RESET VFIO_DEVICE_QUERY_GFX_PLANE VFIO_DEVICE_GET_GFX_DMABUF VFIO_DEVICE_IOEVENTFD
    VFIO_DEVICE_FEATURE VFIO_DEVICE_BIND_IOMMUFD VFIO_DEVICE_ATTACH_IOMMUFD_PT VFIO_DEVICE_DETACH_IOMMUFD_PT
    VFIO_MIG_GET_PRECOPY_INFO
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_bindings::bindings::vfio;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(u32::from(VFIO_TYPE), u32::from(vfio::VFIO_TYPE));
        assert_eq!(VFIO_GET_API_VERSION & 0xff, vfio::VFIO_BASE);
        assert_eq!(VFIO_GET_API_VERSION, 0x3b64);
        assert_eq!(VFIO_GROUP_GET_DEVICE_FD, 0x3b6a);
        assert_eq!(VFIO_IOMMU_GET_INFO, 0x3b70);
        assert_eq!(VFIO_IOMMU_DIRTY_PAGES, 0x3b75);
        assert_eq!(VFIO_DEVICE_FEATURE, 0x3b75);
        assert_eq!(VFIO_DEVICE_BIND_IOMMUFD, 0x3b76);
        assert_eq!(VFIO_MIG_GET_PRECOPY_INFO, 0x3b79);
    }

    #[test]
    fn a_number_has_the_name_of_its_file() {
        assert_eq!(name(VFIO_IOMMU_MAP_DMA), Some("VFIO_IOMMU_MAP_DMA"));
        assert_eq!(device_name(VFIO_IOMMU_MAP_DMA), Some("VFIO_DEVICE_PCI_HOT_RESET"));
        assert_eq!(name(0x3b63), None);
    }
}
