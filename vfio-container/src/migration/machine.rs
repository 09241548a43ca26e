//! The migration state of one device (VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE).

use super::arcs::State;
use super::format::OVERHEAD;
use super::stream::DataStream;
use crate::error::VfioError;
use crate::{Migratable, VfioDevice};
use parking_lot::Mutex;
use std::sync::Arc;
use vfio_bindings::bindings::vfio::{VFIO_MIGRATION_P2P, VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY};

/// What every device that can be moved has.
pub(crate) const ABILITIES: u32 = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;

/// Where a device stands. A change is over before the next one begins, or anybody sees where it led.
pub(crate) struct Machine(Mutex<Place>);

struct Place {
    state: State,
    /// Of the states that have one.
    stream: Option<Arc<DataStream>>,
}

impl Default for Machine {
    fn default() -> Self {
        Self(Mutex::new(Place { state: State::Running, stream: None }))
    }
}

impl Machine {
    /// The state the device is in.
    pub fn state(&self) -> State {
        self.0.lock().state
    }

    /// Brings `device` to `wanted`: the data stream, where the last hop begins one. Who has no place for a stream is refused
    /// before anything happens. What fails leaves the device in the state that it was in, on the way; a stream that is no
    /// state for it leaves it in ERROR.
    pub fn set(
        &self,
        device: &Arc<dyn VfioDevice>,
        wanted: u32,
        takes_stream: bool,
    ) -> Result<Option<Arc<DataStream>>, VfioError> {
        let wanted = State::from_number(wanted).ok_or(VfioError::NoSuchState(wanted))?;
        let mut place = self.0.lock();
        if !takes_stream && begins_stream(place.state, wanted) {
            return Err(VfioError::NoDataFd);
        }
        let mut begun = None;
        while place.state != wanted {
            let from = place.state;
            let next = from.next(wanted, ABILITIES).ok_or(VfioError::NoArc { from, to: wanted })?;
            begun = place.hop(device, next)?;
        }
        Ok(begun)
    }

    /// Does `reset`, after which the device works, or begins anew for whoever uses it next.
    pub fn reset<E>(&self, reset: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut place = self.0.lock();
        reset()?;
        place.end_stream();
        place.state = State::Running;
        Ok(())
    }

    /// The device is gone: it changes no more.
    pub fn end(&self) {
        let mut place = self.0.lock();
        place.end_stream();
        place.state = State::Error;
    }

    /// About how many bytes are to be read when the device stops now.
    pub fn data_size(device: &dyn Migratable) -> u64 {
        let told = device.identity().len() + OVERHEAD;
        u64::try_from(told).unwrap_or(u64::MAX).saturating_add(device.state_size())
    }
}

/// Whether the way from one state to another begins a data stream.
fn begins_stream(from: State, to: State) -> bool {
    let mut here = from;
    let mut last = from;
    while let Some(next) = here.next(to, ABILITIES).filter(|_| here != to) {
        (last, here) = (here, next);
    }
    here == to && last != to && hop_begins_stream(last, to)
}

fn hop_begins_stream(from: State, to: State) -> bool {
    use State::{PreCopy, PreCopyP2p, Resuming, Running, RunningP2p, Stop, StopCopy};
    matches!((from, to), (Running, PreCopy) | (RunningP2p, PreCopyP2p) | (Stop, StopCopy | Resuming))
}

impl Place {
    fn hop(&mut self, device: &Arc<dyn VfioDevice>, next: State) -> Result<Option<Arc<DataStream>>, VfioError> {
        let moved = device.migration().ok_or(VfioError::NoMigration)?;
        match (self.state.is_still(), next.is_still()) {
            (false, true) => moved.stop()?,
            (true, false) => moved.run()?,
            _ => {}
        }
        if next == State::StopCopy {
            let stream = match &self.stream {
                Some(stream) => Arc::clone(stream),
                None => DataStream::of_source(&moved.identity())?,
            };
            stream.complete(&moved.save()?)?;
            let begun = self.stream.is_none().then(|| Arc::clone(&stream));
            self.stream = Some(stream);
            self.state = next;
            return Ok(begun);
        }
        if hop_begins_stream(self.state, next) {
            let stream = match next {
                State::Resuming => DataStream::of_destination(Arc::clone(device)),
                _ => DataStream::of_source(&moved.identity())?,
            };
            self.stream = Some(Arc::clone(&stream));
            self.state = next;
            return Ok(Some(stream));
        }
        if self.state == State::Resuming {
            self.state = State::Error;
            let stream = self.stream.take().ok_or(VfioError::StreamEnded)?;
            moved.restore(&stream.take_state()?)?;
        }
        if !matches!(next, State::PreCopy | State::PreCopyP2p) {
            self.end_stream();
        }
        self.state = next;
        Ok(None)
    }

    fn end_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.end();
        }
    }
}
