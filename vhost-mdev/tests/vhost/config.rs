//! Configuration space, whose arguments lie in the client's memory.

use crate::lab::*;
use devnode::Ioctl;
use nix::errno::Errno;
use vfio_container::testing::{BASE, Descriptor, SIZE};
use virtio_mdev_api::notify::EventFd;

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

#[test]
fn a_link_that_goes_down_and_up_interrupts_each_time_and_reads_as_it_is() {
    let (lab, event) = (Lab::new(), EventFd::new().unwrap());
    lab.client.install(20, Descriptor::Event(event.clone()));
    lab.call(SET_CONFIG_CALL, &20i32.to_ne_bytes()).unwrap();
    let status = || get(&lab, u32::try_from(STATUS).unwrap(), 1).unwrap()[0];
    for (word, up) in [("down", 0), ("up", 1), ("down", 0)] {
        let before = lab.session.link().generation();
        lab.session.store_attribute("link", word).unwrap();
        assert_eq!((event.drain(), status()), (Ok(Some(1)), up), "{word}");
        assert_eq!(lab.session.link().generation(), before + 1);
    }
    lab.call(SET_CONFIG_CALL, &(-1i32).to_ne_bytes()).unwrap();
    lab.session.store_attribute("link", "up").unwrap();
    assert_eq!((event.drain(), status()), (Ok(None), 1), "unbound");
}

#[test]
fn the_config_call_outlives_a_reset_and_ends_with_the_file() {
    let (lab, event) = (Lab::new(), EventFd::new().unwrap());
    lab.client.install(20, Descriptor::Event(event.clone()));
    lab.call(SET_CONFIG_CALL, &20i32.to_ne_bytes()).unwrap();
    lab.set_status(0).unwrap();
    lab.session.store_attribute("link", "up").unwrap();
    assert_eq!(event.drain(), Ok(Some(1)));
    devnode::OpenFile::release(&*lab.file);
    lab.session.store_attribute("link", "down").unwrap();
    assert_eq!(event.drain(), Ok(None));
}

#[test]
fn a_read_is_of_one_generation_however_often_the_space_changes_meanwhile() {
    let lab = Lab::new();
    lab.seen.lock().config.fill(7);
    for torn in [1, 3, 20] {
        let expected = lab.seen.lock().config[0] + u8::try_from(torn).unwrap();
        lab.seen.lock().torn_reads = torn;
        assert_eq!(get(&lab, 0, 12), Ok(vec![expected; 12]), "{torn} changes");
    }
}

#[test]
fn a_space_that_never_stands_still_is_told_so_at_once() {
    let lab = Lab::new();
    lab.seen.lock().torn_reads = usize::MAX;
    assert_eq!(get(&lab, 0, 12), Err(Errno::EAGAIN));
    lab.seen.lock().torn_reads = 0;
    assert!(get(&lab, 0, 12).is_ok());
}
