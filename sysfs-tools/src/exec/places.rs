//! Where the tree is shown: at the kernel's own paths, beside what is really there.
//!
//! Nothing can be made in sysfs, and what is made in /dev is everybody's. So a directory that lacks a name of ours is covered by one of the program's
//! own, which shows each entry of the real one by a mount, and ours beside them. A directory that has nothing but names of ours, or does not exist, is
//! ours as a whole, and so an instance made later is in it at once. In the others entries come and go with [`Places::follow`].
//!
//! An overlay would be one mount; but a file opened through it takes no ioctl, cannot be polled, and is not written.

use super::ExecError;
use super::merged::{Identity, Merged, list, open_directory};
use super::mounts;
use nix::errno::Errno;
use rustix::fs::CWD;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Tops of the tree that are shown.
const TOPS: [&str; 2] = ["dev", "sys"];

/// Where there are two, the kernel's is shown: ours is for those who name it.
const KERNELS_OWN: &str = "/dev/vhost-net";

/// All places.
#[derive(Debug)]
pub struct Places {
    root: PathBuf,
    /// Directories that are ours.
    wholes: Vec<PathBuf>,
    merged: Vec<Merged>,
}

impl Places {
    /// Shows the tree at `root` to whoever is in this name space of mounts.
    pub fn show(root: &Path) -> Result<Self, ExecError> {
        let mut places = Self { root: root.to_owned(), wholes: Vec::new(), merged: Vec::new() };
        for top in TOPS {
            let at = Path::new("/").join(top);
            places.descend(&at).map_err(|errno| ExecError::Place { at, errno })?;
        }
        Ok(places)
    }

    /// The real directories of which entries are shown, and where.
    pub fn merged(&self) -> &[Merged] {
        &self.merged
    }

    /// Shows what there is now. Where a new daemon serves the tree, all that was of the old one is replaced.
    ///
    /// # Errors
    /// ENOTCONN and the like while no daemon serves the tree; what is shown stays.
    pub fn follow(&mut self) -> Result<(), Errno> {
        open_directory(&self.root.join(TOPS[0]))?;
        for merged in &mut self.merged {
            let ours = ours(&self.root, merged.at());
            let names = our_names(merged.at(), &ours, merged.real().as_fd())?;
            // Names that both have as directories are places of their own.
            let names = names.into_iter().filter(|name| !is_in_both(merged, &ours, name)).collect();
            merged.follow(&ours, names)?;
        }
        for at in &self.wholes {
            let ours = ours(&self.root, at);
            // Of a former daemon, or made anew by the kernel: then it is covered again.
            if Identity::of(CWD, at).is_ok_and(|there| Identity::of(CWD, &ours) == Ok(there)) {
                continue;
            }
            let copied = mounts::copy(CWD, &ours)?;
            let _ = mounts::hide(at);
            match mounts::show(&copied, at) {
                // What was covered is gone, and so the place is one of those above.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Shows a directory of ours over a real one of the same name.
    fn descend(&mut self, at: &Path) -> Result<(), Errno> {
        let ours = ours(&self.root, at);
        let real = open_directory(at)?;
        let names = our_names(at, &ours, real.as_fd())?;
        if is_covered(at, &ours) {
            mounts::show(&mounts::copy(CWD, &ours)?, at)?;
            self.wholes.push(at.to_owned());
            return Ok(());
        }
        let both = |name: &&PathBuf| is_directory(&at.join(name)) && is_directory(&ours.join(name));
        let below: Vec<PathBuf> = names.iter().filter(both).map(|name| at.join(name)).collect();
        if below.len() < names.len() {
            let mut merged = Merged::new(at)?;
            let alone = names.into_iter().filter(|name| !below.contains(&at.join(name))).collect();
            merged.follow(&ours, alone)?;
            self.merged.push(merged);
        }
        below.iter().try_for_each(|at| self.descend(at))
    }
}

/// Of the tree what is shown at `at`.
fn ours(root: &Path, at: &Path) -> PathBuf {
    root.join(at.strip_prefix("/").unwrap_or(at))
}

/// What the tree has for `at`, without what stays the kernel's.
fn our_names(at: &Path, ours: &Path, real: std::os::fd::BorrowedFd<'_>) -> Result<Vec<PathBuf>, Errno> {
    let kept = |name: &PathBuf| at.join(name) == Path::new(KERNELS_OWN) && Identity::of(real, name).is_ok();
    Ok(list(open_directory(ours)?.as_fd())?.into_iter().filter(|name| !kept(name)).collect())
}

/// Whether the real directory has nothing but what ours has too.
fn is_covered(at: &Path, ours: &Path) -> bool {
    let names = open_directory(at).and_then(|real| list(real.as_fd()));
    names.is_ok_and(|names| {
        names.iter().all(|name| {
            let (real, ours) = (at.join(name), ours.join(name));
            if is_directory(&real) {
                is_directory(&ours) && is_covered(&real, &ours)
            } else {
                ours.symlink_metadata().is_ok()
            }
        })
    })
}

fn is_in_both(merged: &Merged, ours: &Path, name: &Path) -> bool {
    Identity::of(merged.real().as_fd(), name).is_ok_and(|what| what.is_directory()) && is_directory(&ours.join(name))
}

/// A link to a directory is none.
fn is_directory(path: &Path) -> bool {
    Identity::of(CWD, path).is_ok_and(|what| what.is_directory())
}
