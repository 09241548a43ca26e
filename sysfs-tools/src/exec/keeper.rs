//! Keeps the places true while programs run: instances come and go, and so do daemons and devices.

use super::mounts;
use super::name_space::Outside;
use super::places::Places;
use crate::socket::FdSocket;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, inotify};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How often a daemon is looked for that is gone, or that has no stream of events left for us.
const AT_FIRST: Duration = Duration::from_millis(50);
const AT_LAST: Duration = Duration::from_secs(1);

/// How long what happens at once is waited for.
const SWARM: Duration = Duration::from_millis(10);

/// The places, and what they depend on.
pub struct Keeper {
    root: PathBuf,
    places: Places,
    outside: Outside,
    inside: OwnedFd,
    /// Tells of nodes that really come and go; sysfs tells nobody.
    real: Option<OwnedFd>,
}

impl Keeper {
    pub fn new(root: &Path, places: Places, outside: Outside) -> Result<Self, Errno> {
        let inside = File::open("/proc/self/ns/mnt").map_err(|error| crate::error::errno_of(&error))?;
        let real = watch_real(&places).ok();
        Ok(Self { root: root.to_owned(), places, outside, inside: inside.into(), real })
    }

    /// Runs on a thread of its own, which shares no idea of paths with another.
    pub fn run(mut self) {
        if unshare(CloneFlags::CLONE_FS).is_err() {
            return;
        }
        loop {
            let events = self.events();
            // After the stream has begun, so that nothing falls in between.
            let mut pause = AT_FIRST;
            while self.places.follow().is_err() {
                thread::sleep(pause);
                pause = (pause * 2).min(AT_LAST);
                self.find_root();
            }
            self.wait(events);
        }
    }

    /// A stream that has a line for each event of the bus, and ends with the daemon.
    fn events(&self) -> Option<File> {
        let socket = FdSocket::connect(&self.root).ok()?;
        socket.ask(&json!({ "op": "watch" }), "watch the bus").ok()?.fds.into_iter().next().map(File::from)
    }

    /// Follows what the stream tells, until it ends.
    fn wait(&mut self, events: Option<File>) {
        let patience = if events.is_some() { PollTimeout::NONE } else { PollTimeout::from(1000u16) };
        let mut told = vec![0; 64 * 1024];
        loop {
            let streams = [events.as_ref().map(AsFd::as_fd), self.real.as_ref().map(AsFd::as_fd)];
            let mut polled: Vec<PollFd<'_>> =
                streams.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            let came = poll(&mut polled, patience);
            let ready = |fd: std::os::fd::BorrowedFd<'_>| {
                polled.iter().any(|poll| poll.as_fd().as_raw_fd() == fd.as_raw_fd() && poll.any() == Some(true))
            };
            if let Some(real) = self.real.as_ref().filter(|real| ready(real.as_fd())) {
                let _ = rustix::io::read(real, &mut told);
            }
            let has_ended = |mut events: &File| !matches!(events.read(&mut told), Ok(1..));
            if events.as_ref().filter(|events| ready(events.as_fd())).is_some_and(has_ended) {
                return;
            }
            // Events come in swarms.
            thread::sleep(SWARM);
            if self.places.follow().is_err() || came == Ok(0) {
                return;
            }
        }
    }

    /// Has the root that is mounted outside mounted here too, where mounts do not come by themselves.
    fn find_root(&self) {
        if is_served(&self.root) {
            return;
        }
        let Some(outside) = self.outside.name_space() else { return };
        if setns(outside, CloneFlags::CLONE_NEWNS).is_err() {
            return;
        }
        let copied = is_served(&self.root).then(|| mounts::copy(CWD, &self.root));
        // There is no way to go on elsewhere than inside.
        while setns(&self.inside, CloneFlags::CLONE_NEWNS).is_err() {
            thread::sleep(AT_LAST);
        }
        if let Some(Ok(copied)) = copied {
            let _ = mounts::hide(&self.root);
            let _ = mounts::show(&copied, &self.root);
        }
    }
}

fn is_served(root: &Path) -> bool {
    root.join(super::HANDLE).symlink_metadata().is_ok()
}

fn watch_real(places: &Places) -> Result<OwnedFd, rustix::io::Errno> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let comings = inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVE;
    for merged in places.merged() {
        // Covered, it has no path but this.
        inotify::add_watch(&watch, format!("/proc/self/fd/{}", merged.real().as_raw_fd()), comings)?;
    }
    Ok(watch)
}
