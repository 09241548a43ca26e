//! A directory of the program's own that shows what is in two others.

use super::mounts::{self, to_nix};
use nix::errno::Errno;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The directory. Its entries are mounts of the others' entries, and copies of their links.
#[derive(Debug)]
pub struct Merged {
    at: PathBuf,
    /// What it covers.
    real: OwnedFd,
    shown: BTreeMap<PathBuf, Entry>,
}

/// Something that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Ours, or really there.
    is_ours: bool,
    what: Identity,
}

/// What an entry is; one that was made anew is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    kind: FileType,
}

impl Identity {
    /// Of what is at `name` in `directory`, itself if it is a link.
    pub fn of(directory: BorrowedFd<'_>, name: &Path) -> Result<Self, Errno> {
        let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT).map_err(to_nix)?;
        Ok(Self { device: found.st_dev, inode: found.st_ino, kind: FileType::from_raw_mode(found.st_mode) })
    }

    pub fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }
}

impl Merged {
    /// Covers the directory `at`. Nothing is shown there before [`follow`](Self::follow).
    pub fn new(at: &Path) -> Result<Self, Errno> {
        Ok(Self { at: at.to_owned(), real: mounts::cover(at)?, shown: BTreeMap::new() })
    }

    /// Where it is.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// What it covers.
    pub fn real(&self) -> &OwnedFd {
        &self.real
    }

    /// Shows what there is now: `names` of the directory `ours`, and of the real one all others.
    ///
    /// What cannot be shown, because it went meanwhile or may not be mounted, is left out.
    pub fn follow(&mut self, ours: &Path, names: BTreeSet<PathBuf>) -> Result<(), Errno> {
        let ours = open_directory(ours)?;
        let real = list(self.real.as_fd())?.into_iter().filter(|name| !names.contains(name));
        let mut wanted: BTreeMap<PathBuf, Entry> = real.filter_map(|name| entry(&self.real, false, name)).collect();
        wanted.extend(names.into_iter().filter_map(|name| entry(&ours, true, name)));
        self.shown.retain(|name, entry| {
            let stays = wanted.get(name) == Some(entry);
            if !stays {
                take_away(&self.at.join(name), entry.what);
            }
            stays
        });
        for (name, entry) in wanted {
            let from = if entry.is_ours { ours.as_fd() } else { self.real.as_fd() };
            if !self.shown.contains_key(&name) && put(from, &name, entry.what, &self.at.join(&name)).is_ok() {
                self.shown.insert(name, entry);
            }
        }
        Ok(())
    }
}

fn entry(directory: &OwnedFd, is_ours: bool, name: PathBuf) -> Option<(PathBuf, Entry)> {
    let what = Identity::of(directory.as_fd(), &name).ok()?;
    Some((name, Entry { is_ours, what }))
}

fn put(from: BorrowedFd<'_>, name: &Path, what: Identity, at: &Path) -> Result<(), Errno> {
    let failed = |error: std::io::Error| crate::error::errno_of(&error);
    if what.kind == FileType::Symlink {
        let leads_to = readlinkat(from, name, Vec::new()).map_err(to_nix)?;
        return std::os::unix::fs::symlink(OsStr::from_bytes(leads_to.as_bytes()), at).map_err(failed);
    }
    let copied = mounts::copy(from, name)?;
    if what.is_directory() { fs::create_dir(at) } else { File::create_new(at).map(drop) }.map_err(failed)?;
    mounts::show(&copied, at).inspect_err(|_| remove(at, what))
}

fn take_away(at: &Path, what: Identity) {
    if what.kind != FileType::Symlink {
        // All that is there: a place below may have been made ours on top of it.
        while mounts::hide(at).is_ok() {}
    }
    remove(at, what);
}

/// What stays is an empty file or directory, and in nobody's way.
fn remove(at: &Path, what: Identity) {
    let _ = if what.is_directory() { fs::remove_dir(at) } else { fs::remove_file(at) };
}

/// A directory to look into.
pub fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(to_nix)
}

/// The names in a directory.
pub fn list(directory: BorrowedFd<'_>) -> Result<Vec<PathBuf>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(to_nix)? {
        let entry = entry.map_err(to_nix)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(PathBuf::from(OsStr::from_bytes(name)));
        }
    }
    Ok(names)
}
