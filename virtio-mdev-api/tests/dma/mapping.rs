use crate::PAGE;
use crate::memory::{Private, RW, Window, remote, shared};
use nix::errno::Errno;
use virtio_mdev_api::HasErrno;
use virtio_mdev_api::dma::{AddressSpace, Limits, MapError, Permissions, Unmapped};

#[test]
fn what_is_mapped_is_listed_in_order() {
    let window = Window::new(0x4000);
    let client = Private::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x8000, 0x2000, 0x1000, RW)).unwrap();
    space.map(remote(&client, 0x1000, 0x1000, Permissions::READ)).unwrap();
    let regions = space.regions();
    assert_eq!(
        regions.iter().map(|r| (r.iova, r.len, r.in_place)).collect::<Vec<_>>(),
        [(0x1000, 0x1000, false), (0x8000, 0x2000, true)]
    );
    assert_eq!(space.covering(0x9fff).map(|r| r.iova), Some(0x8000));
    assert_eq!(space.covering(0xa000), None);
    assert_eq!(space.regions_in(0x2000, 0x8000).len(), 1);
}

#[test]
fn overlapping_maps_are_eexist() {
    let window = Window::new(0x4000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x2000, 0x2000, 0, RW)).unwrap();
    for (iova, len) in [(0x2000, 0x2000), (0x1000, 0x2000), (0x3000, 0x1000), (0x1000, 0x4000)] {
        let error = space.map(shared(&window, iova, len, 0, RW)).unwrap_err();
        assert_eq!(error.errno(), Errno::EEXIST, "{iova:#x}+{len:#x}");
        assert_eq!(error, MapError::Overlap { iova, other: 0x2000 });
    }
    space.map(shared(&window, 0x1000, 0x1000, 0, RW)).unwrap();
    space.map(shared(&window, 0x4000, 0x1000, 0, RW)).unwrap();
}

#[test]
fn nonsense_is_einval() {
    let window = Window::new(0x4000);
    let client = Private::new(0x1000);
    let space = AddressSpace::new(Limits { first: PAGE, last: 0xf_ffff, ..Limits::default() });
    let refused = [
        (shared(&window, 0x2000, 0, 0, RW), "empty"),
        (shared(&window, u64::MAX - 0xfff, 0x2000, 0, RW), "wraps"),
        (shared(&window, 0x2000, 0x1000, 0, Permissions::empty()), "no permission"),
        (shared(&window, 0x2100, 0x1000, 0, RW), "unaligned address"),
        (shared(&window, 0x2000, 0x1100, 0, RW), "unaligned length"),
        (shared(&window, 0, 0x1000, 0, RW), "below the first address"),
        (shared(&window, 0xf_f000, 0x2000, 0, RW), "beyond the last address"),
        (shared(&window, 0x2000, 0x2000, 0x3000, RW), "beyond the window"),
        (shared(&window, 0x2000, 0x2000, usize::MAX, RW), "an offset that wraps"),
    ];
    for (region, why) in refused {
        assert_eq!(space.map(region).unwrap_err().errno(), Errno::EINVAL, "{why}");
    }
    let mut wrapping = remote(&client, 0x2000, 0x1000, RW);
    if let virtio_mdev_api::dma::Backing::Remote { addr, .. } = &mut wrapping.backing {
        *addr = u64::MAX - 0xffe;
    }
    assert_eq!(space.map(wrapping).unwrap_err().errno(), Errno::EINVAL);
    assert!(space.regions().is_empty());
}

#[test]
fn the_last_page_of_the_space_can_be_mapped() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, u64::MAX - 0xfff, 0x1000, 0, RW)).unwrap();
    assert_eq!(space.covering(u64::MAX).map(|region| region.last()), Some(u64::MAX));
    assert_eq!(space.unmap(u64::MAX, u64::MAX), Unmapped { bytes: 0x1000, regions: 1, revoked: false });
}

#[test]
fn running_out_of_entries_is_enospc() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits { max_entries: 2, ..Limits::default() });
    space.map(shared(&window, 0, PAGE, 0, RW)).unwrap();
    space.map(shared(&window, PAGE, PAGE, 0, RW)).unwrap();
    assert_eq!(space.map(shared(&window, 2 * PAGE, PAGE, 0, RW)).unwrap_err().errno(), Errno::ENOSPC);
    space.unmap(0, 0);
    space.map(shared(&window, 2 * PAGE, PAGE, 0, RW)).unwrap();
}

