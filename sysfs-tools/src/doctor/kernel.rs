//! What the kernel offers, found by trying it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut, Read};
use std::os::fd::AsFd;

use flate2::read::GzDecoder;
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::getpid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{Check, sys};
use crate::error::{describe, errno_of};

/// The oldest release that umdevd is made for.
const OLDEST: (u32, u32) = (6, 1);

pub(super) fn checks() -> [Check; 7] {
    let release =
        nix::sys::utsname::uname().map(|uts| uts.release().to_string_lossy().into_owned()).unwrap_or_default();
    [
        version(&release),
        pidfd_thread(try_pidfd_thread()),
        grab(try_grab()),
        caller_memory(try_caller_memory()),
        passthrough(try_passthrough(), config(&release).as_deref()),
        procmap_query(try_procmap_query()),
        userfaultfd(sys::userfaultfd()),
    ]
}

fn version(release: &str) -> Check {
    const NAME: &str = "kernel";
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Check::ok(NAME, release),
        _ => Check::warn(NAME, format!("{release}: older than any it was tried on"), "use Linux 6.1 or newer"),
    }
}

fn pidfd_thread(tried: Result<(), Errno>) -> Check {
    const NAME: &str = "PIDFD_THREAD";
    match tried {
        Ok(()) => Check::ok(NAME, "any thread of a client can be named"),
        Err(errno) => Check::warn(
            NAME,
            format!("{}: the leader of the client's threads stands for them", describe(errno)),
            "use Linux 6.9 or newer",
        ),
    }
}

fn try_pidfd_thread() -> Result<(), Errno> {
    // PIDFD_THREAD of linux/pidfd.h is O_EXCL; a kernel that lacks it refuses the flag whatever the pid.
    let thread = PidfdFlags::from_bits_retain(libc::O_EXCL.unsigned_abs());
    pidfd_open(rustix::process::getpid(), thread).map(drop).map_err(to_nix)
}

fn grab(tried: Result<(), Errno>) -> Check {
    const NAME: &str = "pidfd_getfd";
    match tried {
        Ok(()) => Check::ok(NAME, "a client's eventfds can be taken").required(),
        Err(errno) => Check::missing(
            NAME,
            format!("{}: a client's eventfds cannot be taken", describe(errno)),
            "allow pidfd_open and pidfd_getfd in the seccomp profile, grant CAP_SYS_PTRACE",
        )
        .required(),
    }
}

fn try_grab() -> Result<(), Errno> {
    let pidfd = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map_err(to_nix)?;
    // The pidfd itself is a descriptor that is certainly there.
    pidfd_getfd(&pidfd, std::os::fd::AsRawFd::as_raw_fd(&pidfd), PidfdGetfdFlags::empty()).map(drop).map_err(to_nix)
}

fn caller_memory(tried: Result<(), Errno>) -> Check {
    const NAME: &str = "process_vm_readv";
    match tried {
        Ok(()) => Check::ok(NAME, "a client's arguments can be read").required(),
        Err(errno) => Check::missing(
            NAME,
            format!("{}: a client's arguments cannot be read", describe(errno)),
            "allow process_vm_readv and process_vm_writev in the seccomp profile, grant CAP_SYS_PTRACE",
        )
        .required(),
    }
}

fn try_caller_memory() -> Result<(), Errno> {
    let there = *b"umdev";
    let mut here = [0; 5];
    let remote = RemoteIoVec { base: there.as_ptr().addr(), len: there.len() };
    process_vm_readv(getpid(), &mut [IoSliceMut::new(&mut here)], &[remote])?;
    if here == there { Ok(()) } else { Err(Errno::EIO) }
}

