//! Objects, their numbers, and what every call has in common.

use super::lab::*;
use nix::errno::Errno;
use vfio_container::testing::FakeClient;

#[test]
fn objects_get_the_lowest_number_that_is_free_and_never_0() {
    let lab = Lab::new();
    assert_eq!([lab.alloc(), lab.alloc(), lab.alloc()], [1, 2, 3]);
    lab.destroy(2).unwrap();
    lab.destroy(1).unwrap();
    assert_eq!([lab.alloc(), lab.alloc(), lab.alloc()], [1, 2, 4]);
    assert_eq!(lab.destroy(0), Err(Errno::ENOENT));
}

#[test]
fn every_open_is_a_context_of_its_own() {
    let (lab, other) = (Lab::new(), Lab::new());
    let ioas = lab.alloc();
    assert_eq!(other.map(ioas, RW, RAM, 0, PAGE), Err(Errno::ENOENT));
    assert_eq!(other.alloc(), ioas);
    lab.map(ioas, FIXED | RW, RAM, PAGE, PAGE).unwrap();
    assert_eq!(other.unmap_all(ioas), 0);
}

#[test]
fn what_is_destroyed_is_gone_with_what_was_mapped_in_it() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    lab.map(ioas, RW, RAM, 0, PAGE).unwrap();
    let held = lab.client.holders();
    lab.destroy(ioas).unwrap();
    assert!(lab.client.holders() < held, "its memory was let go of");
    assert_eq!(lab.destroy(ioas), Err(Errno::ENOENT));
    assert_eq!(lab.map(ioas, RW, RAM, 0, PAGE), Err(Errno::ENOENT));
    assert_eq!(lab.unmap(ioas, 0, u64::MAX), Err(Errno::ENOENT));
    assert_eq!(lab.copy(RW, (ioas, 0), (ioas, 0), PAGE), Err(Errno::ENOENT));
    assert_eq!(lab.allow(ioas, &[]), Err(Errno::ENOENT));
}

#[test]
fn a_closed_file_lets_go_of_everything() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    lab.map(ioas, RW, RAM, 0, PAGE).unwrap();
    lab.close();
    assert_eq!(lab.call(IOAS_ALLOC, ARG), Err(Errno::EBADF));
    assert_eq!(lab.client.holders(), 0);
}

/// The structure of each call, its minimum, and where it has what must be zero.
const CALLS: [(u32, usize, Option<usize>); 9] = [
    (DESTROY, 8, None),
    (IOAS_ALLOC, 12, Some(4)),
    (IOAS_ALLOW_IOVAS, 24, Some(12)),
    (IOAS_COPY, 40, Some(4)),
    (IOAS_IOVA_RANGES, 32, Some(12)),
    (IOAS_MAP, 40, Some(12)),
    (IOAS_UNMAP, 24, None),
    (OPTION, 24, Some(10)),
    (VFIO_IOAS, 12, Some(10)),
];

