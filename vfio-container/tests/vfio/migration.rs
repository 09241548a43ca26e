//! Migration v2: states, and the stream between them.

use crate::lab::*;
use crate::mover::*;
use devnode::Ioctl;
use nix::errno::Errno;
use proptest::prelude::*;
use vfio_container::HandleFile;
use vfio_container::testing::{BASE, Descriptor, FakeClient, SIZE};

const STATES: [u32; 8] = [ERROR, STOPPED, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P];

#[test]
fn a_device_tells_that_it_migrates() {
    let side = Side::new();
    assert_eq!(side.feature(GET_FEATURE | MIGRATION, &[0; 8]), Ok(7u64.to_ne_bytes().to_vec()));
    for (feature, ops) in
        [(MIGRATION, GET_FEATURE), (DEVICE_STATE, GET_FEATURE | SET_FEATURE), (DATA_SIZE, GET_FEATURE)]
    {
        assert_eq!(side.feature(PROBE_FEATURE | ops | feature, &[]), Ok(vec![]), "{feature}");
        assert_eq!(side.feature(PROBE_FEATURE | feature, &[]), Ok(vec![]), "{feature}");
    }
    let size = side.feature(GET_FEATURE | DATA_SIZE, &[0; 8]).unwrap();
    assert_eq!(size, u64::try_from(side.stream().len()).unwrap().to_ne_bytes());
}

#[test]
fn what_is_no_request_is_refused_as_the_kernel_does() {
    let side = Side::new();
    let client = &side.lab.client;
    for (what, argsz, flags, errno) in [
        ("set what can only be asked for", 16, SET_FEATURE | MIGRATION, Errno::EINVAL),
        ("the same, only asked whether it can", 16, SET_FEATURE | PROBE_FEATURE | DATA_SIZE, Errno::EINVAL),
        ("neither get nor set", 16, DEVICE_STATE, Errno::EINVAL),
        ("no room for the answer", 15, GET_FEATURE | MIGRATION, Errno::EINVAL),
        ("half a state", 15, SET_FEATURE | DEVICE_STATE, Errno::EINVAL),
        ("no such feature", 16, GET_FEATURE | 3, Errno::ENOTTY),
    ] {
        assert_eq!(side.raw_feature_of(client, argsz, flags, &pair(STOPPED, -1)), Err(errno), "{what}");
    }
    client.put(BASE + SIZE as u64 - 8, &pair(16, SET_FEATURE | DEVICE_STATE));
    let call = Ioctl { cmd: 0x3b75, arg: BASE + SIZE as u64 - 8, input: &[] };
    assert_eq!(side.file.serve(client, &call), Err(Errno::EFAULT));
    assert_eq!(side.calls(), [""; 0]);
}

#[test]
fn a_device_that_cannot_be_moved_says_so() {
    let side = Side::of(false);
    for feature in [MIGRATION, DEVICE_STATE, DATA_SIZE, LOGGING_START, LOGGING_STOP, LOGGING_REPORT] {
        for ops in [GET_FEATURE, SET_FEATURE, PROBE_FEATURE] {
            assert_eq!(side.feature(ops | feature, &[0; 32]), Err(Errno::ENOTTY), "{feature}");
        }
    }
    assert_eq!(side.take(STOPPED).unwrap_err(), Errno::ENOTTY);
}

#[test]
fn a_state_is_reached_by_hops_that_stop_and_run_the_device() {
    let side = Side::new();
    assert_eq!(side.state(), RUNNING);
    assert_eq!(side.set(STOPPED), Ok(-1));
    assert_eq!((side.state(), side.calls()), (STOPPED, vec!["stop"]));
    assert_eq!(side.set(RUNNING_P2P), Ok(-1));
    assert_eq!((side.state(), side.calls()), (RUNNING_P2P, vec![]));
    assert_eq!(side.set(RUNNING), Ok(-1));
    assert_eq!((side.state(), side.calls()), (RUNNING, vec!["run"]));
    assert!(side.take(PRE_COPY_P2P).unwrap().is_some());
    assert_eq!((side.state(), side.calls()), (PRE_COPY_P2P, vec!["stop"]));
    assert_eq!(side.set(PRE_COPY), Ok(-1), "the stream is there already");
    assert_eq!((side.state(), side.calls()), (PRE_COPY, vec!["run"]));
    assert_eq!(side.set(STOP_COPY), Ok(-1));
    assert_eq!((side.state(), side.calls()), (STOP_COPY, vec!["stop", "save"]));
    assert_eq!(side.set(RUNNING), Ok(-1));
    assert_eq!((side.state(), side.calls()), (RUNNING, vec!["run"]));
}

