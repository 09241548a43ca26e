//! Structures and numbers of `linux/fuse.h`, protocol 7.31 to 7.45.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol version spoken.
pub(crate) const MAJOR: u32 = 7;
/// The newest minor whose structures are used here.
pub(crate) const MINOR: u32 = 40;

/// Largest read, write and reply payload.
pub(crate) const MAX_WRITE: u32 = 128 * 1024;

pub(crate) mod op {
    //! Opcodes.
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const POLL: u32 = 40;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const RENAME2: u32 = 45;
}

pub(crate) mod init {
    //! INIT flags. Not asked for: FUSE_ASYNC_DIO (a caller could leave before its reply), FUSE_DIRECT_IO_ALLOW_MMAP
    //! (an mmap is no request, the server would not be asked).
    pub const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub const BIG_WRITES: u32 = 1 << 5;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    /// There are more flags, in `flags2`.
    pub const INIT_EXT: u32 = 1 << 30;
    /// Of `flags2` (Linux 6.9): an open file can have a backing.
    pub const PASSTHROUGH: u32 = 1 << 5;
}

pub(crate) mod fopen {
    //! Flags of an answer to OPEN. A kernel that does not know one ignores it.
    pub const DIRECT_IO: u32 = 1 << 0;
    /// No position: neither `lseek` nor `pread`, and no lock among those who read and write.
    pub const STREAM: u32 = 1 << 4;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    /// The file has a backing. Beside `DIRECT_IO` it is what `mmap` maps, and nothing else; `STREAM` does not go with it.
    pub const PASSTHROUGH: u32 = 1 << 7;
}

pub(crate) mod setattr {
    //! Which fields of a SETATTR are valid.
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const MTIME: u32 = 1 << 5;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// `FUSE_POLL_SCHEDULE_NOTIFY`: somebody waits.
pub(crate) const POLL_SCHEDULE_NOTIFY: u32 = 1;
/// `FUSE_NOTIFY_POLL`.
pub(crate) const NOTIFY_POLL: i32 = 1;
/// `FUSE_IOCTL_DIR`: the file is a directory.
pub(crate) const IOCTL_DIR: u32 = 1 << 4;
/// `FUSE_WRITE_CACHE`: written back from the page cache, by nobody in particular.
pub(crate) const WRITE_CACHE: u32 = 1;

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, Default)]
        #[repr(C)]
        pub(crate) struct $name { $(pub $field: $type),* }
    )*};
}

wire! {
    InHeader { len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, extlen: u16, padding: u16 }
    OutHeader { len: u32, error: i32, unique: u64 }
    /// The part of INIT that every kernel sends.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    /// What follows it where `INIT_EXT` is among the flags.
    InitInExt { flags2: u32, unused: [u32; 11] }
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16,
        max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32,
        unused: [u32; 6],
    }
    Attr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32,
        ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32,
        attr: Attr,
    }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr }
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    OpenIn { flags: u32, open_flags: u32 }
    /// The argument of `FUSE_DEV_IOC_BACKING_OPEN`.
    BackingMap { fd: i32, flags: u32, padding: u64 }
    OpenOut { fh: u64, open_flags: u32, backing_id: i32 }
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    WriteOut { size: u32, padding: u32 }
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    InterruptIn { unique: u64 }
    PollIn { fh: u64, kh: u64, flags: u32, events: u32 }
    PollOut { revents: u32, padding: u32 }
    NotifyPollWakeupOut { kh: u64 }
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
        padding: u32, spare: [u32; 6],
    }
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_linux_fuse_h() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!(size_of::<OutHeader>(), 16);
        assert_eq!(size_of::<InitIn>() + size_of::<InitInExt>(), 64);
        assert_eq!(size_of::<InitOut>(), 64);
        assert_eq!(std::mem::offset_of!(InitOut, flags2), 32);
        assert_eq!(std::mem::offset_of!(InitOut, max_stack_depth), 36);
        assert_eq!(size_of::<OpenOut>(), 16);
        assert_eq!(size_of::<BackingMap>(), 16);
        assert_eq!(size_of::<Attr>(), 88);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<SetattrIn>(), 88);
        assert_eq!(size_of::<ReadIn>(), 40);
        assert_eq!(size_of::<WriteIn>(), 40);
        assert_eq!(size_of::<IoctlIn>(), 32);
        assert_eq!(size_of::<PollIn>(), 24);
        assert_eq!(size_of::<StatfsOut>(), 80);
        assert_eq!(size_of::<Dirent>(), 24);
    }
}
