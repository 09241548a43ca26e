//! Numbers of the vhost, vhost-vdpa and VFIO interfaces as the kernel's headers have them.

#![allow(missing_docs)] // the names are the kernel's

pub const VHOST_GET_FEATURES: u32 = 0x8008_af00;
pub const VHOST_SET_FEATURES: u32 = 0x4008_af00;
pub const VHOST_SET_OWNER: u32 = 0xaf01;
pub const VHOST_SET_MEM_TABLE: u32 = 0x4008_af03;
pub const VHOST_NET_SET_BACKEND: u32 = 0x4008_af30;
pub const VHOST_SET_VRING_NUM: u32 = 0x4008_af10;
pub const VHOST_SET_VRING_ADDR: u32 = 0x4028_af11;
pub const VHOST_SET_VRING_BASE: u32 = 0x4008_af12;
pub const VHOST_GET_VRING_BASE: u32 = 0xc008_af12;
pub const VHOST_SET_VRING_KICK: u32 = 0x4008_af20;
pub const VHOST_SET_VRING_CALL: u32 = 0x4008_af21;
pub const VHOST_SET_VRING_ERR: u32 = 0x4008_af22;
pub const VHOST_SET_BACKEND_FEATURES: u32 = 0x4008_af25;
pub const VHOST_GET_BACKEND_FEATURES: u32 = 0x8008_af26;
pub const VHOST_VDPA_GET_DEVICE_ID: u32 = 0x8004_af70;
pub const VHOST_VDPA_GET_STATUS: u32 = 0x8001_af71;
pub const VHOST_VDPA_SET_STATUS: u32 = 0x4001_af72;
pub const VHOST_VDPA_GET_CONFIG: u32 = 0x8008_af73;
pub const VHOST_VDPA_SET_CONFIG: u32 = 0x4008_af74;
pub const VHOST_VDPA_SET_VRING_ENABLE: u32 = 0x4008_af75;
pub const VHOST_VDPA_GET_VRING_NUM: u32 = 0x8002_af76;
pub const VHOST_VDPA_SET_CONFIG_CALL: u32 = 0x4004_af77;
pub const VHOST_VDPA_GET_IOVA_RANGE: u32 = 0x8010_af78;
pub const VHOST_VDPA_GET_CONFIG_SIZE: u32 = 0x8004_af79;
pub const VHOST_VDPA_GET_VRING_GROUP: u32 = 0xc008_af7b;
pub const VHOST_VDPA_SET_GROUP_ASID: u32 = 0x4008_af7c;
pub const VHOST_VDPA_SUSPEND: u32 = 0xaf7d;
pub const VHOST_VDPA_RESUME: u32 = 0xaf7e;
pub const VHOST_VDPA_GET_VQS_COUNT: u32 = 0x8004_af80;
pub const VHOST_VDPA_GET_VRING_DESC_GROUP: u32 = 0xc008_af7f;
pub const VHOST_VDPA_GET_VRING_SIZE: u32 = 0xc008_af82;

pub const VHOST_F_LOG_ALL: u64 = 1 << 26;
pub const VHOST_BACKEND_F_IOTLB_MSG_V2: u64 = 1 << 1;
pub const VHOST_BACKEND_F_IOTLB_ASID: u64 = 1 << 3;
pub const VHOST_BACKEND_F_DESC_ASID: u64 = 1 << 7;
pub const VHOST_SET_LOG_BASE: u32 = 0x4008_af04;
pub const VHOST_SET_LOG_FD: u32 = 0x4004_af07;
pub const VHOST_IOTLB_MSG_V2: u32 = 2;
pub const VHOST_IOTLB_UPDATE: u8 = 2;
pub const VHOST_IOTLB_INVALIDATE: u8 = 3;
pub const VHOST_IOTLB_BATCH_BEGIN: u8 = 5;
pub const VHOST_IOTLB_BATCH_END: u8 = 6;
/// Bytes of `struct vhost_msg_v2`.
pub const VHOST_MSG_SIZE: usize = 72;