/// The states that begin a stream, by way of a handle; all others have none.
#[test]
fn a_handle_becomes_the_stream_of_a_state_that_begins_one() {
    for (from, to) in STATES.into_iter().flat_map(|from| STATES.map(|to| (from, to))) {
        let side = Side::new();
        if from == ERROR || to == ERROR || side.take(from).is_err() {
            continue;
        }
        let begins = match to {
            PRE_COPY | PRE_COPY_P2P => !matches!(from, PRE_COPY | PRE_COPY_P2P),
            STOP_COPY => !matches!(from, PRE_COPY | PRE_COPY_P2P | STOP_COPY),
            RESUMING => from != RESUMING,
            _ => false,
        };
        if from == RESUMING && to != RESUMING {
            assert_eq!(side.take(to).unwrap_err(), Errno::EINVAL, "nothing was written");
            assert_eq!(side.state(), ERROR);
        } else if from == STOP_COPY && matches!(to, PRE_COPY | PRE_COPY_P2P) {
            assert_eq!(side.take(to).unwrap_err(), Errno::EINVAL, "no way leads there");
            assert_eq!(side.state(), STOP_COPY);
        } else {
            assert_eq!(side.take(to).unwrap().is_some(), begins, "{from} to {to}");
            assert_eq!(side.state(), to);
        }
    }
}

#[test]
fn without_a_place_for_the_stream_a_state_that_begins_one_is_not_supported_and_nothing_happens() {
    for state in [PRE_COPY, PRE_COPY_P2P, STOP_COPY, RESUMING] {
        let side = Side::new();
        assert_eq!(side.set(state), Err(Errno::EOPNOTSUPP));
        assert_eq!((side.state(), side.calls()), (RUNNING, vec![]));
    }
}

#[test]
fn a_state_that_cannot_be_asked_for_is_einval() {
    let side = Side::new();
    for state in [ERROR, 8, 0x100, u32::MAX] {
        assert_eq!(side.set(state), Err(Errno::EINVAL), "{state}");
        assert_eq!(side.take(state).unwrap_err(), Errno::EINVAL, "{state}");
    }
    assert_eq!((side.state(), side.calls()), (RUNNING, vec![]));
}

#[test]
fn m3_only_the_address_space_that_gave_the_memory_moves_the_device_and_whoever_has_its_file_through_a_handle() {
    let side = Side::new();
    let heir = FakeClient::new(2);
    assert_eq!(side.feature_of(&heir, SET_FEATURE | DEVICE_STATE, &pair(STOPPED, -1)), Err(Errno::EPERM));
    assert_eq!(side.feature_of(&heir, GET_FEATURE | DEVICE_STATE, &pair(0, 0)), Ok(pair(RUNNING, -1)));
    heir.install(11, Descriptor::Device(side.file.clone()));
    let call = Ioctl { cmd: HANDLE_MIG_STATE, arg: 0, input: &pair(11, STOPPED) };
    assert!(HandleFile::default().serve(&heir, &call).is_ok());
    assert_eq!(side.state(), STOPPED);
}

