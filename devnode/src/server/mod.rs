//! The server: one thread at a time leads, the others work.
//!
//! The leader reads `/dev/fuse`. What cannot block on a client it answers itself. Anything else it enters in the table
//! of requests under way, hands leadership to another thread, and only then works on it; so whoever leads knows of
//! every request that was read before.

mod attr;
mod backing;
mod core;
mod flight;
mod gate;
mod handles;
mod keeper;
mod lead;
mod park;
mod quick;
mod work;

pub(crate) use self::core::Core;
pub(crate) use backing::LastBacking;
pub(crate) use flight::Flight;
pub(crate) use handles::Handles;

use crate::caller::device_of;
use crate::host::Host;
use crate::quota::Limits;
use crate::tree::Tree;
use handles::Opened;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Serialize;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where the tree is mounted. Without it no descriptor is recognised as an open file of this tree.
    pub root: Option<PathBuf>,
    /// What each user may hold.
    pub limits: Limits,
    /// Requests that run at a time.
    pub threads: usize,
    /// Of these, requests of one user; does not bind the superuser.
    pub threads_per_user: usize,
    /// When a thread that a client holds is given up and replaced.
    pub stuck_after: Duration,
    /// How long an open that is answered EBUSY waits for a release that is under way.
    pub release_wait: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            root: None,
            limits: Limits::default(),
            threads: 64,
            threads_per_user: 16,
            stuck_after: Duration::from_secs(3),
            release_wait: Duration::from_secs(1),
        }
    }
}

/// What a server holds and does right now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServerStats {
    /// Threads that serve requests, busy or not.
    pub threads: usize,
    /// Requests that run.
    pub busy: usize,
    /// Threads given up because a client holds them.
    pub stuck: usize,
    /// Requests read since the start.
    pub read: u64,
    /// Requests that wait for a thread, by user.
    pub queued: HashMap<u32, usize>,
    /// Requests read and not yet done.
    pub requests: usize,
    /// Of these, reads that wait for their file.
    pub waiting: usize,
    /// Open files.
    pub handles: usize,
    /// Shared mappings of clients' memory.
    pub windows: usize,
    /// Descriptors taken from clients and still held.
    pub descriptors: usize,
    /// Address spaces pinned.
    pub address_spaces: usize,
}

/// Serves a tree on a `/dev/fuse` descriptor until it is unmounted, shut down or dropped.
pub struct Server {
    core: Arc<Core>,
}

impl Server {
    /// Serves `tree` on `fuse`, an already mounted `/dev/fuse` descriptor.
    pub fn start(tree: Tree, fuse: OwnedFd, config: ServerConfig) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fuse, FcntlArg::F_GETFL)?);
        fcntl(&fuse, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let own = config.root.as_deref().map(device_of).transpose()?;
        let host = Host::new(own, config.limits);
        let core = Arc::new(Core::new(tree, fuse, host, config)?);
        for _ in 0..2 {
            lead::spawn(&core)?;
        }
        keeper::spawn(&core)?;
        Ok(Self { core })
    }

    /// Waits until the tree is unmounted and the last open file is closed, or until [`Server::shutdown`].
    pub fn wait(&self) {
        let mut threads = self.core.threads.lock();
        while !self.core.is_stopping() {
            self.core.ended.wait(&mut threads);
        }
    }

    /// Whether the server stopped serving, because somebody unmounted the tree.
    pub fn has_ended(&self) -> bool {
        self.core.is_stopping()
    }

    /// Stops serving: requests under way end (those a client holds are given up), open files are released, and the
    /// mount, if it is still there, answers ENOTCONN.
    pub fn shutdown(self) {
        drop(self);
    }

    /// What the server holds and does right now.
    pub fn stats(&self) -> ServerStats {
        self.core.stats()
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.core.host
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.core.tree
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let core = &self.core;
        core.stop();
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut threads = core.threads.lock();
        while *threads > core.gate.lock().stuck() && !core.ended.wait_until(&mut threads, deadline).timed_out() {}
        drop(threads);
        for handle in core.host.handles.drain() {
            if let Opened::Device(file) = &handle.kind {
                work::guarded(|| file.release()).ok();
            }
        }
        // Threads that a client holds keep the core alive; the kernel must see the descriptor closed all the same.
        match File::open("/dev/null").map(|null| crate::sys::replace(core.fuse.as_fd(), null.as_fd())) {
            Ok(Ok(())) => {}
            result => tracing::error!(?result, "the mount cannot be let go"),
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("stats", &self.stats()).finish()
    }
}
