//! What one user may hold of what the whole daemon shares: mappings, address space, descriptors.
//!
//! Mappings are limited by `vm.max_map_count` and descriptors by RLIMIT_NOFILE, for the process as a whole: without
//! a share of each for every user, one client could starve all others.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

/// Limits for each user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Shared mappings. Above it memory is reached through the client.
    pub windows: usize,
    /// Bytes of address space in shared mappings.
    pub window_bytes: u64,
    /// Descriptors taken from clients and still held. Above it EMFILE.
    pub descriptors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { windows: 2048, window_bytes: 16 << 40, descriptors: 4096 }
    }
}

/// Shared mappings of all users together: half of what `vm.max_map_count` allows a process by default. The rest is for
/// our own, and for the pages that replace those a client takes away, each of which splits a mapping.
const ALL_WINDOWS: usize = 32_768;
/// Bytes of all users' shared mappings: half of a process's address space.
const ALL_WINDOW_BYTES: u64 = 64 << 40;

#[derive(Debug, Default)]
struct Usage {
    windows: usize,
    bytes: u64,
}

/// The books.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    limits: Limits,
    windows: Mutex<HashMap<u32, Usage>>,
    descriptors: Mutex<HashMap<RawFd, Grabbed>>,
}

#[derive(Debug)]
struct Grabbed {
    uid: u32,
    /// `(st_dev, st_ino, flags)`-like proof that the number still means the same kind of file.
    link: String,
}

/// A share of the mappings, given back when dropped.
#[derive(Debug)]
pub(crate) struct WindowShare {
    quotas: Arc<Quotas>,
    uid: u32,
    bytes: u64,
}

impl Quotas {
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Books a mapping of `bytes` for `uid`, or says that it has no more.
    pub fn window(self: &Arc<Self>, uid: u32, bytes: u64) -> Option<WindowShare> {
        let mut users = self.windows.lock();
        let (all_windows, all_bytes) =
            users.values().fold((0, 0u64), |(windows, held), usage| (windows + usage.windows, held + usage.bytes));
        let held = users.get(&uid).map_or(0, |usage| usage.windows);
        let total = users.get(&uid).map_or(0, |usage| usage.bytes).checked_add(bytes)?;
        let own_share_is_full = held >= self.limits.windows || total > self.limits.window_bytes;
        if own_share_is_full || all_windows >= ALL_WINDOWS || all_bytes.checked_add(bytes)? > ALL_WINDOW_BYTES {
            return None;
        }
        users.insert(uid, Usage { windows: held + 1, bytes: total });
        Some(WindowShare { quotas: self.clone(), uid, bytes })
    }

    pub fn windows(&self) -> usize {
        self.windows.lock().values().map(|usage| usage.windows).sum()
    }

    /// Whether `uid` may take one more descriptor.
    ///
    /// Who holds a descriptor closes it without telling us, so the books are checked against the descriptor table when
    /// a user seems to be at its limit.
    pub fn may_grab(&self, uid: u32) -> Result<(), Errno> {
        let mut grabbed = self.descriptors.lock();
        let held = |grabbed: &HashMap<RawFd, Grabbed>| grabbed.values().filter(|g| g.uid == uid).count();
        if grabbed.len() >= self.limits.descriptors && held(&grabbed) >= self.limits.descriptors {
            prune(&mut grabbed);
            if held(&grabbed) >= self.limits.descriptors {
                return Err(Errno::EMFILE);
            }
        }
        Ok(())
    }

    /// Books a descriptor that was taken from a client of `uid`.
    pub fn grabbed(&self, uid: u32, fd: BorrowedFd<'_>) {
        let Some(link) = link(fd.as_raw_fd()) else { return };
        self.descriptors.lock().insert(fd.as_raw_fd(), Grabbed { uid, link });
    }

    pub fn descriptors(&self) -> usize {
        let mut grabbed = self.descriptors.lock();
        prune(&mut grabbed);
        grabbed.len()
    }
}

fn prune(grabbed: &mut HashMap<RawFd, Grabbed>) {
    grabbed.retain(|fd, entry| link(*fd).as_deref() == Some(&entry.link));
}

fn link(fd: RawFd) -> Option<String> {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).ok().map(|path| path.to_string_lossy().into_owned())
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        let mut users = self.quotas.windows.lock();
        if let Some(usage) = users.get_mut(&self.uid) {
            usage.windows -= 1;
            usage.bytes -= self.bytes;
            if usage.windows == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

/// Whether `fd` was opened with `O_PATH`.
pub(crate) fn is_path_only(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let flags = nix::fcntl::fcntl(fd, FcntlArg::F_GETFL)?;
    Ok(OFlag::from_bits_retain(flags).contains(OFlag::O_PATH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn u2_many_users_together_leave_the_process_room_for_itself() {
        let quotas = Arc::new(Quotas::new(Limits { windows: 1024, ..Limits::default() }));
        let shares: Vec<u32> = (0..64 * 1024).map(|number| number / 1024).collect();
        let held: Vec<_> = shares.into_iter().filter_map(|uid| quotas.window(uid, 4096)).collect();
        assert_eq!(held.len(), ALL_WINDOWS);
        drop(held);
        assert!(quotas.window(63, 4096).is_some());
        assert_eq!(quotas.windows.lock().len(), 0, "nobody who holds nothing is kept");
    }

    #[test]
    fn u2_one_user_at_its_limit_leaves_others_theirs() {
        let quotas = Arc::new(Quotas::new(Limits { windows: 2, window_bytes: 100, descriptors: 2 }));
        let first = quotas.window(1, 60).unwrap();
        assert!(quotas.window(1, 60).is_none(), "above the bytes");
        let second = quotas.window(1, 40).unwrap();
        assert!(quotas.window(1, 0).is_none(), "above the count");
        assert!(quotas.window(2, 100).is_some());
        drop((first, second));
        assert!(quotas.window(1, 100).is_some());
        assert!(quotas.window(1, u64::MAX).is_none());
        assert_eq!(quotas.windows(), 0);
    }

    #[test]
    fn u2_closed_descriptors_no_longer_count() {
        let quotas = Quotas::new(Limits { descriptors: 2, ..Limits::default() });
        let (reader, writer) = nix::unistd::pipe().unwrap();
        for fd in [&reader, &writer] {
            quotas.may_grab(7).unwrap();
            quotas.grabbed(7, fd.as_fd());
        }
        assert_eq!(quotas.may_grab(7), Err(Errno::EMFILE));
        quotas.may_grab(8).unwrap();
        drop(writer);
        quotas.may_grab(7).unwrap();
        assert_eq!(quotas.descriptors(), 1);
    }
}
