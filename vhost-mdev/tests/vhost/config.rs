//! Configuration space, whose arguments lie in the client's memory.

use crate::lab::*;
use devnode::Ioctl;
use nix::errno::Errno;
use vfio_container::testing::{BASE, SIZE};

/// GET_CONFIG: the kernel copies nothing in, and the bytes are written behind the header.
fn get(lab: &Lab, offset: u32, len: u32) -> Result<Vec<u8>, Errno> {
    lab.client.put(ARG, &pair(offset, len));
    lab.call(GET_CONFIG, &[])?;
    Ok(lab.client.get(ARG + 8, usize::try_from(len).unwrap()))
}

#[test]
fn config_is_written_behind_its_header() {
    let lab = Lab::new();
    assert_eq!(get(&lab, 0, 12), Ok((0..12).collect()));
    assert_eq!(get(&lab, 10, 2), Ok(vec![10, 11]));
}

#[test]
fn f26_ranges_outside_config_are_refused_before_anything_is_allocated() {
    let lab = Lab::new();
    let ranges = [(0, 0), (12, 0), (12, 1), (13, 0), (0, 13), (4, 9), (u32::MAX, 2), (1, u32::MAX), (0, u32::MAX)];
    for (offset, len) in ranges {
        lab.client.put(ARG, &pair(offset, len));
        assert_eq!(lab.call(GET_CONFIG, &[]), Err(Errno::EINVAL), "read {len} at {offset}");
        assert_eq!(lab.call(SET_CONFIG, &pair(offset, len)), Err(Errno::EINVAL), "write {len} at {offset}");
    }
}

#[test]
fn eight_bytes_can_be_read_of_a_smaller_space() {
    let lab = Lab::unowned(Kind { config_size: 6, ..Kind::default() });
    assert_eq!(get(&lab, 0, 8), Ok(vec![0, 1, 2, 3, 4, 5, 0, 0]));
    assert_eq!(get(&lab, 6, 2), Ok(vec![0, 0]));
    assert_eq!(get(&lab, 0, 9), Err(Errno::EINVAL));
    assert_eq!(lab.call(SET_CONFIG, &pair(0, 8)), Err(Errno::EINVAL), "but not written");
}

#[test]
fn config_can_be_written() {
    let lab = Lab::new();
    lab.client.put(ARG + 8, &[9; 6]);
    lab.call(SET_CONFIG, &pair(0, 6)).unwrap();
    assert_eq!(get(&lab, 0, 7), Ok(vec![9, 9, 9, 9, 9, 9, 6]));
}

#[test]
fn memory_that_is_not_there_is_efault() {
    let lab = Lab::new();
    let end = BASE + SIZE as u64;
    let at = |cmd, arg, input: &[u8]| lab.file.serve(&lab.client, &Ioctl { cmd, arg, input }).err();
    for arg in [0, end - 4, u64::MAX - 3] {
        assert_eq!(at(GET_CONFIG, arg, &[]), Some(Errno::EFAULT), "{arg:#x}");
        assert_eq!(at(SET_CONFIG, arg, &pair(0, 6)), Some(Errno::EFAULT), "{arg:#x}");
    }
    lab.client.put(end - 8, &pair(0, 6));
    assert_eq!(at(GET_CONFIG, end - 8, &[]), Some(Errno::EFAULT), "the bytes have no room");
}
