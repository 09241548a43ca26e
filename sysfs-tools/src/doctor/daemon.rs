//! The daemon of this root, and what a dead one left behind.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::Check;
use crate::Error;
use crate::error::{describe, errno_of};
use crate::socket::{FdSocket, Hello};

/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn checks(root: &Path) -> [Check; 2] {
    let looked = look_at(root);
    // Whatever touches a hung mount hangs with it.
    let daemon = if matches!(looked, Looked::Hung) {
        Check::warn("daemon", "does not answer", "see mount")
    } else {
        hello(FdSocket::connect(root).and_then(|socket| socket.hello()))
    };
    let mount = mount(&looked, root, fuse_connection(root));
    [daemon, mount]
}

fn hello(answer: Result<Hello, Error>) -> Check {
    const NAME: &str = "daemon";
    match answer {
        Ok(hello) if hello.version == env!("CARGO_PKG_VERSION") => {
            Check::ok(NAME, format!("umdevd {}, pid {}", hello.version, hello.pid))
        }
        Ok(hello) => Check::warn(
            NAME,
            format!("umdevd {}, pid {}; this is umdev {}", hello.version, hello.pid, env!("CARGO_PKG_VERSION")),
            "install both in one version and restart umdevd",
        ),
        Err(Error::NoDaemon { socket, errno }) => {
            Check::warn(NAME, format!("not running: {}: {}", socket.display(), describe(errno)), "start umdevd")
        }
        Err(error) => Check::warn(NAME, error.to_string(), "restart umdevd, or run as root"),
    }
}

/// What became of a look at the root.
#[derive(Debug)]
enum Looked {
    Answered(io::Result<()>),
    /// Not within [`PATIENCE`].
    Hung,
}

fn look_at(root: &Path) -> Looked {
    let (answer, answered) = mpsc::sync_channel(1);
    let root = root.to_owned();
    // Left behind when it hangs: a process in FUSE's wait can still exit.
    thread::spawn(move || answer.send(fs::metadata(root).map(drop)));
    answered.recv_timeout(PATIENCE).map_or(Looked::Hung, Looked::Answered)
}

fn mount(looked: &Looked, root: &Path, connection: Option<u32>) -> Check {
    const NAME: &str = "mount";
    let unmount = format!("start umdevd, which replaces it, or umount -l {}", root.display());
    match looked {
        Looked::Hung => {
            let abort = connection.map_or(unmount, |number| {
                format!("kill the daemon and echo 1 > /sys/fs/fuse/connections/{number}/abort")
            });
            Check::warn(NAME, format!("{} does not answer: its daemon hangs", root.display()), abort)
        }
        Looked::Answered(Err(error)) if errno_of(error) == Errno::ENOTCONN => {
            Check::warn(NAME, format!("{} was left by a daemon that died", root.display()), unmount)
        }
        Looked::Answered(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            Check::ok(NAME, format!("{} does not exist yet; umdevd makes it", root.display()))
        }
        Looked::Answered(Err(error)) => {
            Check::warn(NAME, format!("{}: {}", root.display(), describe(errno_of(error))), "choose another --root")
        }
        Looked::Answered(Ok(())) if connection.is_some() => Check::ok(NAME, format!("{} is served", root.display())),
        Looked::Answered(Ok(())) => Check::ok(NAME, format!("nothing is mounted on {}", root.display())),
    }
}

/// The number of the FUSE connection mounted on the root, read without touching the mount.
fn fuse_connection(root: &Path) -> Option<u32> {
    connection_in(&fs::read_to_string("/proc/self/mountinfo").ok()?, root)
}

/// Fields as in proc_pid_mountinfo(5): the third is major:minor, the fifth the mount point, the first after the dash the type.
fn connection_in(mountinfo: &str, root: &Path) -> Option<u32> {
    let last = mountinfo.lines().rev().find(|line| line.split(' ').nth(4).is_some_and(|at| unescape(at) == root))?;
    let (fields, filesystem) = last.split_once(" - ")?;
    if !filesystem.starts_with("fuse") {
        return None;
    }
    fields.split(' ').nth(2)?.split_once(':')?.1.parse().ok()
}

/// The kernel writes blanks in paths as octal escapes.
fn unescape(path: &str) -> std::path::PathBuf {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\").into()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use nix::errno::Errno;

    use super::super::Status;
    use super::{Looked, connection_in, hello, mount};
    use crate::socket::Hello;

    const MOUNTS: &str = "\
24 1 0:21 / /run rw shared:1 - tmpfs tmpfs rw
40 24 0:57 / /run/umdev rw,nosuid,nodev,noexec - fuse.umdev umdev rw,user_id=0
41 24 0:58 / /run/my\\040root rw - fuse umdev rw
42 24 0:59 / /run/other rw - ext4 /dev/sda rw
";

    fn answered(errno: Errno) -> Looked {
        Looked::Answered(Err(io::Error::from_raw_os_error(errno as i32)))
    }

    #[test]
    fn the_connection_of_a_mount_is_found_by_its_path() {
        assert_eq!(connection_in(MOUNTS, Path::new("/run/umdev")), Some(57));
        assert_eq!(connection_in(MOUNTS, Path::new("/run/my root")), Some(58));
        assert_eq!(connection_in(MOUNTS, Path::new("/run/other")), None);
        assert_eq!(connection_in(MOUNTS, Path::new("/run/none")), None);
    }

    #[test]
    fn what_a_dead_daemon_left_is_told_apart_from_a_hung_one() {
        let dead = mount(&answered(Errno::ENOTCONN), Path::new("/r"), Some(57));
        assert_eq!((dead.status, dead.found.as_str()), (Status::Warn, "/r was left by a daemon that died"));
        let hung = mount(&Looked::Hung, Path::new("/r"), Some(57));
        assert_eq!(hung.remedy.as_deref(), Some("kill the daemon and echo 1 > /sys/fs/fuse/connections/57/abort"));
    }

    #[test]
    fn a_root_that_does_not_exist_yet_is_fine() {
        assert_eq!(mount(&answered(Errno::ENOENT), Path::new("/r"), None).status, Status::Ok);
    }

    #[test]
    fn another_version_of_the_daemon_is_a_warning() {
        let other = hello(Ok(Hello { version: "0.0.1".into(), pid: 7 }));
        assert_eq!(other.status, Status::Warn);
        assert!(other.found.starts_with("umdevd 0.0.1, pid 7; this is umdev "));
    }
}
