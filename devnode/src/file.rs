//! What the files of a tree do: the traits their owners implement.
//!
//! All methods run on executor threads, never on the thread that reads `/dev/fuse`, and may block for a bounded time.

use crate::{Caller, PollEvents, Releases, WaitQueue};
use nix::errno::Errno;
use std::any::Any;
use std::fs::File;
use std::sync::Arc;
use virtio_mdev_api::Refusal;

/// An attribute: a small text file with the behaviour of a sysfs attribute.
///
/// `show` runs when a reader reads from offset 0; one `write(2)` is one `store`.
pub trait Attribute: Send + Sync {
    /// The text a reader gets, with its final newline.
    fn show(&self) -> Result<String, Refusal> {
        Err(Refusal::new(Errno::EIO, "this attribute cannot be read"))
    }

    /// Takes what was written, exactly as written (a final newline included).
    fn store(&self, _caller: &Caller, _value: &[u8]) -> Result<(), Refusal> {
        Err(Refusal::new(Errno::EIO, "this attribute cannot be written"))
    }
}

/// How a device file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags {
    /// Opened for reading.
    pub read: bool,
    /// Opened for writing.
    pub write: bool,
    /// `O_NONBLOCK`.
    pub nonblock: bool,
}

/// A device file in the tree.
pub trait DeviceNode: Send + Sync {
    /// Opens the device. A refusal that may end by itself (EBUSY while a release is under way) is retried by the
    /// server, see `mechanism B4` in SECURITY.md; the implementor just answers what is true now.
    fn open(self: Arc<Self>, caller: &Caller, flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno>;

    /// Which releases an open that is refused waits for. Asked once, for the node: nodes that keep each other busy say the
    /// same; any other has its own.
    fn releases(&self) -> Releases {
        Releases::default()
    }

    /// The size that `stat` says. By default nothing is ever "past its end", so that the kernel lets writes to different
    /// offsets run at the same time.
    fn size(&self) -> u64 {
        1 << 62
    }
}

/// One open device file.
pub trait OpenFile: Any + Send + Sync {
    /// Serves an ioctl.
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno>;

    /// Serves `read` or `pread`. EAGAIN: there is nothing to read now. A reader without O_NONBLOCK then waits in
    /// [`waiters`](Self::waiters), where there are any, and this is called again when they are woken.
    fn read(&self, _caller: &Caller, _read: &Read) -> Result<Vec<u8>, Errno> {
        Err(Errno::EINVAL)
    }

    /// Those who wait for something to read. A file that has some, and no [backing](Self::backing), is a stream: it has
    /// no position, and its readers and writers do not wait for each other.
    fn waiters(&self) -> Option<&WaitQueue> {
        None
    }

    /// What `poll(2)`, which asks for `wanted`, finds now. By default the file is always ready, as the kernel has it
    /// for files that cannot be polled.
    fn poll(&self, _caller: &Caller, _wanted: PollEvents) -> PollEvents {
        PollEvents::IN | PollEvents::OUT
    }

    /// Serves `write` or `pwrite`: the number of bytes taken.
    fn write(&self, _caller: &Caller, _offset: u64, _data: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// What `mmap` of the file shows, from offset 0 on: a memfd sealed against growing, shrinking and more seals. Asked
    /// once, when the file was opened; all files of a node that are open at a time say the same, or none has one. A file
    /// with a backing is no stream: its reads do not wait (EAGAIN), and `poll` tells when there is something.
    ///
    /// Any other file, and this one where the kernel lacks FUSE passthrough, cannot be mapped: ENODEV.
    fn backing(&self) -> Option<Arc<File>> {
        None
    }

    /// Where its release is counted, if not with those of its node: for a file that came to hold another node's device.
    /// Asked when the release was read, before anything of it is done, by the thread that reads requests.
    fn releases(&self) -> Option<Releases> {
        None
    }

    /// The last descriptor is gone. Called exactly once; no other method runs after it begins, but one that was
    /// running before may still be.
    fn release(&self);
}

/// A read as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Where; 0 in a stream.
    pub offset: u64,
    /// How many bytes at most.
    pub len: usize,
    /// `O_NONBLOCK`, of this moment.
    pub nonblock: bool,
}

/// An ioctl as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Ioctl<'a> {
    /// The command, `_IOC(dir, type, nr, size)`.
    pub cmd: u32,
    /// The third argument of `ioctl(2)`: a pointer in the caller, or a scalar.
    pub arg: u64,
    /// The argument's bytes where the command's encoding made the kernel copy them in (`_IOW`, `_IOWR`), else empty.
    pub input: &'a [u8],
}

impl Ioctl<'_> {
    /// The type byte (`0xAF` vhost, `0x3B` VFIO).
    pub fn type_byte(&self) -> u8 {
        self.cmd.to_le_bytes()[1]
    }

    /// The number within its type.
    pub fn nr(&self) -> u8 {
        self.cmd.to_le_bytes()[0]
    }

    /// The argument size the command encodes.
    pub fn size(&self) -> usize {
        ((self.cmd >> 16) & 0x3fff) as usize
    }
}

/// What an ioctl answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoctlReply {
    /// The return value, never negative.
    pub value: i32,
    /// Bytes the kernel copies out (`_IOR`, `_IOWR`): exactly the encoded size, or empty where there is no output.
    pub output: Vec<u8>,
}

impl IoctlReply {
    /// A plain success.
    pub fn ok() -> Self {
        Self::default()
    }

    /// Success with a return value.
    pub fn value(value: i32) -> Self {
        Self { value, output: Vec::new() }
    }

    /// Success with output bytes.
    pub fn output(output: impl Into<Vec<u8>>) -> Self {
        Self { value: 0, output: output.into() }
    }
}
