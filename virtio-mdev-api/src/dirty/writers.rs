//! All devices that write to one memory, for who records what is written there.

use super::{DirtyRecord, DirtySink, SinkGuard};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;

/// The devices that write to a memory, which come and go, and at most one sink that is told of what each of them writes.
#[derive(Default)]
pub struct Writers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    joined: u64,
    sink: Option<Arc<dyn DirtySink>>,
}

struct Member {
    id: u64,
    record: Arc<DirtyRecord>,
    told: Option<SinkGuard>,
}

impl Member {
    fn tell(&mut self, sink: Option<&Arc<dyn DirtySink>>) {
        self.told = sink.map(|sink| self.record.add_sink(Arc::clone(sink)));
    }
}

impl Writers {
    /// The device that reports to `record` writes to the memory, until the guard is dropped. To be called before it does.
    pub fn join(self: &Arc<Self>, record: &Arc<DirtyRecord>) -> WriterGuard {
        let mut state = self.state.lock();
        state.joined += 1;
        let id = state.joined;
        let mut member = Member { id, record: Arc::clone(record), told: None };
        member.tell(state.sink.as_ref());
        state.members.push(member);
        WriterGuard { writers: Arc::clone(self), id }
    }

    /// From now on `sink` is told of every write, and no other is. When this returns, what was written before and is not
    /// told is visible to whoever copies the memory next.
    pub fn track(&self, sink: Option<Arc<dyn DirtySink>>) {
        let mut state = self.state.lock();
        state.sink = sink;
        let State { members, sink, .. } = &mut *state;
        members.iter_mut().for_each(|member| member.tell(sink.as_ref()));
    }
}

impl fmt::Debug for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Writers")
            .field("devices", &state.members.len())
            .field("tracked", &state.sink.is_some())
            .finish_non_exhaustive()
    }
}

/// A device among the writers of a memory; dropping it ends that. No mark of it arrives afterwards.
#[must_use = "dropping the guard takes the device out"]
#[derive(Debug)]
pub struct WriterGuard {
    writers: Arc<Writers>,
    id: u64,
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        let mut state = self.writers.state.lock();
        if let Some(at) = state.members.iter().position(|member| member.id == self.id) {
            let left = state.members.swap_remove(at);
            // It waits for the marks under way.
            drop(state);
            drop(left);
        }
    }
}
