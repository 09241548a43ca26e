//! The system calls that no safe interface covers: ioctl, and the replacement of an open descriptor.
//!
//! Each ioctl of the two headers that this program uses is one function with checked types, so that nothing outside this file can pair a number
//! with a wrong argument.
#![allow(unsafe_code)]
// UNSAFETY: ioctl(2) takes an untyped third argument, and dup3(2) replaces a descriptor that another object owns.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use vfio_bindings::bindings::vfio;
use vhost::vhost_kern::vhost_binding as vhost;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_GET_API_VERSION, vfio::VFIO_TYPE as u32, vfio::VFIO_BASE);
ioctl_io_nr!(VFIO_CHECK_EXTENSION, vfio::VFIO_TYPE as u32, vfio::VFIO_BASE + 1);
ioctl_io_nr!(VFIO_SET_IOMMU, vfio::VFIO_TYPE as u32, vfio::VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_GET_STATUS, vfio::VFIO_TYPE as u32, vfio::VFIO_BASE + 3);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, vfio::VFIO_TYPE as u32, vfio::VFIO_BASE + 4);
ioctl_io_nr!(VFIO_IOMMU_MAP_DMA, vfio::VFIO_TYPE as u32, vfio::VFIO_BASE + 13);
ioctl_io_nr!(VFIO_IOMMU_UNMAP_DMA, vfio::VFIO_TYPE as u32, vfio::VFIO_BASE + 14);

fn check(result: i32) -> Result<i32, Errno> {
    Errno::result(result)
}

/// Declares `fn name(file, [argument]) -> Result<i32, Errno>` for an ioctl. The argument's type is the one the header gives the number.
macro_rules! call {
    ($name:ident, $number:expr) => {
        pub fn $name(file: &File) -> Result<i32, Errno> {
            // SAFETY: this ioctl reads no argument.
            check(unsafe { ioctl(file, $number) })
        }
    };
    ($name:ident, $number:expr, value) => {
        pub fn $name(file: &File, value: u32) -> Result<i32, Errno> {
            // SAFETY: this ioctl takes a plain number as its argument.
            check(unsafe { ioctl_with_val(file, $number, value.into()) })
        }
    };
    ($name:ident, $number:expr, read $ty:ty) => {
        pub fn $name(file: &File, argument: &mut $ty) -> Result<i32, Errno> {
            // SAFETY: the number's argument is this type, plain data of the size that the header gives, borrowed mutably for the call.
            check(unsafe { ioctl_with_mut_ref(file, $number, argument) })
        }
    };
    ($name:ident, $number:expr, write $ty:ty) => {
        pub fn $name(file: &File, argument: &$ty) -> Result<i32, Errno> {
            // SAFETY: the number's argument is this type, only read by the call. Addresses within it name memory of this process that a device may
            // use later; the caller keeps such a mapping until it is unmapped again.
            check(unsafe { ioctl_with_ref(file, $number, argument) })
        }
    };
}

call!(vfio_get_api_version, VFIO_GET_API_VERSION());
call!(vfio_check_extension, VFIO_CHECK_EXTENSION(), value);
call!(vfio_set_iommu, VFIO_SET_IOMMU(), value);
call!(vfio_group_get_status, VFIO_GROUP_GET_STATUS(), read vfio::vfio_group_status);
call!(vfio_group_set_container, VFIO_GROUP_SET_CONTAINER(), write i32);
call!(vfio_iommu_map_dma, VFIO_IOMMU_MAP_DMA(), write vfio::vfio_iommu_type1_dma_map);
call!(vfio_iommu_unmap_dma, VFIO_IOMMU_UNMAP_DMA(), read vfio::vfio_iommu_type1_dma_unmap);

