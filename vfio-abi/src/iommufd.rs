//! The iommufd commands (`/dev/iommu`), by number. The first field of every argument is its size.

use crate::command::VFIO_TYPE;

const fn command(nr: u32) -> u32 {
    ((VFIO_TYPE as u32) << 8) | (0x80 + nr)
}

macro_rules! commands {
    ($($name:ident = $nr:literal;)*) => {
        $(#[doc = concat!("`", stringify!($name), "`.")] pub const $name: u32 = command($nr);)*

        /// The name of a command, `None` when no iommufd command has this number.
        pub fn name(cmd: u32) -> Option<&'static str> {
            match cmd {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

commands! {
    IOMMU_DESTROY = 0;
    IOMMU_IOAS_ALLOC = 1;
    IOMMU_IOAS_ALLOW_IOVAS = 2;
    IOMMU_IOAS_COPY = 3;
    IOMMU_IOAS_IOVA_RANGES = 4;
    IOMMU_IOAS_MAP = 5;
    IOMMU_IOAS_UNMAP = 6;
    IOMMU_OPTION = 7;
    IOMMU_VFIO_IOAS = 8;
    IOMMU_HWPT_ALLOC = 9;
    IOMMU_GET_HW_INFO = 10;
    IOMMU_HWPT_SET_DIRTY_TRACKING = 11;
    IOMMU_HWPT_GET_DIRTY_BITMAP = 12;
    IOMMU_HWPT_INVALIDATE = 13;
    IOMMU_FAULT_QUEUE_ALLOC = 14;
    IOMMU_IOAS_MAP_FILE = 15;
    IOMMU_VIOMMU_ALLOC = 16;
    IOMMU_VDEVICE_ALLOC = 17;
    IOMMU_IOAS_CHANGE_PROCESS = 18;
    IOMMU_VEVENTQ_ALLOC = 19;
    IOMMU_HW_QUEUE_ALLOC = 20;
}