#[test]
fn a_handle_asks_for_a_device_file() {
    let side = Side::new();
    side.lab.client.install(30, Descriptor::Device(side.lab.container.clone()));
    side.lab.client.install(31, Descriptor::Other);
    let handle = HandleFile::default();
    for (fd, errno) in [(30, Errno::EINVAL), (31, Errno::EINVAL), (50, Errno::EBADF), (-1, Errno::EBADF)] {
        let call = Ioctl { cmd: HANDLE_MIG_STATE, arg: 0, input: &pair(fd, STOPPED) };
        assert_eq!(handle.serve(&side.lab.client, &call), Err(errno), "{fd}");
    }
    side.close();
    assert_eq!(side.take(STOPPED).unwrap_err(), Errno::EBADF, "the device file is closed");
}

#[test]
fn what_is_told_before_the_stop_and_after_makes_one_stream() {
    let side = Side::with_state(77);
    let stream = side.begin(PRE_COPY);
    let (initial, dirty) = side.precopy_info(&stream).unwrap();
    assert_eq!(dirty, 0);
    let first = stream.serve_read(5).unwrap();
    assert_eq!(side.precopy_info(&stream), Ok((initial - 5, 0)));
    let rest = stream.serve_read(4096).unwrap();
    assert_eq!(u64::try_from(5 + rest.len()).unwrap(), initial);
    assert_eq!(stream.serve_read(4096), Err(Errno::ENOMSG));
    assert_eq!(side.precopy_info(&stream), Ok((0, 0)));
    *side.mover.state.lock() = 78;
    assert_eq!(side.set(STOP_COPY), Ok(-1));
    assert_eq!(side.precopy_info(&stream), Err(Errno::EINVAL));
    let bytes = [first, rest, read_all(&stream)].concat();
    assert_eq!(stream.serve_read(4096), Ok(vec![]), "the end");
    assert_eq!(bytes, Side::with_state(78).stream(), "as that of a device that was stopped at once");

    for piece in [1, 3, 64, bytes.len()] {
        let destination = Side::new();
        destination.resume(&bytes, piece).unwrap();
        assert_eq!((*destination.mover.state.lock(), destination.state()), (78, STOPPED));
        destination.set(RUNNING).unwrap();
        assert_eq!(destination.calls(), ["stop", "restore", "run"]);
    }
}

#[test]
fn a_destination_that_cannot_take_the_device_says_so_before_the_source_stops() {
    let side = Side::new();
    let stream = side.begin(PRE_COPY);
    let mut told = stream.serve_read(4096).unwrap();
    assert_eq!(side.calls(), [""; 0], "it runs");
    *told.last_mut().unwrap() = b'2';
    let destination = Side::new();
    let stream = destination.begin(RESUMING);
    assert_eq!(stream.serve_write(&told), Err(Errno::EINVAL));
    assert_eq!(stream.serve_write(&[]), Err(Errno::EINVAL), "it stays refused");
    assert_eq!(destination.set(STOPPED), Err(Errno::EINVAL));
    assert_eq!(destination.state(), ERROR);
}

#[test]
fn a_stream_ends_when_the_device_leaves_its_state() {
    let side = Side::new();
    let ends = |side: &Side, stream: &vfio_container::DataStream| {
        assert_eq!(stream.serve_read(1), Err(Errno::ENODEV));
        assert_eq!(stream.serve_write(&[1]), Err(Errno::ENODEV));
        assert_eq!(side.precopy_info(stream), Err(Errno::ENODEV));
    };
    let stream = side.begin(PRE_COPY);
    side.set(RUNNING).unwrap();
    ends(&side, &stream);
    let stream = side.begin(STOP_COPY);
    side.set(STOPPED).unwrap();
    ends(&side, &stream);
    let stream = side.begin(RESUMING);
    assert_eq!(side.set(STOPPED), Err(Errno::EINVAL));
    ends(&side, &stream);
    side.reset();
    let stream = side.begin(RESUMING);
    side.reset();
    ends(&side, &stream);
    let stream = side.begin(PRE_COPY);
    side.close();
    assert_eq!(stream.serve_read(1), Err(Errno::ENODEV), "the device file is closed");
}

