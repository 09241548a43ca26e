//! IOAS_MAP, IOAS_COPY and IOAS_UNMAP (F31, F32).

use super::lab::*;
use nix::errno::Errno;
use vfio_container::testing::{BASE, Descriptor, FakeClient, SIZE};

const MAX: u64 = u64::MAX;

#[test]
fn f31_what_an_ioas_cannot_map_is_refused_as_the_kernel_does() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    lab.map(ioas, FIXED | RW, RAM, 0x10_0000, 0x2000).unwrap();
    let rw = FIXED | RW;
    let cases = [
        ("flags beyond those known", rw | 8, RAM, 0, PAGE, Errno::EOPNOTSUPP),
        ("neither read nor write", FIXED, RAM, 0, PAGE, Errno::EINVAL),
        ("an address beyond all", rw, RAM, MAX, PAGE, Errno::EOVERFLOW),
        ("an address beyond all, though none is wanted", RW, RAM, MAX, PAGE, Errno::EOVERFLOW),
        ("a length beyond all", rw, RAM, 0, MAX, Errno::EOVERFLOW),
        ("no bytes", rw, RAM, 0, 0, Errno::EINVAL),
        ("no bytes anywhere", RW, RAM, 0, 0, Errno::EINVAL),
        ("memory wraps", rw, !0xfff, 0, 0x2000, Errno::EOVERFLOW),
        ("unaligned length", rw, RAM, 0, 0x1001, Errno::EINVAL),
        ("unaligned address", rw, RAM, 0x800, PAGE, Errno::EINVAL),
        ("unaligned memory", rw, RAM + 1, 0, PAGE, Errno::EINVAL),
        ("unaligned memory anywhere", RW, RAM + 1, 0, PAGE, Errno::EINVAL),
        ("the address wraps", rw, RAM, !0xfff, 0x2000, Errno::EOVERFLOW),
        ("longer than can be placed", RW, 0, 0, 1 << 63, Errno::EOVERFLOW),
        ("duplicate", rw, RAM, 0x10_0000, 0x2000, Errno::EEXIST),
        ("overlap below", rw, RAM, 0xf_f000, 0x2000, Errno::EEXIST),
        ("overlap above", rw, RAM, 0x10_1000, 0x2000, Errno::EEXIST),
        ("overlap around", rw, RAM, 0xf_f000, 0x4000, Errno::EEXIST),
        ("memory that is not there", rw, 0x1000, 0, PAGE, Errno::EFAULT),
        ("memory that is not there anywhere", RW, 0x1000, 0, PAGE, Errno::EFAULT),
    ];
    for (what, flags, va, iova, length, errno) in cases {
        assert_eq!(lab.map(ioas, flags, va, iova, length), Err(errno), "{what}");
    }
    assert_eq!(lab.map(99, rw, RAM, 0, PAGE), Err(Errno::ENOENT));
    assert_eq!(lab.unmap_all(ioas), 0x2000, "no refusal leaves a trace");
}

#[test]
fn f31_neighbours_and_the_last_page_can_be_mapped() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    for iova in [0x1000, 0x2000, 0, !0xfff] {
        assert_eq!(lab.map(ioas, FIXED | RW, RAM, iova, PAGE), Ok(iova));
    }
    assert_eq!(lab.unmap(ioas, !0xfff, PAGE), Ok(PAGE));
    assert_eq!(lab.unmap_all(ioas), 3 * PAGE);
}

#[test]
fn a_mapping_without_a_place_gets_the_lowest_that_fits_and_is_told() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    assert_eq!(
        lab.map(ioas, RW, RAM, 0x5000, PAGE),
        Ok(PAGE),
        "address 0 is never chosen, and the input not looked at"
    );
    assert_eq!(lab.map(ioas, RW, RAM, 0, PAGE), Ok(2 * PAGE));
    lab.map(ioas, FIXED | RW, RAM, 4 * PAGE, PAGE).unwrap();
    assert_eq!(lab.map(ioas, RW, RAM, 0, 2 * PAGE), Ok(6 * PAGE), "as aligned as it is long");
    assert_eq!(lab.map(ioas, RW, RAM + PAGE, 0, 2 * PAGE), Ok(8 * PAGE), "no more aligned than its memory is");
    lab.unmap(ioas, PAGE, PAGE).unwrap();
    assert_eq!(lab.map(ioas, RW, RAM, 0, PAGE), Ok(PAGE), "what was unmapped is used again");
}

#[test]
fn mappings_without_a_place_stay_in_the_allowed_ranges() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    lab.allow(ioas, &[(0x10_0000, 0x10_2fff), (0x4000, 0x5fff)]).unwrap();
    let places: Vec<_> = (0..5).map(|_| lab.map(ioas, RW, RAM, 0, PAGE).unwrap()).collect();
    assert_eq!(places, [0x4000, 0x5000, 0x10_0000, 0x10_1000, 0x10_2000]);
    assert_eq!(lab.map(ioas, RW, RAM, 0, PAGE), Err(Errno::ENOSPC));
    assert_eq!(lab.map(ioas, FIXED | RW, RAM, 0x9000, PAGE), Ok(0x9000), "a place of its own may be outside");
    lab.allow(ioas, &[]).unwrap();
    assert_eq!(lab.map(ioas, RW, RAM, 0, PAGE), Ok(PAGE), "anywhere again");
}