pub const VFIO_GET_API_VERSION: u32 = 0x3b64;
pub const VFIO_CHECK_EXTENSION: u32 = 0x3b65;
pub const VFIO_SET_IOMMU: u32 = 0x3b66;
pub const VFIO_GROUP_GET_STATUS: u32 = 0x3b67;
pub const VFIO_GROUP_SET_CONTAINER: u32 = 0x3b68;
pub const VFIO_GROUP_UNSET_CONTAINER: u32 = 0x3b69;
pub const VFIO_GROUP_GET_DEVICE_FD: u32 = 0x3b6a;
pub const VFIO_DEVICE_GET_INFO: u32 = 0x3b6b;
pub const VFIO_DEVICE_GET_REGION_INFO: u32 = 0x3b6c;
pub const VFIO_DEVICE_GET_IRQ_INFO: u32 = 0x3b6d;
pub const VFIO_DEVICE_SET_IRQS: u32 = 0x3b6e;
pub const VFIO_DEVICE_RESET: u32 = 0x3b6f;
pub const VFIO_DEVICE_IOEVENTFD: u32 = 0x3b74;
pub const VFIO_DEVICE_FEATURE: u32 = 0x3b75;
pub const VFIO_DEVICE_FLAGS_RESET: u32 = 1;
pub const VFIO_DEVICE_FLAGS_PCI: u32 = 2;
pub const VFIO_DEVICE_FLAGS_PLATFORM: u32 = 4;
pub const VFIO_IRQ_INFO_EVENTFD: u32 = 1;
pub const VFIO_IRQ_SET_DATA_NONE: u32 = 1;
pub const VFIO_IRQ_SET_DATA_BOOL: u32 = 2;
pub const VFIO_IRQ_SET_DATA_EVENTFD: u32 = 4;
pub const VFIO_IRQ_SET_ACTION_MASK: u32 = 8;
pub const VFIO_IRQ_SET_ACTION_UNMASK: u32 = 16;
pub const VFIO_IRQ_SET_ACTION_TRIGGER: u32 = 32;
pub const VFIO_DEVICE_BIND_IOMMUFD: u32 = 0x3b76;
pub const VFIO_DEVICE_ATTACH_IOMMUFD_PT: u32 = 0x3b77;
pub const VFIO_DEVICE_DETACH_IOMMUFD_PT: u32 = 0x3b78;
pub const IOMMU_DESTROY: u32 = 0x3b80;
pub const IOMMU_IOAS_ALLOC: u32 = 0x3b81;
pub const IOMMU_IOAS_COPY: u32 = 0x3b83;
pub const IOMMU_IOAS_MAP: u32 = 0x3b85;
pub const IOMMU_IOAS_UNMAP: u32 = 0x3b86;
pub const IOMMU_IOAS_MAP_FILE: u32 = 0x3b8f;
pub const IOMMU_IOAS_MAP_FIXED_IOVA: u32 = 1;
pub const IOMMU_IOAS_MAP_WRITEABLE: u32 = 2;
pub const IOMMU_IOAS_MAP_READABLE: u32 = 4;
/// Of `dev/vfio/handle`, a node of our own.
pub const UMDEV_HANDLE_GET_DEVICE: u32 = 0x4048_5510;
pub const UMDEV_HANDLE_MIG_STATE: u32 = 0xc008_5511;

pub const VFIO_DEVICE_FEATURE_GET: u32 = 1 << 16;
pub const VFIO_DEVICE_FEATURE_SET: u32 = 1 << 17;
pub const VFIO_DEVICE_FEATURE_MIGRATION: u32 = 1;
pub const VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: u32 = 2;
pub const VFIO_DEVICE_FEATURE_DMA_LOGGING_START: u32 = 6;
pub const VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: u32 = 7;
pub const VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: u32 = 8;
pub const VFIO_MIG_GET_PRECOPY_INFO: u32 = 0x3b79;

pub const VFIO_DEVICE_STATE_ERROR: u32 = 0;
pub const VFIO_DEVICE_STATE_STOP: u32 = 1;
pub const VFIO_DEVICE_STATE_RUNNING: u32 = 2;
pub const VFIO_DEVICE_STATE_STOP_COPY: u32 = 3;
pub const VFIO_DEVICE_STATE_RESUMING: u32 = 4;
pub const VFIO_DEVICE_STATE_PRE_COPY: u32 = 6;

/// No message of the desired type: a data stream has nothing to read now.
pub const ENOMSG: i32 = 42;
pub const VFIO_IOMMU_GET_INFO: u32 = 0x3b70;
pub const VFIO_IOMMU_MAP_DMA: u32 = 0x3b71;
pub const VFIO_IOMMU_UNMAP_DMA: u32 = 0x3b72;
pub const VFIO_IOMMU_DIRTY_PAGES: u32 = 0x3b75;
pub const VFIO_IOMMU_DIRTY_PAGES_FLAG_START: u32 = 1;
pub const VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: u32 = 2;
pub const VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: u32 = 4;
pub const VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: u32 = 1;
pub const VFIO_TYPE1V2_IOMMU: u64 = 3;
pub const VFIO_DMA_MAP_FLAG_READ: u32 = 1;
pub const VFIO_DMA_MAP_FLAG_WRITE: u32 = 2;

pub const ACKNOWLEDGE: u8 = 1;
pub const DRIVER: u8 = 2;
pub const DRIVER_OK: u8 = 4;
pub const FEATURES_OK: u8 = 8;
pub const NEEDS_RESET: u8 = 64;
pub const FAILED: u8 = 128;

pub const VIRTIO_NET_F_MRG_RXBUF: u64 = 1 << 15;
pub const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
pub const VIRTIO_F_ACCESS_PLATFORM: u64 = 1 << 33;
pub const VIRTIO_F_RING_PACKED: u64 = 1 << 34;
pub const VIRTIO_F_IN_ORDER: u64 = 1 << 35;
pub const VIRTIO_F_NOTIFICATION_DATA: u64 = 1 << 38;

pub const VIRTQ_DESC_F_NEXT: u16 = 1;
pub const VIRTQ_DESC_F_WRITE: u16 = 2;
pub const VIRTQ_DESC_F_INDIRECT: u16 = 4;

/// Size of the argument that an ioctl number carries.
pub fn size_of_argument(cmd: u32) -> usize {
    usize::from(u16::try_from(cmd >> 16 & 0x3fff).unwrap_or(u16::MAX))
}
