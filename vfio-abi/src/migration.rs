//! The structures of a device's features (VFIO_DEVICE_FEATURE) that are about migration, and of its data stream.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct vfio_device_feature_migration`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MigrationFlags {
    /// `VFIO_MIGRATION_*`.
    pub flags: u64,
}

/// `struct vfio_device_feature_mig_state`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MigrationState {
    /// `enum vfio_device_mig_state`.
    pub state: u32,
    /// The data stream that came with it, or -1.
    pub data_fd: i32,
}

/// `struct vfio_device_feature_mig_data_size`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MigrationDataSize {
    /// About how many bytes are to be read after the device stopped.
    pub stop_copy_length: u64,
}

/// `struct vfio_device_feature_dma_logging_control`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LoggingControl {
    /// The page size wished for; on return the one there is.
    pub page_size: u64,
    /// How many ranges there are.
    pub num_ranges: u32,
    /// Nothing.
    pub reserved: u32,
    /// Where in the caller they are.
    pub ranges: u64,
}

/// `struct vfio_device_feature_dma_logging_range`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LoggingRange {
    /// First address of the device.
    pub iova: u64,
    /// Bytes.
    pub length: u64,
}

/// `struct vfio_device_feature_dma_logging_report`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LoggingReport {
    /// First address of the device.
    pub iova: u64,
    /// Bytes.
    pub length: u64,
    /// Bytes a bit stands for.
    pub page_size: u64,
    /// Where in the caller the bitmap is.
    pub bitmap: u64,
}

/// `struct vfio_precopy_info`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PrecopyInfo {
    /// Bytes the caller has room for.
    pub argsz: u32,
    /// Flags.
    pub flags: u32,
    /// Bytes of what is told first that were not read yet.
    pub initial_bytes: u64,
    /// Bytes that came since.
    pub dirty_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};
    use vfio_bindings::bindings::vfio;

    #[test]
    fn layouts_are_those_of_the_kernel() {
        assert_eq!(size_of::<MigrationFlags>(), size_of::<vfio::vfio_device_feature_migration>());
        assert_eq!(size_of::<MigrationState>(), size_of::<vfio::vfio_device_feature_mig_state>());
        assert_eq!(size_of::<MigrationDataSize>(), size_of::<vfio::vfio_device_feature_mig_data_size>());
        assert_eq!(size_of::<LoggingControl>(), size_of::<vfio::vfio_device_feature_dma_logging_control>());
        assert_eq!(size_of::<LoggingRange>(), size_of::<vfio::vfio_device_feature_dma_logging_range>());
        assert_eq!(size_of::<LoggingReport>(), size_of::<vfio::vfio_device_feature_dma_logging_report>());
        assert_eq!(size_of::<PrecopyInfo>(), size_of::<vfio::vfio_precopy_info>());
        let kernel = offset_of!(vfio::vfio_device_feature_dma_logging_control, ranges);
        assert_eq!(offset_of!(LoggingControl, ranges), kernel);
        assert_eq!(offset_of!(LoggingReport, bitmap), offset_of!(vfio::vfio_device_feature_dma_logging_report, bitmap));
    }
}
