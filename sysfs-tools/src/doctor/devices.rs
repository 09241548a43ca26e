//! The device nodes umdevd opens, opened here.

use std::fs::OpenOptions;
use std::path::Path;

use nix::errno::Errno;

use super::Check;
use crate::error::{describe, errno_of};

pub(super) fn checks() -> [Check; 4] {
    [
        node("/dev/fuse", "the tree cannot be served", "modprobe fuse; in a container, hand /dev/fuse in").required(),
        node("/dev/net/tun", "no tap parents", "modprobe tun; in a container, hand /dev/net/tun in"),
        node("/dev/cuse", "no character device nodes, only files", "modprobe cuse (CONFIG_CUSE)"),
        node(
            "/dev/vduse/control",
            "no kernel virtio devices",
            "modprobe vduse (CONFIG_VDPA_USER, in Debian from Linux 6.12)",
        ),
    ]
}

/// Opens the node and closes it at once; none of these does anything before it is asked to.
fn node(path: &'static str, without: &str, absent: &str) -> Check {
    let opened = OpenOptions::new().read(true).write(true).open(Path::new(path));
    match opened.map_err(|error| errno_of(&error)) {
        Ok(_) => Check::ok(path, "can be opened"),
        // Somebody else has it; it is there.
        Err(Errno::EBUSY) => Check::ok(path, "in use"),
        Err(errno) => {
            let remedy = if matches!(errno, Errno::EACCES | Errno::EPERM) {
                "run as root, or allow the device in the container's policy"
            } else {
                absent
            };
            Check::missing(path, format!("{}: {without}", describe(errno)), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::node;

    #[test]
    fn a_node_that_is_not_there_is_missing_with_the_way_out() {
        let check = node("/dev/no such node", "nothing works", "modprobe it").required();
        assert_eq!(check.status, Status::Missing);
        assert!(check.prevents());
        assert_eq!(check.found, "No such file or directory (ENOENT): nothing works");
        assert_eq!(check.remedy.as_deref(), Some("modprobe it"));
    }

    #[test]
    fn a_node_that_opens_is_ok() {
        assert_eq!(node("/dev/null", "", "").status, Status::Ok);
    }
}