#[test]
fn a_stream_goes_one_way() {
    let side = Side::new();
    let stream = side.begin(PRE_COPY);
    assert_eq!(stream.serve_write(&[1]), Err(Errno::EBADF));
    side.reset();
    let stream = side.begin(RESUMING);
    assert_eq!(stream.serve_read(1), Err(Errno::EBADF));
    assert_eq!(side.precopy_info(&stream), Err(Errno::ENOTTY));
    let call = Ioctl { cmd: 0x3b75, arg: ARG, input: &[] };
    assert_eq!(stream.serve(&side.lab.client, &call), Err(Errno::ENOTTY));
}

#[test]
fn precopy_info_needs_room() {
    let side = Side::new();
    let stream = side.begin(PRE_COPY);
    let ask = |arg| stream.serve(&side.lab.client, &Ioctl { cmd: PRECOPY_INFO, arg, input: &[] });
    side.lab.client.put(ARG, &[[23, 0, 0, 0, 0, 0, 0, 0], [0; 8], [0; 8]].concat());
    assert_eq!(ask(ARG), Err(Errno::EINVAL));
    assert_eq!(ask(0x10), Err(Errno::EFAULT));
}

#[test]
fn error_is_left_by_a_reset_alone() {
    let side = Side::with_state(5);
    assert_eq!(side.resume(&[], 1), Err(Errno::EINVAL));
    for state in STATES {
        let expected = if state == ERROR { Ok(-1) } else { Err(Errno::EINVAL) };
        assert_eq!(side.set(state), expected, "{state}");
        assert_eq!(side.state(), ERROR);
    }
    side.reset();
    assert_eq!(side.state(), RUNNING);
    side.resume(&Side::with_state(9).stream(), 64).unwrap();
    assert_eq!(*side.mover.state.lock(), 9);
}

#[test]
fn a_reset_leads_to_running_from_everywhere() {
    for state in STATES {
        let side = Side::new();
        if side.take(state).is_ok() {
            side.reset();
            assert_eq!(side.state(), RUNNING, "from {state}");
        }
    }
}

#[test]
fn a_device_that_fails_on_the_way_stays_where_it_was() {
    let side = Side::new();
    for (refused, from, to) in [("stop", RUNNING, STOPPED), ("save", STOPPED, STOP_COPY), ("run", RUNNING_P2P, RUNNING)]
    {
        side.reset();
        side.take(from).unwrap();
        *side.mover.refuses.lock() = refused;
        assert_eq!(side.take(to).unwrap_err(), Errno::EIO, "{refused}");
        *side.mover.refuses.lock() = "";
        assert_eq!(side.state(), from, "{refused}");
        assert!(side.take(to).is_ok(), "{refused} works another time");
    }
}

#[test]
fn whoever_opens_the_device_next_finds_it_running() {
    let side = Side::new();
    side.set(STOPPED).unwrap();
    side.close();
    let again = crate::card::open_by(&side.lab.client, "uuid").unwrap();
    let side = Side { file: again, ..side };
    assert_eq!(side.state(), RUNNING);
}

#[test]
fn f41_a_stream_that_is_no_state_of_the_device_leaves_it_unharmed() {
    let good = Side::with_state(1234).stream();
    let fails = |bytes: &[u8], errno: Errno, what: &str| {
        let side = Side::with_state(5);
        assert_eq!(side.resume(bytes, 16), Err(errno), "{what}");
        assert_eq!(*side.mover.state.lock(), 5, "{what}");
        let _ = side.set(STOPPED);
        assert_eq!(side.state(), ERROR, "{what}");
        side.reset();
        side.resume(&good, 16).unwrap();
        assert_eq!(*side.mover.state.lock(), 1234, "{what}");
    };
    fails(&good[..good.len() - 1], Errno::EINVAL, "cut off");
    fails(&[&good[..], &[0]].concat(), Errno::EINVAL, "too long");
    fails(&[&good[..8], &[2], &good[9..]].concat(), Errno::EINVAL, "of a newer format");
    fails(&Side::with_state(1_000_001).stream(), Errno::EINVAL, "a number out of range");
    fails(&[0; 100], Errno::EINVAL, "something else");
    let huge = [&good[..16], &[1, 0, 0, 0, 0, 0, 16, 0], &vec![0; 1 << 20]].concat();
    fails(&huge, Errno::ENOMEM, "more than a stream may have");
}

