//! What `umdev exec` needs.

use nix::errno::Errno;

use super::Check;
use crate::error::describe;
use crate::exec::probe::{self, NameSpace};

pub(super) fn checks() -> [Check; 2] {
    [listener(probe::can_give_descriptors()), name_space(probe::name_space())]
}

fn listener(tried: Result<bool, Errno>) -> Check {
    const NAME: &str = "seccomp listener";
    match tried {
        Ok(true) => Check::ok(NAME, "umdev exec can answer a program's calls with descriptors"),
        Ok(false) => Check::missing(NAME, "no SECCOMP_ADDFD_FLAG_SEND: no umdev exec", "use Linux 5.14 or newer"),
        Err(Errno::EBUSY) => Check::warn(
            NAME,
            "somebody supervises this process already: no umdev exec",
            "run umdev exec outside of it (another umdev exec, or a container whose manager has a seccomp listener)",
        ),
        Err(errno) => Check::missing(
            NAME,
            format!("{}: no umdev exec", describe(errno)),
            "use a kernel with CONFIG_SECCOMP_FILTER; allow seccomp(2) in the container's profile",
        ),
    }
}

fn name_space(tried: Result<NameSpace, Errno>) -> Check {
    const NAME: &str = "mount name space";
    match tried {
        Ok(NameSpace::Own) => Check::ok(NAME, "umdev exec can make one"),
        Ok(NameSpace::OfAUser) => Check::ok(NAME, "umdev exec can make one, within a user name space"),
        Err(errno) => Check::missing(
            NAME,
            format!("{}: no umdev exec", describe(errno)),
            "run as root, or allow user name spaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::super::Status;
    use super::{listener, name_space};
    use crate::exec::probe;

    #[test]
    fn what_exec_lacks_prevents_nothing_else() {
        let lacking = [listener(Ok(false)), listener(Err(Errno::ENOSYS)), name_space(Err(Errno::ENOSPC))];
        assert!(lacking.iter().all(|check| check.status == Status::Missing && !check.prevents()));
        assert_eq!(listener(Err(Errno::EBUSY)).status, Status::Warn);
    }

    #[test]
    fn trying_leaves_nothing() {
        let found = (probe::can_give_descriptors(), probe::name_space());
        assert!(found.0.is_ok() && found.1.is_ok(), "{found:?}");
        assert_eq!(found, (probe::can_give_descriptors(), probe::name_space()));
        assert_eq!(rustix::thread::no_new_privs(), Ok(false));
    }
}
