//! Closes foreign descriptors where a close that never ends harms nobody.
//!
//! `close` flushes, and the file may be one of a server that hangs on purpose. So what turned out not to be ours to
//! keep is closed here, on threads of which a new one is started when the others are stuck.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// No more threads than this ever hang in a close; above it descriptors wait.
const MAX_THREADS: usize = 16;

/// How long an idle thread stays.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Clone, Default)]
pub(crate) struct Reaper(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<OwnedFd>,
    threads: usize,
    idle: usize,
}

impl Reaper {
    /// Closes `fd` some time soon.
    pub fn close(&self, fd: OwnedFd) {
        let mut state = self.0.state.lock();
        state.queue.push_back(fd);
        if state.idle >= state.queue.len() {
            self.0.work.notify_one();
        } else if state.threads < MAX_THREADS {
            let shared = self.0.clone();
            match std::thread::Builder::new().name("reaper".into()).spawn(move || shared.run()) {
                Ok(_) => state.threads += 1,
                Err(error) => tracing::warn!(%error, "no thread to close a client's descriptor"),
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(fd) = state.queue.pop_front() {
                drop(state);
                drop(fd);
                state = self.state.lock();
                continue;
            }
            state.idle += 1;
            let timed_out = self.work.wait_for(&mut state, LINGER).timed_out();
            state.idle -= 1;
            if timed_out && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_handed_over_gets_closed() {
        let reaper = Reaper::default();
        for _ in 0..20 {
            let (reader, writer) = nix::unistd::pipe().unwrap();
            reaper.close(writer);
            assert_eq!(std::fs::File::from(reader).read(&mut [0]).unwrap(), 0);
        }
        assert!(reaper.0.state.lock().queue.is_empty());
    }
}