call!(vhost_set_owner, vhost::VHOST_SET_OWNER());
call!(vhost_get_features, vhost::VHOST_GET_FEATURES(), read u64);
call!(vhost_set_features, vhost::VHOST_SET_FEATURES(), write u64);
call!(vhost_get_backend_features, vhost::VHOST_GET_BACKEND_FEATURES(), read u64);
call!(vhost_set_backend_features, vhost::VHOST_SET_BACKEND_FEATURES(), write u64);
call!(vhost_set_vring_num, vhost::VHOST_SET_VRING_NUM(), write vhost::vhost_vring_state);
call!(vhost_set_vring_base, vhost::VHOST_SET_VRING_BASE(), write vhost::vhost_vring_state);
call!(vhost_get_vring_base, vhost::VHOST_GET_VRING_BASE(), read vhost::vhost_vring_state);
call!(vhost_set_vring_addr, vhost::VHOST_SET_VRING_ADDR(), write vhost::vhost_vring_addr);
call!(vhost_set_vring_kick, vhost::VHOST_SET_VRING_KICK(), write vhost::vhost_vring_file);
call!(vhost_set_vring_call, vhost::VHOST_SET_VRING_CALL(), write vhost::vhost_vring_file);
call!(vhost_set_vring_err, vhost::VHOST_SET_VRING_ERR(), write vhost::vhost_vring_file);
call!(vhost_vdpa_get_device_id, vhost::VHOST_VDPA_GET_DEVICE_ID(), read u32);
call!(vhost_vdpa_get_status, vhost::VHOST_VDPA_GET_STATUS(), read u8);
call!(vhost_vdpa_set_status, vhost::VHOST_VDPA_SET_STATUS(), write u8);
call!(vhost_vdpa_set_vring_enable, vhost::VHOST_VDPA_SET_VRING_ENABLE(), write vhost::vhost_vring_state);
call!(vhost_vdpa_suspend, vhost::VHOST_VDPA_SUSPEND());

/// Makes the descriptor of `target` refer to what `source` refers to, close-on-exec; what it referred to before is closed.
pub fn replace_descriptor(source: BorrowedFd<'_>, target: &impl AsRawFd) -> Result<(), Errno> {
    // SAFETY: `target` is borrowed, so its descriptor stays open for the whole call; it goes on owning the number, which is why the second owner that
    // dup3_raw makes of it is dissolved at once.
    let second_owner = unsafe { nix::unistd::dup3_raw(source, target.as_raw_fd(), OFlag::O_CLOEXEC) }?;
    let _ = second_owner.into_raw_fd();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that the headers give, written out.
    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        let vfio = [
            (VFIO_GET_API_VERSION(), 0x3b64),
            (VFIO_CHECK_EXTENSION(), 0x3b65),
            (VFIO_SET_IOMMU(), 0x3b66),
            (VFIO_GROUP_GET_STATUS(), 0x3b67),
            (VFIO_GROUP_SET_CONTAINER(), 0x3b68),
            (VFIO_IOMMU_MAP_DMA(), 0x3b71),
            (VFIO_IOMMU_UNMAP_DMA(), 0x3b72),
        ];
        let vhost = [
            (vhost::VHOST_SET_OWNER(), 0xaf01),
            (vhost::VHOST_GET_FEATURES(), 0x8008_af00),
            (vhost::VHOST_SET_VRING_ADDR(), 0x4028_af11),
            (vhost::VHOST_GET_VRING_BASE(), 0xc008_af12),
            (vhost::VHOST_SET_BACKEND_FEATURES(), 0x4008_af25),
            (vhost::VHOST_VDPA_SET_STATUS(), 0x4001_af72),
            (vhost::VHOST_VDPA_SET_VRING_ENABLE(), 0x4008_af75),
            (vhost::VHOST_VDPA_SUSPEND(), 0xaf7d),
        ];
        for (number, expected) in vfio.into_iter().chain(vhost) {
            assert_eq!(number, expected, "{number:#x} is not {expected:#x}");
        }
    }

    #[test]
    fn a_replaced_descriptor_keeps_its_number_and_its_owner() {
        let (read, write) = std::io::pipe().unwrap();
        let (other_read, mut other_write) = std::io::pipe().unwrap();
        let number = read.as_raw_fd();
        replace_descriptor(std::os::fd::AsFd::as_fd(&other_read), &read).unwrap();
        drop((other_read, write));
        std::io::Write::write_all(&mut other_write, b"x").unwrap();
        drop(other_write);
        assert_eq!(read.as_raw_fd(), number);
        assert_eq!(std::io::read_to_string(read).unwrap(), "x");
    }
}
