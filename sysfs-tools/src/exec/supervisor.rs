//! The process that answers the calls: a child that nobody waits for, of a session of its own, as long as there is a program under the filter.

use super::keeper::Keeper;
use super::listener::{Answer, Call, Listener};
use super::target::{Device, Target};
use super::{feature, get_device, sys};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::fs::File;
use std::os::fd::{AsFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use vfio_abi::command::{VFIO_DEVICE_FEATURE, VFIO_GROUP_GET_DEVICE_FD};

/// Calls served at a time. One that waits for its caller's own memory keeps its thread.
const WORKERS: usize = 4;

/// Answers calls.
#[derive(Debug)]
struct Supervisor {
    root: PathBuf,
    listener: Listener,
}

/// Serves the listener until its last program is gone. `begun` is called when somebody does.
pub fn run(root: &Path, listener: Listener, keeper: Keeper, begun: impl FnOnce()) -> Result<(), Errno> {
    // What is sent to all of a group or a session is not meant for whom nobody knows of.
    SigSet::all().thread_block()?;
    let supervisor = Arc::new(Supervisor { root: root.to_owned(), listener });
    for _ in 0..WORKERS {
        let supervisor = Arc::clone(&supervisor);
        spawn("calls", move || supervisor.work())?;
    }
    spawn("places", move || keeper.run())?;
    begun();
    supervisor.wait_for_the_end();
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Errno> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(|error| crate::error::errno_of(&error))
}

impl Supervisor {
    fn wait_for_the_end(&self) {
        loop {
            let mut polled = [PollFd::new(self.listener.as_fd(), PollFlags::empty())];
            let _ = poll(&mut polled, PollTimeout::NONE);
            if polled[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP)) {
                return;
            }
        }
    }

    fn work(&self) {
        loop {
            match self.listener.receive() {
                Ok(call) => self.listener.answer(&call, self.serve(&call)),
                // Its caller died before it was told of.
                Err(Errno::ENOENT | Errno::EINTR) => {}
                // There is nobody any more.
                Err(_) => return,
            }
        }
    }

    fn serve(&self, call: &Call) -> Answer {
        // Whichever daemon serves the root now: files of a former one are nobody's.
        let Some(device) = Device::of_path(&self.root) else { return Answer::GoOn };
        if !Target::of(&self.listener, call).calls_file_of(device) {
            return Answer::GoOn;
        }
        match call.request {
            VFIO_GROUP_GET_DEVICE_FD => get_device::serve(&self.root, device, &self.listener, call),
            VFIO_DEVICE_FEATURE => feature::serve(&self.root, device, &self.listener, call),
            _ => Answer::GoOn,
        }
    }
}

/// The descriptors that this process was given, beside the first three.
pub fn inherited() -> Vec<RawFd> {
    let names = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let open: Vec<RawFd> = names.filter_map(|name| name.to_str()?.parse().ok()).filter(|&fd| fd > 2).collect();
    // That of the directory itself is closed by now.
    open.into_iter().filter(|fd| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok()).collect()
}

/// Holds nothing that this process was given: whoever waits for the end of a pipe waits for the program alone.
pub fn let_go(inherited: &[RawFd]) -> Result<(), Errno> {
    for &fd in inherited {
        let _ = nix::unistd::close(fd);
    }
    nix::unistd::chdir("/")?;
    let null =
        File::options().read(true).write(true).open("/dev/null").map_err(|error| crate::error::errno_of(&error))?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}

/// Becomes a process that its caller does not know of: no child of the program, and of no terminal.
///
/// False in the caller, which goes on; true in the process, once.
pub fn detach() -> Result<bool, Errno> {
    if let Some(child) = sys::fork()? {
        nix::sys::wait::waitpid(child, None)?;
        return Ok(false);
    }
    let detached = nix::unistd::setsid().and_then(|_| sys::fork());
    match detached {
        Ok(None) => Ok(true),
        // The caller hears nothing from a supervisor that there is not.
        Ok(Some(_)) | Err(_) => sys::leave(0),
    }
}
