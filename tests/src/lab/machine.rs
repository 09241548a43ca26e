//! One whole-system test at a time, and what this machine must have for it.

use super::{LabError, LabResult};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use std::fs::{File, OpenOptions};
use std::path::Path;

/// Held while a whole-system test runs.
#[must_use = "the machine is free again when this is dropped"]
#[derive(Debug)]
pub struct Claim {
    _lock: Flock<File>,
}

/// Waits until no other whole-system test runs. An error if this machine cannot run any.
pub fn claim() -> LabResult<Claim> {
    if !geteuid().is_root() {
        return Err(LabError::Missing(
            "this needs root: it mounts a FUSE tree, makes taps and network namespaces".into(),
        ));
    }
    for device in ["/dev/fuse", "/dev/net/tun"] {
        if !Path::new(device).exists() {
            return Err(LabError::Missing(format!("{device} is missing")));
        }
    }
    let path = Path::new("/run/umdev-lab.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(LabError::path("open", path))?;
    let lock =
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| LabError::path("lock", path)(errno.into()))?;
    Ok(Claim { _lock: lock })
}
