//! The memory table.

use crate::lab::*;
use nix::errno::Errno;
use vfio_container::testing::{FakeClient, SIZE as CLIENT_SIZE};

#[test]
fn a_table_is_taken_whole_or_not() {
    let lab = Lab::new();
    assert_eq!(lab.table(&[]), Ok(()));
    let good = [0, 0x1000, RAM];
    assert_eq!(lab.table(&[good, [0x1000, 0x1000, RAM]]), Ok(()), "two addresses of the same memory");
    let wrong = [
        [0x800, 0x1000, RAM],
        [0x1000, 0, RAM],
        [u64::MAX - 0xfff, 0x2000, RAM],
        [0x1000, 0x1000, u64::MAX - 0x800],
        [0x1000, 0x1000, 0x1000],
    ];
    for region in wrong {
        assert_eq!(lab.table(&[good, region]), Err(Errno::EFAULT), "{region:x?}");
    }
}

#[test]
fn a_region_of_several_mappings_does_not_go_on_at_address_0() {
    let lab = Lab::of_client(FakeClient::with_stretches(1, 0x1000));
    lab.call(SET_OWNER, &[]).unwrap();
    assert_eq!(lab.table(&[[u64::MAX - 0xfff, 0x2000, RAM]]), Err(Errno::EFAULT));
    assert_eq!(lab.table(&[[u64::MAX - 0x1fff, 0x2000, RAM]]), Ok(()));
}

#[test]
fn a_table_of_64_regions_is_the_largest() {
    let lab = Lab::new();
    let regions: Vec<_> = (0..65).map(|n| [n * 0x1000, 0x1000, RAM + 0x1000 * (n % 8)]).collect();
    assert_eq!(lab.table(&regions[..64]), Ok(()));
    assert_eq!(lab.table(&regions), Err(Errno::E2BIG));
    assert_eq!(lab.call(SET_MEM_TABLE, &pair(u32::MAX, 0)), Err(Errno::E2BIG));
    assert_eq!(lab.call(SET_MEM_TABLE, &pair(u32::MAX, 1)), Err(Errno::EOPNOTSUPP), "padding comes first");
    let beyond = vfio_container::testing::BASE + CLIENT_SIZE as u64 - 16;
    let call = devnode::Ioctl { cmd: SET_MEM_TABLE, arg: beyond, input: &pair(1, 0) };
    assert_eq!(lab.file.serve(&lab.client, &call), Err(Errno::EFAULT));
}

#[test]
fn a_ring_outside_the_table_does_not_run() {
    let lab = Lab::ready();
    let [desc, used, avail, log] = ring(TX);
    let end = RAM + RAM_SIZE;
    for words in [[end - 16, used, avail, log], [desc, end - 4, avail, log], [desc, used, end - 8, log]] {
        lab.addr(TX, 0, words).unwrap();
        assert_eq!(lab.backend(TX, TAP), Err(Errno::EFAULT), "{words:x?}");
    }
    lab.addr(TX, 0, ring(TX)).unwrap();
    lab.backend(TX, TAP).unwrap();
    assert_eq!(lab.addr(TX, 0, [end - 16, used, avail, log]), Err(Errno::EINVAL), "a running ring is not moved there");
    lab.transmit(0);
    lab.until_used(1);
}

#[test]
fn a_running_ring_goes_on_in_another_table() {
    let lab = Lab::ready();
    lab.backend(TX, TAP).unwrap();
    lab.transmit(0);
    lab.until_used(1);
    assert_eq!(lab.table(&[]), Err(Errno::EFAULT), "its ring would be nowhere");
    lab.transmit(1);
    lab.until_used(2);
    // The ring stays where it is in the client, and is elsewhere for the guest.
    lab.table(&[[0x100_0000, RAM_SIZE, RAM]]).unwrap();
    lab.transmit_at(2, 0x102_0000);
    lab.until_used(3);
    assert_eq!(lab.base(TX), 3);
}

#[test]
fn memory_that_left_the_table_is_not_reached() {
    let lab = Lab::ready();
    lab.backend(TX, TAP).unwrap();
    lab.table(&[[0, 0x1_0000, RAM]]).unwrap();
    lab.transmit(0);
    eventually("the ring stops", || lab.err.drain() != Ok(None));
    assert_eq!(lab.used(), 0);
}
