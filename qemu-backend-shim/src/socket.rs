//! The vhost-user socket's place in the file system.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A bound socket, whose file goes when it is dropped.
#[derive(Debug)]
pub struct ListeningSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Which file we made: a successor may have put its own in this place.
    inode: u64,
}

impl ListeningSocket {
    /// Binds `path`. A socket file that nobody listens on, left by a process that was killed, is replaced; anything else there is an error.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            if UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"));
            }
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        Ok(Self { listener, path: path.into(), inode: fs::symlink_metadata(path)?.ino() })
    }

    /// The socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for ListeningSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // the process is about to end: there is nobody left to tell
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = ListeningSocket::bind(&path).unwrap();
        assert_eq!(ListeningSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(ListeningSocket::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_successors_socket_survives_our_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let ours = ListeningSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = fs::File::create(dir.path().join("keeps the inode busy"));
        let _successor = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }
}
