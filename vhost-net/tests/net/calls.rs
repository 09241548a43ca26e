//! Calls on a device whose rings do not run: features, limits, errnos.

use crate::lab::*;
use nix::errno::Errno;

#[test]
fn f25_features_outside_the_offer_are_refused() {
    let lab = Lab::new();
    assert_eq!(lab.call(GET_FEATURES, &[]).unwrap(), OFFERED.to_ne_bytes());
    lab.call(SET_FEATURES, &(OFFERED & !LOG_ALL).to_ne_bytes()).unwrap();
    lab.call(SET_FEATURES, &0u64.to_ne_bytes()).unwrap();
    // Device checksum offload, translation, packed rings.
    for bit in [0, 33, 34, 63] {
        assert_eq!(lab.call(SET_FEATURES, &(1u64 << bit).to_ne_bytes()), Err(Errno::EOPNOTSUPP), "{bit}");
    }
    assert_eq!(lab.call(GET_BACKEND_FEATURES, &[]).unwrap(), 2u64.to_ne_bytes());
    lab.call(SET_BACKEND_FEATURES, &2u64.to_ne_bytes()).unwrap();
    assert_eq!(lab.call(SET_BACKEND_FEATURES, &4u64.to_ne_bytes()), Err(Errno::EOPNOTSUPP));
}

#[test]
fn an_array_of_features_is_filled_with_zeros_behind_those_there_are() {
    let lab = Lab::new();
    lab.client.put(ARG, &[0xff; 48]);
    lab.client.put(ARG, &4u64.to_ne_bytes());
    lab.call(GET_FEATURES_ARRAY, &[]).unwrap();
    let words = [4, OFFERED, 0, 0, 0, u64::MAX].map(u64::to_ne_bytes).concat();
    assert_eq!(lab.client.get(ARG, 48), words);
    lab.client.put(ARG, &u64::MAX.to_ne_bytes());
    assert_eq!(lab.call(GET_FEATURES_ARRAY, &[]), Err(Errno::E2BIG));
}

#[test]
fn an_array_of_features_is_accepted_when_all_of_it_is_known() {
    let lab = Lab::new();
    let set = |words: &[u64]| {
        lab.client.put(ARG + 8, &words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
        lab.call(SET_FEATURES_ARRAY, &(words.len() as u64).to_ne_bytes()).map(drop)
    };
    assert_eq!(set(&[OFFERED & !LOG_ALL, 0, 0]), Ok(()));
    assert_eq!(set(&[]), Ok(()));
    assert_eq!(set(&[1]), Err(Errno::EOPNOTSUPP));
    assert_eq!(set(&[VERSION_1, 0, 0, 1]), Err(Errno::EOPNOTSUPP));
    assert_eq!(lab.call(SET_FEATURES_ARRAY, &u64::MAX.to_ne_bytes()), Err(Errno::E2BIG));
    let beyond = devnode::Ioctl { cmd: SET_FEATURES_ARRAY, arg: u64::MAX - 4, input: &1u64.to_ne_bytes() };
    assert_eq!(lab.file.serve(&lab.client, &beyond), Err(Errno::EFAULT));
}

#[test]
fn f23_a_ring_that_is_not_there_is_refused() {
    let lab = Lab::new();
    for cmd in [SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_BUSYLOOP, GET_BUSYLOOP] {
        assert_eq!(lab.vring(cmd, 2, 1), Err(Errno::ENOBUFS), "{cmd:#x}");
    }
    for cmd in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, SET_BACKEND] {
        assert_eq!(lab.fd(cmd, u32::MAX, -1), Err(Errno::ENOBUFS), "{cmd:#x}");
    }
    assert_eq!(lab.addr(2, 0, ring(0)), Err(Errno::ENOBUFS));
}

#[test]
fn sizes_and_bases_are_within_their_limits() {
    let lab = Lab::new();
    for size in [0, 3, 0x8001, 0x1_0000, u32::MAX] {
        assert_eq!(lab.vring(SET_VRING_NUM, 0, size), Err(Errno::EINVAL), "{size}");
    }
    lab.vring(SET_VRING_NUM, 0, 0x8000).unwrap();
    assert_eq!(lab.vring(SET_VRING_BASE, 0, 0x1_0000), Err(Errno::EINVAL));
    lab.vring(SET_VRING_BASE, 0, 0xffff).unwrap();
    assert_eq!(lab.base(0), 0xffff);
}

#[test]
fn addresses_are_aligned_and_flags_known() {
    let lab = Lab::new();
    let [desc, used, avail, _] = ring(0);
    assert_eq!(lab.addr(0, 2, ring(0)), Err(Errno::EOPNOTSUPP));
    let misaligned = [[desc + 8, used, avail, 0], [desc, used + 2, avail, 0], [desc, used, avail + 1, 0]];
    for words in misaligned.into_iter().chain([[desc, used, avail, 2]]) {
        assert_eq!(lab.addr(0, 0, words), Err(Errno::EINVAL), "{words:x?}");
    }
    assert_eq!(lab.addr(0, 0, [0; 4]), Ok(()), "where a ring is matters when it is to run");
}

#[test]
fn f27_notifiers_are_eventfds() {
    let lab = Lab::new();
    for cmd in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        assert_eq!(lab.fd(cmd, 0, 99), Err(Errno::EBADF), "{cmd:#x}");
        assert_eq!(lab.fd(cmd, 0, -2), Err(Errno::EBADF), "{cmd:#x}");
        assert_eq!(lab.fd(cmd, 0, NOT_EVENTFD), Err(Errno::EINVAL), "{cmd:#x}");
        assert_eq!((lab.fd(cmd, 0, KICK), lab.fd(cmd, 0, -1)), (Ok(()), Ok(())), "{cmd:#x}");
    }
}

#[test]
fn a_busy_loop_is_noted() {
    let lab = Lab::new();
    lab.vring(SET_BUSYLOOP, 1, 50).unwrap();
    lab.vring(GET_BUSYLOOP, 1, 0).unwrap();
    assert_eq!(lab.client.get(ARG, 8), pair(1, 50));
}

#[test]
fn what_is_not_there_is_unknown() {
    let lab = Lab::new();
    // Endianness, workers, a call of vhost-vdpa, and one of nobody.
    for cmd in [0x4008_af13, 0x4008_af14, 0x8004_af08, 0xc008_af16, 0x8004_af70, 0xaf99] {
        assert_eq!(lab.call(cmd, &[0; 8]), Err(Errno::ENOTTY), "{cmd:#x}");
    }
}
