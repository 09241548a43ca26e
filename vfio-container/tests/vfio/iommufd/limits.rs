//! What one user may have.

use super::lab::*;
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::MAX_MAPPINGS;
use vfio_container::iommufd::{CONTEXTS_PER_USER, IOASES_PER_USER};
use vfio_container::testing::FakeClient;

#[test]
fn f31_a_full_ioas_is_enospc_and_its_neighbour_is_not() {
    let lab = Lab::new();
    let (full, neighbour) = (lab.alloc(), lab.alloc());
    for page in 0..MAX_MAPPINGS as u64 {
        lab.map(full, FIXED | READ, RAM, page * 0x2000, PAGE).unwrap();
    }
    assert_eq!(lab.map(full, READ, RAM, 0, PAGE), Err(Errno::ENOSPC));
    assert_eq!(lab.map(full, FIXED | READ, RAM, 0, PAGE), Err(Errno::EEXIST), "overlap is looked at first");
    assert_eq!(lab.copy(READ, (full, 0), (full, 0), PAGE), Err(Errno::ENOSPC));
    assert_eq!(lab.copy(READ, (full, 0), (neighbour, 0), PAGE), Ok(PAGE));
    assert_eq!(lab.unmap(full, 0x2000, PAGE), Ok(PAGE));
    assert_eq!(lab.map(full, READ, RAM, 0, PAGE), Ok(PAGE));
}

#[test]
fn contexts_and_ioases_of_a_user_are_counted_and_given_back() {
    let lab = Lab::new();
    let more: Vec<_> = (1..CONTEXTS_PER_USER).map(|_| lab.node.open_file(&lab.client).unwrap()).collect();
    assert_eq!(lab.node.open_file(&lab.client).err(), Some(Errno::EMFILE));
    assert!(lab.node.open_file(&FakeClient::of_user(7, 1001)).is_ok(), "another user has a share of his own");
    drop(more);
    assert!(lab.node.open_file(&lab.client).is_ok());

    for _ in 0..IOASES_PER_USER {
        lab.alloc();
    }
    let alloc = Fields::default().u32(0).u32(0).sized();
    assert_eq!(lab.with(IOAS_ALLOC, &alloc), Err(Errno::ENOSPC));
    let second = Lab {
        client: lab.client.thread(),
        node: Arc::clone(&lab.node),
        file: lab.node.open_file(&lab.client).unwrap(),
    };
    assert_eq!(second.with(IOAS_ALLOC, &alloc), Err(Errno::ENOSPC), "nor in another context");
    lab.close();
    assert_eq!(second.alloc(), 1);
}