#[test]
fn a_structure_that_is_too_short_is_einval_and_one_that_knows_more_than_we_do_is_e2big() {
    let lab = Lab::new();
    for (cmd, size, _) in CALLS {
        let mut bytes = vec![0; size + 8];
        bytes[..4].copy_from_slice(&u32::try_from(size - 1).unwrap().to_ne_bytes());
        assert_eq!(lab.with(cmd, &bytes), Err(Errno::EINVAL), "{cmd:#x}, a byte short");
        bytes[..4].copy_from_slice(&u32::try_from(size + 8).unwrap().to_ne_bytes());
        bytes[size + 7] = 1;
        assert_eq!(lab.with(cmd, &bytes), Err(Errno::E2BIG), "{cmd:#x}");
        bytes[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(lab.with(cmd, &bytes), Err(Errno::E2BIG), "{cmd:#x}, all of memory");
        assert_eq!(lab.call(cmd, 0x10), Err(Errno::EFAULT), "{cmd:#x}");
    }
    let mut newer = Fields::default().u32(0).u32(0).u64(0).sized();
    newer[12..].fill(0);
    assert_eq!(lab.with(IOAS_ALLOC, &newer), Ok(()), "a newer client that asks for nothing new");
}

#[test]
fn what_is_reserved_must_be_zero() {
    let lab = Lab::new();
    for (cmd, size, reserved) in CALLS {
        let Some(at) = reserved else { continue };
        let mut bytes = vec![0; size];
        bytes[..4].copy_from_slice(&u32::try_from(size).unwrap().to_ne_bytes());
        bytes[at] = 0x80;
        assert_eq!(lab.with(cmd, &bytes), Err(Errno::EOPNOTSUPP), "{cmd:#x}");
    }
}

#[test]
fn numbers_that_are_no_calls_are_enotty() {
    let lab = Lab::new();
    for cmd in [0x3b7f, 0x3b95, 0x3bff, 0xaf01, 0xc008_3b81] {
        assert_eq!(lab.call(cmd, ARG), Err(Errno::ENOTTY), "{cmd:#x}");
    }
}

#[test]
fn page_tables_in_hardware_are_not_found() {
    // What the kernel says where all devices are emulated: size, then flags, reserved fields and types, then the object.
    let lab = Lab::new();
    let ioas = lab.alloc();
    let calls: [(u32, usize, usize, Option<usize>); 9] = [
        (0x3b89, 24, 8, Some(20)),
        (0x3b8a, 32, 8, Some(4)),
        (0x3b8b, 16, 8, Some(5)),
        (0x3b8c, 48, 4, Some(12)),
        (0x3b8d, 32, 4, Some(28)),
        (0x3b90, 24, 12, Some(4)),
        (0x3b91, 24, 4, None),
        (0x3b93, 32, 8, Some(28)),
        (0x3b94, 40, 8, Some(4)),
    ];
    for (cmd, size, object, refused) in calls {
        let mut bytes = vec![0; size];
        bytes[..4].copy_from_slice(&u32::try_from(size).unwrap().to_ne_bytes());
        bytes[object..object + 4].copy_from_slice(&ioas.to_ne_bytes());
        let kind = match cmd {
            0x3b90 => Some(8),
            0x3b93 | 0x3b94 => Some(12),
            _ => None,
        };
        if let Some(kind) = kind {
            assert_eq!(lab.with(cmd, &bytes), Err(Errno::EOPNOTSUPP), "{cmd:#x}, no type");
            bytes[kind] = 1;
        }
        assert_eq!(lab.with(cmd, &bytes), Err(Errno::ENOENT), "{cmd:#x}");
        if let Some(at) = refused {
            bytes[at] = 0x40;
            assert_eq!(lab.with(cmd, &bytes), Err(Errno::EOPNOTSUPP), "{cmd:#x}");
        }
        bytes[..4].copy_from_slice(&u32::try_from(size - 1).unwrap().to_ne_bytes());
        assert_eq!(lab.with(cmd, &bytes), Err(Errno::EINVAL), "{cmd:#x}");
    }
    assert_eq!(lab.call(0x3b8e, ARG), Err(Errno::EOPNOTSUPP), "a descriptor for faults");
}

#[test]
fn m3_only_the_address_space_that_used_the_context_first_changes_it() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    lab.map(ioas, FIXED | RW, RAM, PAGE, PAGE).unwrap();
    let foreign = Lab { client: FakeClient::new(2), node: lab.node.clone(), file: lab.file.clone() };
    assert_eq!(foreign.map(ioas, RW, RAM, 0, PAGE), Err(Errno::EPERM));
    assert_eq!(foreign.copy(RW, (ioas, PAGE), (ioas, 0), PAGE), Err(Errno::EPERM));
    assert_eq!(foreign.unmap(ioas, 0, u64::MAX), Err(Errno::EPERM));
    assert_eq!(foreign.allow(ioas, &[]), Err(Errno::EPERM));
    assert_eq!(foreign.destroy(ioas), Err(Errno::EPERM));
    assert_eq!(foreign.with(IOAS_ALLOC, &[12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Errno::EPERM));
    assert_eq!(foreign.option(1, 0, ioas, 0), Err(Errno::EPERM));
    assert_eq!(foreign.vfio_ioas(1, ioas), Err(Errno::EPERM));
    assert_eq!(foreign.option(1, 1, ioas, 0), Ok(1), "it may ask");
    let thread = lab.client.thread();
    lab.client.put(ARG, &Fields::default().u32(ioas).u64(0).u64(u64::MAX).sized());
    assert_eq!(lab.call_as(&thread, IOAS_UNMAP, ARG), Ok(0), "another thread");
}

#[test]
fn m3_who_opened_a_context_may_have_done_so_for_another_process() {
    let lab = Lab::new();
    let user = Lab { client: FakeClient::new(2), node: lab.node.clone(), file: lab.file.clone() };
    let ioas = user.alloc();
    assert_eq!(lab.destroy(ioas), Err(Errno::EPERM));
    assert_eq!(user.destroy(ioas), Ok(()));
}