#[test]
fn f32_what_an_ioas_cannot_unmap_is_refused_and_left_alone() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    lab.map(ioas, FIXED | RW, RAM, 0x10_0000, 0x4000).unwrap();
    lab.map(ioas, FIXED | RW, RAM, 0x10_4000, 0x4000).unwrap();
    let cases = [
        ("nothing there", 0, 0x1000, Errno::ENOENT),
        ("no bytes", 0x10_0000, 0, Errno::EINVAL),
        ("wraps", !0xfff, 0x2000, Errno::EOVERFLOW),
        ("an address beyond all", MAX, 0x1000, Errno::EOVERFLOW),
        ("a length beyond all", 0x1000, MAX, Errno::EOVERFLOW),
        ("cuts off the front", 0x10_0000, 0x2000, Errno::ENOENT),
        ("cuts off the end", 0x10_2000, 0x2000, Errno::ENOENT),
        ("cuts out the middle", 0x10_1000, 0x1000, Errno::ENOENT),
        ("a whole one and a part of the next", 0x10_0000, 0x5000, Errno::ENOENT),
        ("ends a byte early", 0x10_0000, 0x3fff, Errno::ENOENT),
    ];
    for (what, iova, length, errno) in cases {
        assert_eq!(lab.unmap(ioas, iova, length), Err(errno), "{what}");
    }
    assert_eq!(lab.unmap(ioas, 0, 1 << 40), Ok(0x8000), "more than is mapped");
    assert_eq!(lab.unmap_all(ioas), 0, "all of nothing is success");
}

#[test]
fn f31_a_copy_maps_the_same_memory_a_second_time() {
    let lab = Lab::new();
    let (one, two) = (lab.alloc(), lab.alloc());
    lab.map(one, FIXED | RW, RAM, 0x4000, 0x4000).unwrap();
    assert_eq!(lab.copy(FIXED | RW, (one, 0x4000), (two, 0x10_0000), 0x4000), Ok(0x10_0000));
    assert_eq!(lab.copy(FIXED | READ, (one, 0x5000), (one, 0x20_0000), 0x1000), Ok(0x20_0000), "a part");
    assert_eq!(lab.copy(RW, (one, 0x4000), (two, 0), 0x1000), Ok(0x1000), "anywhere");
    assert_eq!(lab.unmap(one, 0x4000, 0x4000), Ok(0x4000), "the original goes, the copies stay");
    assert_eq!(lab.unmap(two, 0x10_0000, 0x4000), Ok(0x4000));
    assert_eq!(lab.unmap(one, 0x20_0000, 0x1000), Ok(0x1000));
}

#[test]
fn f31_a_copy_of_neighbours_is_a_mapping_for_each() {
    let lab = Lab::of(FakeClient::with_stretches(1, 0x2000));
    let ioas = lab.alloc();
    lab.map(ioas, FIXED | RW, RAM, 0x10_0000, 0x3000).unwrap();
    lab.map(ioas, FIXED | RW, RAM, 0x10_3000, 0x3000).unwrap();
    lab.copy(FIXED | RW, (ioas, 0x10_1000), (ioas, 0), 0x4000).unwrap();
    assert_eq!(lab.unmap(ioas, 0, 0x4000 - 0x1000), Err(Errno::ENOENT), "cuts the second");
    assert_eq!(lab.unmap(ioas, 0, 0x2000), Ok(0x2000));
    assert_eq!(lab.unmap(ioas, 0x2000, 0x2000), Ok(0x2000));
}

