//! VFIO_DEVICE_FEATURE: a state of migration whose data stream the daemon cannot install in its caller.

use super::listener::{Answer, Call, Listener};
use super::target::{Device, Memory, Target};
use super::{get_device, sys};
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use vfio_abi::handle::MigState;

/// VFIO_DEVICE_FEATURE_MASK, _SET and _PROBE, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE of linux/vfio.h.
const MASK: u32 = 0xffff;
const SET: u32 = 1 << 17;
const PROBE: u32 = 1 << 18;
const MIG_DEVICE_STATE: u32 = 2;

/// `struct vfio_device_feature`, and `struct vfio_device_feature_mig_state` behind it.
const SIZE: usize = 16;
const STATE: u64 = 8;
const DATA_FD: u64 = 12;

/// Serves a call on a file of `device`, the tree at `root`.
///
/// Only what sets a state of migration is served; another feature, and DIRTY_PAGES of a container, which has the same number, go on.
pub fn serve(root: &Path, device: Device, listener: &Listener, call: &Call) -> Answer {
    let target = Target::of(listener, call);
    let Ok(memory) = target.memory() else { return Answer::GoOn };
    let mut argument = [0; SIZE];
    let whole = memory.read(call.argument, &mut argument) == Ok(SIZE);
    let Some(state) = wanted_state(&argument).filter(|_| whole) else { return Answer::GoOn };
    let (Ok(file), Some(handle)) = (target.take(device), get_device::open(root, super::STREAM)) else {
        return Answer::GoOn;
    };
    // Before there is an effect: what cannot be written must be found out while nothing has changed.
    if let Err(errno) = put(&memory, call, DATA_FD, u32::MAX) {
        return Answer::Failed(errno);
    }
    let mut reached = MigState { device: file.as_raw_fd(), state };
    let told = sys::mig_state(handle.as_fd(), &mut reached).and_then(|has_stream| {
        if has_stream {
            put(&memory, call, DATA_FD, listener.give(call, &handle)?.cast_unsigned())?;
        }
        put(&memory, call, STATE, reached.state)
    });
    told.map_or_else(Answer::Failed, |()| Answer::Value(0))
}

fn put(memory: &Memory, call: &Call, offset: u64, value: u32) -> Result<(), Errno> {
    let address = call.argument.checked_add(offset).ok_or(Errno::EFAULT)?;
    memory.write(address, &value.to_ne_bytes())
}

/// The state that the argument sets; none when it does something else.
fn wanted_state(argument: &[u8; SIZE]) -> Option<u32> {
    let [argsz, flags, state] = [0, 4, 8].map(|at| {
        let mut number = [0; 4];
        number.copy_from_slice(&argument[at..at + 4]);
        u32::from_ne_bytes(number)
    });
    let sets = usize::try_from(argsz).is_ok_and(|size| size >= SIZE) && flags & (SET | PROBE) == SET;
    (sets && flags & MASK == MIG_DEVICE_STATE).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(argsz: u32, flags: u32, state: u32) -> [u8; SIZE] {
        let mut bytes = [0xff; SIZE];
        for (at, number) in [(0, argsz), (4, flags), (8, state)] {
            bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_state_that_is_set_is_served() {
        assert_eq!(wanted_state(&argument(16, SET | MIG_DEVICE_STATE, 3)), Some(3));
        assert_eq!(wanted_state(&argument(4096, SET | MIG_DEVICE_STATE, u32::MAX)), Some(u32::MAX));
    }

    #[test]
    fn what_asks_probes_or_is_too_short_goes_on() {
        let get = 1 << 16;
        for (argsz, flags) in
            [(16, get | MIG_DEVICE_STATE), (16, SET | PROBE | MIG_DEVICE_STATE), (16, MIG_DEVICE_STATE), (15, SET | 2)]
        {
            assert_eq!(wanted_state(&argument(argsz, flags, 3)), None, "{argsz} {flags:#x}");
        }
    }

    #[test]
    fn other_features_and_dirty_pages_go_on() {
        for flags in [SET, SET | 1, SET | 3, SET | 0x8002, 1, 2, 4] {
            assert_eq!(wanted_state(&argument(48, flags, 3)), None, "{flags:#x}");
        }
    }
}
