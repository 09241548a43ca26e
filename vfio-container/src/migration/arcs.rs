//! The states of a device that migrates, and the way from one to another.
//!
//! A client names the state it wants; the device gets there in hops, each of which it knows how to do. The table is that of
//! `linux/vfio.h`; a hop into an optional state that the device does not have is skipped.

use vfio_bindings::bindings::vfio::{VFIO_MIGRATION_P2P, VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY};

/// `enum vfio_device_mig_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Something failed; only a reset helps.
    Error = 0,
    /// The device does nothing.
    Stop = 1,
    /// The device works.
    Running = 2,
    /// It does nothing, and its state is read.
    StopCopy = 3,
    /// It does nothing, and a state is written.
    Resuming = 4,
    /// It can be called upon and touches no memory of its own accord.
    RunningP2p = 5,
    /// It works, and what can be told before it stops is read.
    PreCopy = 6,
    /// As `RunningP2p`, and as `PreCopy`.
    PreCopyP2p = 7,
}

use State::{Error, PreCopy, PreCopyP2p, Resuming, Running, RunningP2p, Stop, StopCopy};

impl State {
    /// All of them, by number.
    pub const ALL: [Self; 8] = [Error, Stop, Running, StopCopy, Resuming, RunningP2p, PreCopy, PreCopyP2p];

    /// The state of that number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its number.
    pub fn number(self) -> u32 {
        u32::from(self as u8)
    }

    /// Whether a device of these `VFIO_MIGRATION_*` abilities has the state.
    pub fn is_known_to(self, abilities: u32) -> bool {
        let needs = match self {
            Error => 0,
            Stop | Running | StopCopy | Resuming => VFIO_MIGRATION_STOP_COPY,
            RunningP2p => VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P,
            PreCopy => VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
            PreCopyP2p => VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY,
        };
        needs & !abilities == 0
    }

    /// Whether the device does nothing of its own accord.
    pub fn is_still(self) -> bool {
        !matches!(self, Running | PreCopy)
    }

    /// The next hop from here to `wanted`, for a device of these abilities; `None` when there is no way, or no such state.
    /// Only a reset leads out of [`Error`](Self::Error), and no arc leads into it.
    pub fn next(self, wanted: Self, abilities: u32) -> Option<Self> {
        if !self.is_known_to(abilities) || !wanted.is_known_to(abilities) {
            return None;
        }
        let mut hop = self.hop(wanted);
        while !hop.is_known_to(abilities) {
            hop = hop.hop(wanted);
        }
        (hop != Error).then_some(hop)
    }