#[test]
fn f31_what_cannot_be_copied_is_refused_as_the_kernel_does() {
    let lab = Lab::new();
    let (one, two) = (lab.alloc(), lab.alloc());
    lab.map(one, FIXED | READ, RAM, 0x4000, 0x4000).unwrap();
    lab.map(one, FIXED | RW, RAM, 0x1_0000, 0x1000).unwrap();
    let rw = FIXED | READ;
    let cases = [
        ("flags beyond those known", rw | 8, 0x4000, 0, PAGE, Errno::EOPNOTSUPP),
        ("neither read nor write", FIXED, 0x4000, 0, PAGE, Errno::EINVAL),
        ("a source beyond all", rw, MAX, 0, PAGE, Errno::EOVERFLOW),
        ("a place beyond all", rw, 0x4000, MAX, PAGE, Errno::EOVERFLOW),
        ("a length beyond all", rw, 0x4000, 0, MAX, Errno::EOVERFLOW),
        ("no bytes", rw, 0x4000, 0, 0, Errno::EINVAL),
        ("a source that wraps", rw, !0xfff, 0, 0x2000, Errno::EOVERFLOW),
        ("nothing mapped", rw, 0x10_0000, 0, PAGE, Errno::ENOENT),
        ("not all mapped", rw, 0x4000, 0, 0x5000, Errno::ENOENT),
        ("a gap in between", rw, 0x7000, 0, 0xa000, Errno::ENOENT),
        ("begins before", rw, 0x3000, 0, 0x2000, Errno::ENOENT),
        ("unaligned length", rw, 0x4000, 0, 0x800, Errno::EINVAL),
        ("unaligned source", rw, 0x4800, 0, PAGE, Errno::EINVAL),
        ("unaligned place", rw, 0x4000, 0x800, PAGE, Errno::EINVAL),
        ("more than the source may", FIXED | RW, 0x4000, 0, PAGE, Errno::EPERM),
    ];
    for (what, flags, from, to, length, errno) in cases {
        assert_eq!(lab.copy(flags, (one, from), (two, to), length), Err(errno), "{what}");
    }
    assert_eq!(lab.copy(rw, (one, 0x4000), (one, 0x7000), PAGE), Err(Errno::EEXIST), "onto itself");
    assert_eq!(lab.copy(rw, (9, 0x4000), (two, 0), PAGE), Err(Errno::ENOENT));
    assert_eq!(lab.copy(rw, (one, 0x4000), (9, 0), PAGE), Err(Errno::ENOENT));
    assert_eq!(lab.unmap_all(two), 0, "no refusal leaves a trace");
}

#[test]
fn a_mapping_that_the_client_cannot_be_told_of_is_undone() {
    let lab = Lab::of(FakeClient::new(1));
    let ioas = lab.alloc();
    // Its argument ends with its memory: it can be read, and is gone when the answer is written.
    let arg = BASE + SIZE as u64 - 40;
    lab.client.put(arg, &Fields::default().u32(RW).u32(ioas).u32(0).u64(RAM).u64(PAGE).u64(0).sized());
    lab.client.refuse_writes(true);
    assert_eq!(lab.call(IOAS_MAP, arg), Err(Errno::EFAULT));
    lab.client.put(ARG, &Fields::default().u32(0).u32(0).sized());
    assert_eq!(lab.call(IOAS_ALLOC, ARG), Err(Errno::EFAULT));
    lab.client.refuse_writes(false);
    assert_eq!(lab.unmap_all(ioas), 0);
    assert_eq!(lab.alloc(), ioas + 1, "no object was left");
}

#[test]
fn f31_a_memory_file_is_mapped_by_its_descriptor() {
    let lab = Lab::new();
    let ioas = lab.alloc();
    lab.client.install(20, Descriptor::Memory);
    lab.client.install(21, Descriptor::Other);
    let map = |flags, fd: u32, start, length, iova| {
        lab.with(MAP_FILE, &Fields::default().u32(flags).u32(ioas).u32(fd).u64(start).u64(length).u64(iova).sized())?;
        Ok(lab.u64_at(ARG + 32))
    };
    assert_eq!(map(FIXED | RW, 20, 0x4000, 0x2000, 0x10_0000), Ok(0x10_0000));
    assert_eq!(map(RW, 20, 0x4000, PAGE, 0), Ok(PAGE), "anywhere");
    let end = SIZE as u64;
    let cases = [
        ("flags beyond those known", RW | 8, 20, 0, PAGE, Errno::EOPNOTSUPP),
        ("neither read nor write", FIXED, 20, 0, PAGE, Errno::EINVAL),
        ("a length beyond all", RW, 20, 0, MAX, Errno::EOVERFLOW),
        ("a file that wraps", RW, 20, !0xfff, 0x2000, Errno::EOVERFLOW),
        ("no bytes", RW, 20, 0, 0, Errno::EINVAL),
        ("unaligned start", RW, 20, 0x800, PAGE, Errno::EINVAL),
        ("unaligned length", RW, 20, 0, 0x800, Errno::EINVAL),
        ("more than the file has", RW, 20, end - PAGE, 2 * PAGE, Errno::EINVAL),
        ("no descriptor", RW, 50, 0, PAGE, Errno::EBADF),
        ("a negative one", RW, u32::MAX, 0, PAGE, Errno::EBADF),
        ("another kind of file", RW, 21, 0, PAGE, Errno::EINVAL),
        ("overlap", FIXED | RW, 20, 0, PAGE, Errno::EEXIST),
    ];
    for (what, flags, fd, start, length, errno) in cases {
        assert_eq!(map(flags, fd, start, length, 0x10_1000), Err(errno), "{what}");
    }
    assert_eq!(lab.copy(RW, (ioas, 0x10_1000), (ioas, 0), PAGE), Ok(2 * PAGE), "and copied as any other");
    assert_eq!(lab.unmap_all(ioas), 4 * PAGE);
}