#[test]
fn many_are_mapped_at_once_or_not_at_all() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::default());
    let before = space.generation();
    let page = |n: u64| shared(&window, n * PAGE, PAGE, 0, RW);
    assert_eq!(space.map_all(vec![page(1), page(2), page(1)]).unwrap_err().errno(), Errno::EEXIST);
    assert_eq!((space.regions().len(), space.generation()), (0, before));
    space.map_all(vec![page(1), page(2), page(3)]).unwrap();
    assert_eq!((space.regions().len(), space.generation()), (3, before + 1));
}

#[test]
fn invalidate_removes_every_region_it_touches() {
    let window = Window::new(0x4000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x1000, 0x2000, 0, RW)).unwrap();
    space.map(shared(&window, 0x3000, 0x2000, 0, RW)).unwrap();
    space.map(shared(&window, 0x5000, 0x2000, 0, RW)).unwrap();
    assert_eq!(space.unmap(0x2000, 0x3000), Unmapped { bytes: 0x4000, regions: 2, revoked: false });
    assert_eq!(space.regions().len(), 1);
}

#[test]
fn an_unmap_that_cuts_a_region_is_einval_and_changes_nothing() {
    let window = Window::new(0x4000);
    let space = AddressSpace::new(Limits::default());
    space.map(shared(&window, 0x1000, 0x2000, 0, RW)).unwrap();
    space.map(shared(&window, 0x3000, 0x2000, 0, RW)).unwrap();
    for (first, last) in [(0x1000, 0x1fff), (0x2000, 0x4fff), (0x1000, 0x3fff), (0, 0x3fff)] {
        assert_eq!(space.unmap_whole(first, last).unwrap_err().errno(), Errno::EINVAL, "{first:#x}..={last:#x}");
    }
    assert_eq!(space.regions().len(), 2);
    assert_eq!(space.unmap_whole(0, 0x2fff), Ok(Unmapped { bytes: 0x2000, regions: 1, revoked: false }));
    assert_eq!(space.unmap_whole(0, 0x2fff), Ok(Unmapped::default()));
}

#[test]
fn byte_granular_maps_are_possible_where_limits_say_so() {
    let window = Window::new(0x1000);
    let space = AddressSpace::new(Limits::NONE);
    space.map(shared(&window, 0x1001, 3, 5, RW)).unwrap();
    space.map(shared(&window, 0x1004, 1, 0, RW)).unwrap();
    assert_eq!(space.regions().len(), 2);
}

#[test]
fn a_space_without_a_common_page_size_maps_nothing() {
    let window = Window::new(0x1000);
    let limits = Limits { page_sizes: 0x1000, ..Limits::NONE }.intersect(Limits { page_sizes: 0x2000, ..Limits::NONE });
    assert_eq!(limits.alignment(), None);
    let space = AddressSpace::new(limits);
    assert_eq!(space.map(shared(&window, 0, 0x1000, 0, RW)).unwrap_err().errno(), Errno::EINVAL);
}

/// More regions than a node of the table holds; then, of those on either side of any border between two nodes, one goes
/// and one comes that lies across where it began.
#[test]
fn a_region_across_the_beginning_of_one_that_went_is_found_whole() {
    let window = Window::new(0x2000);
    for gone in 1..100u64 {
        let space = AddressSpace::new(Limits::default());
        let at = |number: u64| 2 * number * PAGE;
        space.map_all((0..100).map(|number| shared(&window, at(number), PAGE, 0, RW)).collect()).unwrap();
        assert_eq!(space.unmap(at(gone), at(gone)).regions, 1);
        let across = at(gone) - PAGE;
        space.map(shared(&window, across, 2 * PAGE, 0, RW)).unwrap();
        assert_eq!(space.covering(at(gone)).map(|region| region.iova), Some(across), "{gone}");
        let overlap = space.map(shared(&window, at(gone), PAGE, 0, RW)).unwrap_err();
        assert_eq!(overlap, MapError::Overlap { iova: at(gone), other: across });
        assert_eq!(space.unmap(at(gone), at(gone)).regions, 1, "{gone}");
    }
}
