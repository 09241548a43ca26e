//! Who we are: privileges, and whether clients can be seen from here.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use super::{Check, sys};
use crate::error::{describe, errno_of};

/// The inode number of the first pid namespace (PROC_PID_INIT_INO of linux/proc_ns.h), the host's.
const HOST_PID_NAMESPACE: u64 = 0xefff_fffc;

pub(super) fn checks() -> [Check; 6] {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    [
        admin(held),
        ptrace(held),
        yama(fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok().as_deref(), held),
        map_files(open_own_map_file()),
        pid_namespace(fs::metadata("/proc/self/ns/pid").map(|metadata| metadata.ino())),
        kcmp(sys::same_address_space(own_pid(), own_pid())),
    ]
}

pub(super) fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

fn admin(held: CapabilitySet) -> Check {
    if held.contains(CapabilitySet::SYS_ADMIN) {
        Check::ok("privileges", "CAP_SYS_ADMIN").required()
    } else {
        Check::missing("privileges", "no CAP_SYS_ADMIN: cannot mount for other users", "run as root").required()
    }
}

fn ptrace(held: CapabilitySet) -> Check {
    if held.contains(CapabilitySet::SYS_PTRACE) {
        Check::ok("CAP_SYS_PTRACE", "held")
    } else {
        Check::warn("CAP_SYS_PTRACE", "not held: clients of other users cannot be served", "grant CAP_SYS_PTRACE")
    }
}

/// The scopes of Documentation/admin-guide/LSM/Yama.rst.
fn yama(scope: Option<&str>, held: CapabilitySet) -> Check {
    const NAME: &str = "yama ptrace_scope";
    match scope.map(str::trim) {
        None => Check::ok(NAME, "no Yama").required(),
        Some("0") => Check::ok(NAME, "0").required(),
        Some("3") => Check::missing(
            NAME,
            "3: no process may reach into another, whatever its capabilities",
            "boot with kernel.yama.ptrace_scope below 3; it cannot be lowered",
        )
        .required(),
        Some(scope) if held.contains(CapabilitySet::SYS_PTRACE) => {
            Check::ok(NAME, format!("{scope}, overridden by CAP_SYS_PTRACE")).required()
        }
        Some(scope) => Check::missing(
            NAME,
            format!("{scope} and no CAP_SYS_PTRACE: no client can be reached"),
            "grant CAP_SYS_PTRACE, or sysctl -w kernel.yama.ptrace_scope=0",
        )
        .required(),
    }
}

fn map_files(opened: io::Result<()>) -> Check {
    const NAME: &str = "map_files";
    match opened {
        Ok(()) => Check::ok(NAME, "the files behind a client's memory can be opened"),
        Err(error) => Check::warn(
            NAME,
            format!("{}: client memory is reached through the client, which is slow", describe(errno_of(&error))),
            "grant CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in the host's user namespace",
        ),
    }
}

/// Opens the link of one file-backed mapping of our own, as umdevd does with those of a client.
fn open_own_map_file() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let range = maps
        .lines()
        .find(|line| line.split_ascii_whitespace().nth(5).is_some_and(|path| path.starts_with('/')))
        .and_then(|line| line.split_ascii_whitespace().next())
        .ok_or(Errno::ENOENT)?;
    let path = format!("/proc/self/map_files/{range}");
    OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).map(drop)
}

fn pid_namespace(inode: io::Result<u64>) -> Check {
    const NAME: &str = "pid namespace";
    match inode {
        Ok(HOST_PID_NAMESPACE) => Check::ok(NAME, "the host's: every client can be seen"),
        Ok(_) => Check::warn(
            NAME,
            "not the host's: a client outside it has no pid here and is refused with EPERM; those inside it and below are served",
            "run umdevd in the host's pid namespace (docker run --pid=host, hostPID: true)",
        ),
        Err(error) => Check::warn(NAME, format!("unknown: {}", describe(errno_of(&error))), "mount /proc"),
    }
}

fn kcmp(same: Result<bool, Errno>) -> Check {
    const NAME: &str = "kcmp";
    match same {
        Ok(true) => Check::ok(NAME, "address spaces can be told apart").required(),
        Ok(false) => {
            Check::missing(NAME, "says that a process is not itself", "use a kernel with a working kcmp").required()
        }
        Err(errno) => Check::missing(
            NAME,
            format!("{}: the owner of an instance cannot be recognised", describe(errno)),
            "use a kernel with CONFIG_KCMP, and a seccomp profile that allows kcmp",
        )
        .required(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::errno::Errno;
    use rustix::thread::CapabilitySet;

    use super::super::Status;
    use super::{HOST_PID_NAMESPACE, admin, kcmp, map_files, own_pid, pid_namespace, sys, yama};

    #[test]
    fn without_cap_sys_admin_umdevd_cannot_work() {
        assert!(admin(CapabilitySet::empty()).prevents());
        assert!(!admin(CapabilitySet::SYS_ADMIN).prevents());
    }

    #[test]
    fn yama_prevents_only_what_capabilities_do_not_override() {
        assert!(yama(Some("3\n"), CapabilitySet::SYS_PTRACE).prevents());
        assert!(yama(Some("1\n"), CapabilitySet::empty()).prevents());
        assert!(!yama(Some("2\n"), CapabilitySet::SYS_PTRACE).prevents());
        assert!(!yama(Some("0\n"), CapabilitySet::empty()).prevents());
        assert!(!yama(None, CapabilitySet::empty()).prevents());
    }

    #[test]
    fn another_pid_namespace_is_a_warning_with_a_way_out() {
        let check = pid_namespace(Ok(4_026_532_000));
        assert_eq!(check.status, Status::Warn);
        assert!(check.remedy.is_some_and(|remedy| remedy.contains("--pid=host")));
        assert_eq!(pid_namespace(Ok(HOST_PID_NAMESPACE)).status, Status::Ok);
    }

    #[test]
    fn map_files_out_of_reach_is_slow_not_fatal() {
        let check = map_files(Err(io::Error::from_raw_os_error(Errno::EPERM as i32)));
        assert_eq!(check.status, Status::Warn);
        assert!(!check.prevents());
    }

    #[test]
    fn kcmp_is_required() {
        assert!(kcmp(Err(Errno::ENOSYS)).prevents());
        assert!(!kcmp(Ok(true)).prevents());
    }

    #[test]
    fn kcmp_tells_address_spaces_apart_when_the_kernel_has_it() {
        let child = std::process::Command::new("sleep").arg("60").spawn();
        let Ok(mut child) = child else { panic!("sleep does not start") };
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let (own, other) = (sys::same_address_space(own_pid(), own_pid()), sys::same_address_space(own_pid(), pid));
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!((own, other), (Ok(true), Ok(false)));
    }
}
