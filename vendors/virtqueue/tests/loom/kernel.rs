//! Eventfds and epoll as Linux has them, and threads.
//!
//! One lock stands for those of the kernel. A descriptor that became ready is told of only if it still is when somebody
//! asks, edges too: one that was emptied meanwhile wakes nobody.

use loom::sync::{Condvar, Mutex};
use nix::errno::Errno;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

struct Watch {
    fd: usize,
    mark: u64,
    level: bool,
    ready: bool,
}

#[derive(Default)]
struct Set {
    watched: Vec<Watch>,
    woken: Arc<Condvar>,
}

#[derive(Default)]
struct Kernel {
    /// Counters of eventfds.
    counters: Vec<u64>,
    sets: Vec<Set>,
}

std::thread_local! {
    static KERNEL: RefCell<Arc<Mutex<Kernel>>> = RefCell::default();
}

/// Another run of a model begins.
pub fn boot() {
    KERNEL.set(Arc::default());
}

fn booted() -> Arc<Mutex<Kernel>> {
    KERNEL.with_borrow(Arc::clone)
}

/// An eventfd.
#[derive(Clone)]
pub struct EventFd(usize, Arc<Mutex<Kernel>>);

impl fmt::Debug for EventFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventFd({})", self.0)
    }
}

#[allow(clippy::unnecessary_wraps, reason = "a system call can fail")]
impl EventFd {
    pub fn new() -> Result<Self, Errno> {
        let booted = booted();
        let mut kernel = booted.lock().unwrap();
        kernel.counters.push(0);
        let number = kernel.counters.len() - 1;
        drop(kernel);
        Ok(Self(number, booted))
    }

    pub fn signal(&self) -> Result<(), Errno> {
        let mut kernel = self.1.lock().unwrap();
        kernel.counters[self.0] += 1;
        for set in &mut kernel.sets {
            for watch in set.watched.iter_mut().filter(|watch| watch.fd == self.0) {
                watch.ready = true;
                set.woken.notify_all();
            }
        }
        Ok(())
    }

    pub fn drain(&self) -> Result<Option<u64>, Errno> {
        let count = std::mem::take(&mut self.1.lock().unwrap().counters[self.0]);
        Ok((count > 0).then_some(count))
    }
}

pub mod events {
    use super::{Kernel, Set, Watch, booted};
    use crate::sync::EventFd;
    use loom::sync::Mutex;
    use nix::errno::Errno;
    use nix::sys::epoll::{EpollFlags, EpollTimeout};
    use std::os::fd::BorrowedFd;
    use std::sync::Arc;

    /// An epoll instance.
    pub struct Events(usize, Arc<Mutex<Kernel>>);

    #[allow(clippy::unnecessary_wraps, reason = "a system call can fail")]
    impl Events {
        pub fn new() -> Result<Self, Errno> {
            let booted = booted();
            let mut kernel = booted.lock().unwrap();
            kernel.sets.push(Set::default());
            let number = kernel.sets.len() - 1;
            drop(kernel);
            Ok(Self(number, booted))
        }

        pub fn watch_level(&self, fd: &EventFd, mark: u64) -> Result<(), Errno> {
            self.add(fd, mark, true);
            Ok(())
        }

        pub fn watch(&self, fd: &EventFd, mark: u64) -> Result<(), Errno> {
            self.add(fd, mark, false);
            Ok(())
        }

        fn add(&self, fd: &EventFd, mark: u64, level: bool) {
            let mut kernel = self.1.lock().unwrap();
            let ready = kernel.counters[fd.0] > 0;
            let set = &mut kernel.sets[self.0];
            set.watched.push(Watch { fd: fd.0, mark, level, ready });
            if ready {
                set.woken.notify_all();
            }
        }

        pub fn watch_backend(&self, _fd: BorrowedFd<'_>, _events: EpollFlags, _mark: u64) -> Result<(), Errno> {
            unreachable!("services of a model have no back end")
        }

        pub fn forget(&self, fd: &EventFd) {
            self.1.lock().unwrap().sets[self.0].watched.retain(|watch| watch.fd != fd.0);
        }

        pub fn forget_backend(&self, _fd: BorrowedFd<'_>) {
            unreachable!("services of a model have no back end")
        }

        pub fn wait(&self, patience: EpollTimeout) -> Result<impl Iterator<Item = u64> + use<>, Errno> {
            let mut kernel = self.1.lock().unwrap();
            loop {
                let Kernel { counters, sets } = &mut *kernel;
                let set = &mut sets[self.0];
                let mut marks = Vec::new();
                for watch in set.watched.iter_mut().filter(|watch| watch.ready) {
                    let readable = counters[watch.fd] > 0;
                    if readable {
                        marks.push(watch.mark);
                    }
                    watch.ready = readable && watch.level;
                }
                if !marks.is_empty() || patience != EpollTimeout::NONE {
                    return Ok(marks.into_iter());
                }
                let woken = Arc::clone(&set.woken);
                kernel = woken.wait(kernel).unwrap();
            }
        }
    }
}

pub mod end {
    use loom::thread::JoinHandle;
    use nix::errno::Errno;

    /// The end of a thread.
    #[derive(Debug)]
    pub struct End(JoinHandle<()>);

    #[allow(clippy::unnecessary_wraps, reason = "a system call can fail")]
    impl End {
        pub fn of(_name: String, _cpus: Vec<usize>, run: impl FnOnce() + Send + 'static) -> Result<Self, Errno> {
            Ok(Self(loom::thread::spawn(run)))
        }

        pub fn wait(self) {
            self.0.join().unwrap();
        }
    }
}

pub mod watch {
    use crate::events::Events;
    use nix::errno::Errno;
    use std::time::Duration;

    pub const ALERT: Duration = Duration::ZERO;

    /// Nobody is rung by stores in a model: they wake nobody, and are looked for now and then.
    #[derive(Debug)]
    pub struct Naps;

    impl Naps {
        pub fn new() -> Self {
            Self
        }

        pub fn prepare() {}

        pub fn restart(&mut self) {}

        pub fn sleep(&mut self, _others: &Events) -> Result<(), Errno> {
            unreachable!("no queue of a model has a doorbell")
        }
    }
}

pub mod health {
    /// A device that must not fail.
    #[derive(Debug, Default)]
    pub struct Health;

    impl Health {
        pub fn fault(&self, _queue: Option<u16>, reason: &str) {
            panic!("{reason}");
        }

        pub fn is_stopped(&self) -> bool {
            false
        }
    }
}