/// `tried` is what the ioctl on an unmounted `/dev/fuse` answered.
fn passthrough(tried: Result<(), Errno>, config: Option<&str>) -> Check {
    const NAME: &str = "FUSE passthrough";
    let lacking = |found: &str, remedy: &str| {
        Check::warn(NAME, format!("{found}: no doorbell pages, queues are kicked by eventfds alone"), remedy)
    };
    let built_in = config.map(|config| config.lines().any(|line| line.trim() == "CONFIG_FUSE_PASSTHROUGH=y"));
    match (tried, built_in) {
        // EPERM: it is known, and only wants a mount, which this descriptor has not.
        (Ok(()) | Err(Errno::EPERM), Some(true)) => Check::ok(NAME, "doorbell pages can be mapped"),
        (Ok(()) | Err(Errno::EPERM), None) => {
            Check::ok(NAME, "known to the kernel (whether it is built in could not be read)")
        }
        (Ok(()) | Err(Errno::EPERM), Some(false)) | (Err(Errno::EOPNOTSUPP), _) => {
            lacking("built without CONFIG_FUSE_PASSTHROUGH", "use a kernel with CONFIG_FUSE_PASSTHROUGH=y")
        }
        (Err(Errno::ENOTTY), _) => lacking("not known to the kernel", "use Linux 6.9 or newer"),
        (Err(errno), _) => lacking(&describe(errno), "see /dev/fuse"),
    }
}

fn try_passthrough() -> Result<(), Errno> {
    let dev_fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|error| errno_of(&error))?;
    sys::fuse_backing_open(dev_fuse.as_fd())
}

/// How the running kernel was built, where it tells.
fn config(release: &str) -> Option<String> {
    let unpack = || -> io::Result<String> {
        let mut text = String::new();
        GzDecoder::new(File::open("/proc/config.gz")?).read_to_string(&mut text)?;
        Ok(text)
    };
    unpack().or_else(|_| fs::read_to_string(format!("/boot/config-{release}"))).ok()
}

fn procmap_query(tried: Result<(), Errno>) -> Check {
    const NAME: &str = "PROCMAP_QUERY";
    match tried {
        Ok(()) => Check::ok(NAME, "one mapping of a client can be asked for"),
        Err(errno) => Check::warn(
            NAME,
            format!("{}: all mappings of a client are read to find one", describe(errno)),
            "use Linux 6.11 or newer",
        ),
    }
}

fn try_procmap_query() -> Result<(), Errno> {
    let maps = File::open("/proc/self/maps").map_err(|error| errno_of(&error))?;
    sys::first_mapping(maps.as_fd())
}

fn userfaultfd(tried: Result<(), Errno>) -> Check {
    const NAME: &str = "userfaultfd";
    match tried {
        Ok(()) => Check::ok(NAME, "usable"),
        Err(errno) => Check::missing(
            NAME,
            format!("{}: only post-copy migration would use it", describe(errno)),
            "use a kernel with CONFIG_USERFAULTFD; grant CAP_SYS_PTRACE or sysctl -w vm.unprivileged_userfaultfd=1",
        ),
    }
}

fn to_nix(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::super::Status;
    use super::{passthrough, pidfd_thread, try_caller_memory, try_grab, version};

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.10.3-cloud-amd64").status, Status::Ok);
        assert_eq!(version("6.1.0").status, Status::Ok);
        assert_eq!(version("5.19.17").status, Status::Warn);
        assert_eq!(version("").status, Status::Warn);
    }

    #[test]
    fn passthrough_is_told_from_the_ioctl_and_the_configuration() {
        let on = Some("CONFIG_FUSE_FS=y\nCONFIG_FUSE_PASSTHROUGH=y\n");
        let off = Some("# CONFIG_FUSE_PASSTHROUGH is not set\n");
        let cases = [
            (Err(Errno::EPERM), on, Status::Ok),
            (Err(Errno::EPERM), None, Status::Ok),
            (Err(Errno::EPERM), off, Status::Warn),
            (Err(Errno::ENOTTY), on, Status::Warn),
            (Err(Errno::EOPNOTSUPP), None, Status::Warn),
            (Err(Errno::ENOENT), on, Status::Warn),
        ];
        for (tried, config, expected) in cases {
            assert_eq!(passthrough(tried, config).status, expected, "{tried:?} {config:?}");
        }
    }

    #[test]
    fn an_old_kernel_is_served_by_the_leaders_pidfd() {
        let check = pidfd_thread(Err(Errno::EINVAL));
        assert_eq!(check.status, Status::Warn);
        assert!(!check.prevents());
    }

    #[test]
    fn a_process_reaches_its_own_memory_and_descriptors() {
        assert_eq!(try_caller_memory(), Ok(()));
        assert_eq!(try_grab(), Ok(()));
    }
}