#[test]
fn f41_a_stream_without_an_end_takes_no_more_than_so_much_memory() {
    let side = Side::new();
    let good = side.stream();
    side.reset();
    let stream = side.begin(RESUMING);
    // Preface and identity, and then a state as long as can be.
    let begin = 16 + 8 + b"mover 1".len();
    stream.serve_write(&good[..begin]).unwrap();
    stream.serve_write(&pair(2, 1 << 20)).unwrap();
    let mut taken = begin + 8;
    let refused = loop {
        match stream.serve_write(&[0; 1 << 16]) {
            Ok(len) => taken += len,
            Err(errno) => break errno,
        }
    };
    assert_eq!(refused, Errno::ENOMEM);
    assert!(taken <= 1 << 20, "{taken} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn f41_no_part_of_a_stream_and_no_bit_changed_becomes_a_state(
        state in 0u64..1_000_000,
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        bit in 0u32..8,
        piece in 1usize..80,
    ) {
        let good = Side::with_state(state).stream();
        let mut flipped = good.clone();
        flipped[flip.index(good.len())] ^= 1u8 << bit;
        for bad in [&good[..cut.index(good.len())], &flipped] {
            let side = Side::with_state(5);
            prop_assert!(side.resume(bad, piece).is_err());
            prop_assert_eq!(*side.mover.state.lock(), 5);
            prop_assert!(!side.calls().contains(&"restore"), "the device was not asked");
            side.reset();
            side.resume(&good, piece).unwrap();
            prop_assert_eq!(*side.mover.state.lock(), state);
        }
    }

    /// Whatever states are asked for, and whatever is written and read between.
    #[test]
    fn any_walk_through_the_states_keeps_the_device_as_its_state_says(
        steps in prop::collection::vec((0u32..11, any::<bool>(), prop::collection::vec(any::<u8>(), 0..20)), 1..40),
    ) {
        let side = Side::new();
        let mut streams = Vec::new();
        let mut stopped = false;
        for (state, through_handle, bytes) in steps {
            match state {
                8 => side.reset(),
                9 | 10 => {
                    if let Some(stream) = streams.last() {
                        let stream: &std::sync::Arc<vfio_container::DataStream> = stream;
                        let _ = stream.serve_write(&bytes);
                        let _ = stream.serve_read(bytes.len());
                    }
                }
                _ if through_handle => streams.extend(side.take(state).ok().flatten()),
                _ => {
                    let _ = side.set(state);
                }
            }
            for call in side.calls() {
                match call {
                    "stop" => prop_assert!(!std::mem::replace(&mut stopped, true), "stopped twice"),
                    "run" => prop_assert!(std::mem::replace(&mut stopped, false), "ran already"),
                    "reset" => stopped = false,
                    _ => prop_assert!(stopped, "{call} of a device that runs"),
                }
            }
            if side.state() != ERROR {
                prop_assert_eq!(stopped, !matches!(side.state(), RUNNING | PRE_COPY));
            }
        }
    }
}

#[test]
fn f38_resets_against_changes_of_state_leave_a_device_that_runs_and_moves() {
    let side = Side::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let thread = side.lab.client.thread();
                thread.install(12, Descriptor::Device(side.file.clone()));
                for round in 0u32..200 {
                    let call = Ioctl { cmd: HANDLE_MIG_STATE, arg: 0, input: &pair(12, round % 7 + 1) };
                    let _ = HandleFile::default().serve(&thread, &call);
                }
            });
        }
        for _ in 0..100 {
            side.reset();
        }
    });
    side.reset();
    assert_eq!(side.state(), RUNNING);
    side.resume(&Side::with_state(3).stream(), 10).unwrap();
    side.set(RUNNING).unwrap();
    assert_eq!(*side.mover.state.lock(), 3);
}
