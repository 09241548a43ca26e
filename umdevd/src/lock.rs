//! One daemon a root.

use crate::DaemonError;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::path::Path;

/// The root is ours for as long as this is held.
pub(crate) struct RootLock {
    _file: Flock<File>,
}

/// Takes the lock of `root`, kept in its state directory.
pub(crate) fn take(root: &Path, state_dir: &Path) -> Result<RootLock, DaemonError> {
    let path = state_dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    // Of a disk that became read-only, the lock of the daemon before is as good.
    let file = file.or_else(|error| File::open(&path).map_err(|_| error));
    let file = file.map_err(DaemonError::path("open", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(RootLock { _file: file }),
        Err((_, Errno::EWOULDBLOCK)) => Err(DaemonError::AlreadyRunning { root: root.to_owned() }),
        Err((_, errno)) => Err(DaemonError::path("lock", path)(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(Path::new("/r"), dir.path()).unwrap();
        assert!(matches!(take(Path::new("/r"), dir.path()), Err(DaemonError::AlreadyRunning { .. })));
        drop(first);
        assert!(take(Path::new("/r"), dir.path()).is_ok());
    }
}