    /// The next hop for a device that has all states.
    fn hop(self, wanted: Self) -> Self {
        match (self, wanted) {
            (Error, _) | (_, Error) => Error,
            (here, there) if here == there => here,
            (Stop, StopCopy) => StopCopy,
            (Stop, Resuming) => Resuming,
            (Stop, _) => RunningP2p,
            (Running, PreCopy) => PreCopy,
            (Running, _) => RunningP2p,
            (PreCopy, PreCopyP2p | StopCopy) => PreCopyP2p,
            (PreCopy, _) => Running,
            (PreCopyP2p, PreCopy) => PreCopy,
            (PreCopyP2p, StopCopy) => StopCopy,
            (PreCopyP2p, _) => RunningP2p,
            // What was read before the device stopped cannot be continued after.
            (StopCopy, PreCopy | PreCopyP2p) => Error,
            (StopCopy | Resuming, _) => Stop,
            (RunningP2p, Running | PreCopy) => Running,
            (RunningP2p, PreCopyP2p) => PreCopyP2p,
            (RunningP2p, _) => Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_bindings::bindings::vfio;

    const FULL: u32 = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;

    /// Wanted, in the order of the columns.
    const WANTED: [State; 7] = [Stop, Running, PreCopy, PreCopyP2p, StopCopy, Resuming, RunningP2p];
    /// From, and the next hop to each of [`WANTED`]; as the kernel's table has it.
    const TABLE: [(State, [State; 7]); 7] = [
        (Stop, [Stop, RunningP2p, RunningP2p, RunningP2p, StopCopy, Resuming, RunningP2p]),
        (Running, [RunningP2p, Running, PreCopy, RunningP2p, RunningP2p, RunningP2p, RunningP2p]),
        (PreCopy, [Running, Running, PreCopy, PreCopyP2p, PreCopyP2p, Running, Running]),
        (PreCopyP2p, [RunningP2p, RunningP2p, PreCopy, PreCopyP2p, StopCopy, RunningP2p, RunningP2p]),
        (StopCopy, [Stop, Stop, Error, Error, StopCopy, Stop, Stop]),
        (Resuming, [Stop, Stop, Stop, Stop, Stop, Resuming, Stop]),
        (RunningP2p, [Stop, Running, Running, PreCopyP2p, Stop, Stop, RunningP2p]),
    ];

    fn by_table(from: State, wanted: State) -> State {
        let row = TABLE.iter().find(|row| row.0 == from);
        let column = WANTED.iter().position(|&state| state == wanted);
        row.zip(column).map_or(Error, |((_, row), column)| row[column])
    }

    /// The states that a device of these abilities lacks.
    fn lacks(abilities: u32) -> Vec<State> {
        let (p2p, pre_copy) = (abilities & VFIO_MIGRATION_P2P != 0, abilities & VFIO_MIGRATION_PRE_COPY != 0);
        let lacks = [(RunningP2p, p2p), (PreCopy, pre_copy), (PreCopyP2p, p2p && pre_copy)];
        lacks.into_iter().filter(|(_, has)| !has).map(|(state, _)| state).collect()
    }

    #[test]
    fn every_pair_of_states_has_the_hop_of_the_kernels_table() {
        for from in State::ALL {
            for wanted in State::ALL {
                let hop = by_table(from, wanted);
                assert_eq!(from.next(wanted, FULL), (hop != Error).then_some(hop), "{from:?} to {wanted:?}");
            }
        }
    }

    #[test]
    fn states_that_a_device_lacks_are_skipped_and_cannot_be_wanted() {
        for abilities in [FULL & !VFIO_MIGRATION_P2P, FULL & !VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY] {
            let lacks = lacks(abilities);
            for from in State::ALL {
                for wanted in State::ALL {
                    if lacks.contains(&from) || lacks.contains(&wanted) {
                        assert_eq!(from.next(wanted, abilities), None, "{from:?} to {wanted:?}");
                        continue;
                    }
                    let mut hop = by_table(from, wanted);
                    while lacks.contains(&hop) {
                        hop = by_table(hop, wanted);
                    }
                    assert_eq!(from.next(wanted, abilities), (hop != Error).then_some(hop), "{from:?} to {wanted:?}");
                }
            }
        }
    }

    #[test]
    fn every_way_ends_where_it_was_meant_to() {
        for abilities in [FULL, FULL & !VFIO_MIGRATION_P2P, FULL & !VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY] {
            for from in State::ALL {
                for wanted in State::ALL {
                    let mut way = vec![from];
                    while let Some(hop) = way.last().and_then(|here| here.next(wanted, abilities)) {
                        assert!(hop.is_known_to(abilities));
                        if hop == wanted {
                            break;
                        }
                        assert!(!way.contains(&hop), "{from:?} to {wanted:?} goes in circles: {way:?}");
                        way.push(hop);
                    }
                }
            }
        }
    }

    #[test]
    fn a_device_that_cannot_migrate_has_no_state_to_go_to() {
        for wanted in State::ALL {
            assert_eq!(Running.next(wanted, 0), None);
        }
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        let kernel = [
            vfio::vfio_device_mig_state_VFIO_DEVICE_STATE_ERROR,
            vfio::vfio_device_mig_state_VFIO_DEVICE_STATE_STOP,
            vfio::vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING,
            vfio::vfio_device_mig_state_VFIO_DEVICE_STATE_STOP_COPY,
            vfio::vfio_device_mig_state_VFIO_DEVICE_STATE_RESUMING,
            vfio::vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING_P2P,
            vfio::vfio_device_mig_state_VFIO_DEVICE_STATE_PRE_COPY,
            vfio::vfio_device_mig_state_VFIO_DEVICE_STATE_PRE_COPY_P2P,
        ];
        assert_eq!(State::ALL.map(State::number), kernel);
        assert!(State::ALL.into_iter().all(|state| State::from_number(state.number()) == Some(state)));
        assert_eq!(State::from_number(8), None);
    }
}
