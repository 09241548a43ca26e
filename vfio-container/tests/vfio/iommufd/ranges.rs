//! IOAS_IOVA_RANGES and IOAS_ALLOW_IOVAS.

use super::lab::*;
use nix::errno::Errno;

fn ask(lab: &Lab, ioas: u32, room: u32, at: u64) -> Result<(), Errno> {
    lab.client.put(ARRAY, &[0xee; 16]);
    lab.with(IOAS_IOVA_RANGES, &Fields::default().u32(ioas).u32(room).u32(0).u64(at).u64(0).sized())
}

#[test]
fn all_addresses_can_be_used_in_whole_pages() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    ask(&lab, ioas, 5, ARRAY).unwrap();
    assert_eq!(lab.u32_at(ARG + 8), 1, "one range");
    assert_eq!(lab.u64_at(ARG + 24), PAGE, "alignment");
    assert_eq!((lab.u64_at(ARRAY), lab.u64_at(ARRAY + 8)), (0, u64::MAX));
    assert_eq!(ask(&lab, 9, 5, ARRAY), Err(Errno::ENOENT));
}

#[test]
fn a_list_that_is_too_short_is_emsgsize_and_says_how_long_it_must_be() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    assert_eq!(ask(&lab, ioas, 0, 0), Err(Errno::EMSGSIZE));
    assert_eq!(lab.u32_at(ARG + 8), 1);
    assert_eq!(lab.client.get(ARRAY, 16), [0xee; 16]);
    assert_eq!(ask(&lab, ioas, 1, 0x10), Err(Errno::EFAULT));
}

#[test]
fn f31_allowed_ranges_that_are_none_are_refused_and_the_old_ones_stay() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    lab.allow(ioas, &[(0x8000, 0x8fff)]).unwrap();
    for ranges in [
        &[(0x2000, 0x1000)][..],
        &[(0x1000, 0x1000)],
        &[(0x1000, 0x2fff), (0x2000, 0x3fff)],
        &[(0x1000, 0x2fff), (0x2fff, 0x3fff)],
        &[(0x5000, 0x5fff), (0, u64::MAX)],
    ] {
        assert_eq!(lab.allow(ioas, ranges), Err(Errno::EINVAL), "{ranges:x?}");
    }
    let allow = |count: u32, at| Fields::default().u32(ioas).u32(count).u32(0).u64(at).sized();
    assert_eq!(lab.with(IOAS_ALLOW_IOVAS, &allow(1, 0x10)), Err(Errno::EFAULT));
    assert_eq!(lab.with(IOAS_ALLOW_IOVAS, &allow(u32::MAX, ARRAY)), Err(Errno::ENOMEM), "without being read");
    assert_eq!(lab.map(ioas, RW, RAM, 0, PAGE), Ok(0x8000));
    assert_eq!(lab.map(ioas, RW, RAM, 0, PAGE), Err(Errno::ENOSPC));
    assert_eq!(lab.allow(ioas, &[(0, u64::MAX)]), Ok(()));
}
