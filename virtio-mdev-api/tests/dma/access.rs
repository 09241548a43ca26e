use crate::memory::{Private, RW, Window, remote, shared};
use crate::reader;
use nix::errno::Errno;
use std::sync::atomic::Ordering;
use virtio_mdev_api::dma::{AccessError, AddressSpace, Limits, Lookup, Permissions, Piece};

#[test]
fn a_buffer_over_local_and_remote_regions_is_read_and_written_whole() {
    let window = Window::new(0x2000);
    let client = Private::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x1000, 0x1000, 0x1000, RW)).unwrap();
    space.map(remote(&client, 0x2000, 0x1000, RW)).unwrap();
    space.map(shared(&window, 0x3000, 0x1000, 0, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let memory = burst.view();
    let data: Vec<u8> = (0..0x1010u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    memory.write(0x1ff8, &data).unwrap();
    assert_eq!(window.bytes::<8>(0x1ff8), data[..8]);
    assert_eq!(client.bytes.lock()[..], data[8..0x1008]);
    assert_eq!(window.bytes::<8>(0), data[0x1008..]);
    let mut back = vec![0; data.len()];
    memory.read(0x1ff8, &mut back).unwrap();
    assert_eq!(back, data);
    let pieces: Vec<u64> = memory.pieces(0x1ff8, 0x1010, RW).map(|piece| piece.unwrap().len()).collect();
    assert_eq!(pieces, [8, 0x1000, 8]);
}

#[test]
fn an_access_reaches_no_byte_beyond_its_region() {
    let window = Window::new(0x3000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x1000, 0x1000, 0x1000, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let memory = burst.view();
    let Lookup::Hit(Piece::Local(slice)) = memory.lookup(0x1ff0, u64::MAX, RW) else { panic!("not found") };
    assert_eq!(slice.len(), 0x10);
    assert_eq!(memory.write(0x1ff0, &[1; 0x20]), Err(AccessError::Fault { iova: 0x2000, access: Permissions::WRITE }));
    assert_eq!(window.bytes::<16>(0x2000), [0; 16]);
    assert_eq!(memory.read(0xfff, &mut [0; 2]), Err(AccessError::Fault { iova: 0xfff, access: Permissions::READ }));
    assert_eq!(memory.check(0x1000, 0x1000, RW), Ok(()));
    assert!(memory.check(0x1000, 0x1001, RW).is_err());
}

#[test]
fn what_is_written_in_place_is_all_of_it_and_nothing_else_wherever_lines_end() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x1000, 0x1000, 0, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let data: Vec<u8> = (1..=200).collect();
    for at in 0..64 {
        for len in 0..=data.len() {
            let place = burst.view().held(0x1040 + at as u64, len, RW).unwrap().memory();
            assert!(place.write(&data[..len]));
            let mut expected = [0; 0x200];
            expected[0x40 + at..][..len].copy_from_slice(&data[..len]);
            assert_eq!(window.bytes::<0x200>(0), expected, "{len} bytes at {at}");
            assert!(!place.write(&data[..len].repeat(2)) || len == 0);
            assert_eq!(window.bytes::<0x200>(0), expected, "too many bytes at {at}");
            window.clear::<0x200>();
        }
    }
}

#[test]
fn permissions_are_those_of_the_device() {
    let window = Window::new(0x2000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x1000, 0x1000, 0, Permissions::READ)).unwrap();
    space.map(shared(&window, 0x2000, 0x1000, 0x1000, Permissions::WRITE)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let memory = burst.view();
    memory.read(0x1000, &mut [0; 4]).unwrap();
    memory.write(0x2000, &[0; 4]).unwrap();
    assert!(memory.write(0x1000, &[0; 4]).is_err());
    assert!(memory.read(0x2000, &mut [0; 4]).is_err());
    assert!(memory.load::<u16>(0x2000, Ordering::Relaxed).is_err());
    assert!(memory.store(1u16, 0x1000, Ordering::Relaxed).is_err());
    assert!(memory.check(0x1000, 4, RW).is_err());
}

#[test]
fn an_access_at_the_end_of_the_space_does_not_wrap() {
    let window = Window::new(0x2000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, u64::MAX - 0xfff, 0x1000, 0, RW)).unwrap();
    space.map(shared(&window, 0, 0x1000, 0x1000, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let memory = burst.view();
    memory.write(u64::MAX - 3, &[7; 4]).unwrap();
    assert!(memory.write(u64::MAX - 3, &[8; 5]).is_err());
    assert_eq!(window.bytes::<1>(0x1000), [0]);
}

#[test]
fn integers_are_accessed_in_place_or_not_at_all() {
    let window = Window::new(0x1000);
    let client = Private::new(0x1000);
    let space = AddressSpace::new(Limits::NONE);
    space.map(shared(&window, 0x1000, 0x1000, 0, RW)).unwrap();
    space.map(remote(&client, 0x2000, 0x1000, RW)).unwrap();
    space.map(shared(&window, 0x3000, 2, 0, RW)).unwrap();
    space.map(shared(&window, 0x3002, 2, 8, RW)).unwrap();
    space.map(shared(&window, 0x4000, 0x10, 1, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let memory = burst.view();
    memory.store(0x1122u16, 0x1002, Ordering::Release).unwrap();
    assert_eq!(window.bytes::<2>(2), 0x1122u16.to_ne_bytes());
    assert_eq!(memory.load::<u16>(0x1002, Ordering::Acquire), Ok(0x1122));
    memory.store(0x1122_3344_5566_7788u64, 0x2ff8, Ordering::Release).unwrap();
    assert_eq!(memory.load::<u64>(0x2ff8, Ordering::Acquire), Ok(0x1122_3344_5566_7788));
    for iova in [0x1001, 0x2001, 0x3000, 0x4000] {
        let loaded = memory.load::<u32>(iova, Ordering::Relaxed);
        assert_eq!(loaded, Err(AccessError::Misaligned { iova, size: 4 }), "{iova:#x}");
    }
    memory.write_obj(0xaabb_ccddu32, 0x3000).unwrap();
    assert_eq!(memory.read_obj::<u32>(0x3000), Ok(0xaabb_ccdd));
}

#[test]
fn u3_memory_the_client_took_away_is_a_fault() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x1000, 0x1000, 0, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let memory = burst.view();
    memory.read(0x1000, &mut [0; 4]).unwrap();
    window.faults.store(1, Ordering::Relaxed);
    assert!(memory.read(0x1000, &mut [0; 4]).is_err());
    assert!(memory.load::<u16>(0x1000, Ordering::Relaxed).is_err());
    assert!(matches!(memory.lookup(0x1000, 1, RW), Lookup::Fault));
}

#[test]
fn what_the_client_answers_for_its_private_memory_reaches_the_device() {
    let client = Private::new(0x800);
    let space = AddressSpace::new(Limits::default());
    space.map(remote(&client, 0x1000, 0x1000, RW)).unwrap();
    let mut reader = reader(&space);
    let burst = reader.enter();
    let failed = burst.view().read(0x1c00, &mut [0; 4]);
    assert_eq!(failed, Err(AccessError::Remote { iova: 0x1c00, errno: Errno::EFAULT }));
}

#[test]
fn a_burst_sees_one_version() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    let mut reader = reader(&space);
    let burst = reader.enter();
    space.map(shared(&window, 0x1000, 0x1000, 0, RW)).unwrap();
    assert!(burst.view().read(0x1000, &mut [0; 4]).is_err());
    assert_ne!(burst.generation(), space.generation());
    drop(burst);
    assert!(reader.enter().view().read(0x1000, &mut [0; 4]).is_ok());
}
