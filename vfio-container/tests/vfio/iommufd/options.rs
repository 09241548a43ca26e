//! IOMMU_OPTION and IOMMU_VFIO_IOAS.

use super::lab::*;
use nix::errno::Errno;
use vfio_container::testing::FakeClient;

const SET: u32 = 0;
const GET: u32 = 1;
const RLIMIT_MODE: u32 = 0;
const HUGE_PAGES: u32 = 1;

#[test]
fn huge_pages_are_an_option_of_each_ioas() {
    let lab = Lab::new();
    let (one, two) = (lab.alloc(), lab.alloc());
    assert_eq!(lab.option(HUGE_PAGES, GET, one, 7), Ok(1), "as the kernel begins");
    assert_eq!(lab.option(HUGE_PAGES, SET, one, 0), Ok(0));
    assert_eq!(lab.option(HUGE_PAGES, GET, one, 0), Ok(0));
    assert_eq!(lab.option(HUGE_PAGES, GET, two, 0), Ok(1));
    assert_eq!(lab.option(HUGE_PAGES, SET, one, 2), Err(Errno::EINVAL));
    assert_eq!(lab.option(HUGE_PAGES, 2, one, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(lab.option(HUGE_PAGES, GET, 9, 0), Err(Errno::ENOENT));
    assert_eq!(lab.option(2, GET, one, 0), Err(Errno::EOPNOTSUPP));
}

#[test]
fn how_memory_is_accounted_is_chosen_by_the_superuser_before_there_is_an_object() {
    let lab = Lab::of(FakeClient::of_user(1, 0));
    assert_eq!(lab.option(RLIMIT_MODE, GET, 0, 0), Ok(0));
    assert_eq!(lab.option(RLIMIT_MODE, SET, 0, 2), Err(Errno::EINVAL));
    assert_eq!(lab.option(RLIMIT_MODE, SET, 1, 1), Err(Errno::EOPNOTSUPP));
    assert_eq!(lab.option(RLIMIT_MODE, 2, 0, 1), Err(Errno::EOPNOTSUPP));
    assert_eq!(lab.option(RLIMIT_MODE, SET, 0, 1), Ok(1));
    assert_eq!(lab.option(RLIMIT_MODE, GET, 0, 0), Ok(1));
    lab.alloc();
    assert_eq!(lab.option(RLIMIT_MODE, SET, 0, 0), Err(Errno::EBUSY));
    assert_eq!(Lab::new().option(RLIMIT_MODE, SET, 0, 1), Err(Errno::EPERM), "an ordinary user");
}

#[test]
fn an_ioas_can_stand_for_the_container_until_it_is_cleared_or_destroyed() {
    const GET: u32 = 0;
    const SET: u32 = 1;
    const CLEAR: u32 = 2;
    let lab = Lab::new();
    assert_eq!(lab.vfio_ioas(GET, 0), Err(Errno::ENODEV));
    assert_eq!(lab.vfio_ioas(SET, 1), Err(Errno::ENOENT));
    let (one, two) = (lab.alloc(), lab.alloc());
    lab.vfio_ioas(SET, two).unwrap();
    assert_eq!(lab.vfio_ioas(GET, 0), Ok(two));
    lab.destroy(one).unwrap();
    assert_eq!(lab.vfio_ioas(GET, 0), Ok(two));
    lab.destroy(two).unwrap();
    assert_eq!(lab.vfio_ioas(GET, 0), Err(Errno::ENODEV));
    let three = lab.alloc();
    lab.vfio_ioas(SET, three).unwrap();
    lab.vfio_ioas(CLEAR, 0).unwrap();
    assert_eq!(lab.vfio_ioas(GET, 0), Err(Errno::ENODEV));
    assert_eq!(lab.vfio_ioas(3, 0), Err(Errno::EOPNOTSUPP));
}
