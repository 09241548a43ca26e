//! A small mounted tree, device files made of closures, and clients that are processes of their own.
#![allow(dead_code, missing_docs)]

pub mod client;

use devnode::{
    Attribute, Caller, DeviceNode, Ioctl, IoctlReply, OpenFile, OpenFlags, Read, Server, ServerConfig, ServerStats,
    Tree,
};
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use virtio_mdev_api::Refusal;

/// `_IO('t', nr)`: nothing is copied by the kernel.
pub const fn io(nr: u32) -> u32 {
    (b't' as u32) << 8 | nr
}

/// `_IOR('t', nr, u64)`.
pub const fn ior(nr: u32) -> u32 {
    2 << 30 | 8 << 16 | io(nr)
}

/// `_IOW('t', nr, u64)`.
pub const fn iow(nr: u32) -> u32 {
    1 << 30 | 8 << 16 | io(nr)
}

/// A mounted tree that is served; unmounted when dropped.
pub struct Mounted {
    dir: tempfile::TempDir,
    pub tree: Tree,
    pub server: Option<Server>,
}

impl Mounted {
    /// Mounts an empty tree. Fails, and says why, without root or /dev/fuse.
    pub fn new() -> Self {
        Self::with(ServerConfig::default())
    }

    pub fn with(config: ServerConfig) -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        let fuse = devnode::mount(dir.path()).expect("this test needs root and /dev/fuse");
        let tree = Tree::new();
        let config = ServerConfig { root: Some(dir.path().to_owned()), ..config };
        let server = Some(Server::start(tree.clone(), fuse, config).unwrap());
        Self { dir, tree, server }
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn stats(&self) -> ServerStats {
        self.server().stats()
    }

    /// Adds a device file, mode 0666, whose ioctls `ioctl` serves.
    pub fn device(
        &self,
        name: &str,
        ioctl: impl Fn(&Caller, &Ioctl<'_>) -> Result<IoctlReply, Errno> + Send + Sync + 'static,
    ) -> Arc<Device> {
        let device = Arc::new(Device::new(ioctl));
        self.tree.device(self.tree.root(), name, 0o666, device.clone()).unwrap();
        device
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        devnode::unmount(self.dir.path()).ok();
        self.server.take();
    }
}

type Handler = Box<dyn Fn(&Caller, &Ioctl<'_>) -> Result<IoctlReply, Errno> + Send + Sync>;

/// A device file whose ioctls a closure serves.
pub struct Device {
    handler: Arc<Handler>,
    /// Only one may have it open.
    pub exclusive: AtomicBool,
    pub is_open: Arc<AtomicBool>,
    /// How long a release takes, in milliseconds.
    pub release_ms: Arc<AtomicU32>,
    pub released: Arc<AtomicU32>,
    pub opened: AtomicU32,
}

impl Device {
    fn new(ioctl: impl Fn(&Caller, &Ioctl<'_>) -> Result<IoctlReply, Errno> + Send + Sync + 'static) -> Self {
        Self {
            handler: Arc::new(Box::new(ioctl)),
            exclusive: AtomicBool::new(false),
            is_open: Arc::default(),
            release_ms: Arc::default(),
            released: Arc::default(),
            opened: AtomicU32::new(0),
        }
    }

    /// Without ioctls.
    pub fn silent() -> Self {
        Self::new(|_, _| Err(Errno::ENOTTY))
    }

    pub fn released(&self) -> u32 {
        self.released.load(Ordering::SeqCst)
    }
}

struct Open {
    handler: Arc<Handler>,
    is_open: Arc<AtomicBool>,
    release_ms: Arc<AtomicU32>,
    released: Arc<AtomicU32>,
}

impl DeviceNode for Device {
    fn open(self: Arc<Self>, _caller: &Caller, _flags: OpenFlags) -> Result<Arc<dyn OpenFile>, Errno> {
        if self.is_open.swap(true, Ordering::SeqCst) && self.exclusive.load(Ordering::SeqCst) {
            return Err(Errno::EBUSY);
        }
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(Open {
            handler: self.handler.clone(),
            is_open: self.is_open.clone(),
            release_ms: self.release_ms.clone(),
            released: self.released.clone(),
        }))
    }
}

impl OpenFile for Open {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        (self.handler)(caller, call)
    }

    fn write(&self, _caller: &Caller, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        if offset == 0xdead { Err(Errno::ENOSPC) } else { Ok(data.len()) }
    }

    fn read(&self, _caller: &Caller, read: &Read) -> Result<Vec<u8>, Errno> {
        Ok(read.offset.to_le_bytes()[..read.len.min(8)].to_vec())
    }

    fn release(&self) {
        std::thread::sleep(Duration::from_millis(self.release_ms.load(Ordering::SeqCst).into()));
        self.is_open.store(false, Ordering::SeqCst);
        self.released.fetch_add(1, Ordering::SeqCst);
    }
}

/// An attribute that keeps what is stored, and refuses `bad`.
#[derive(Default)]
pub struct Kept(pub parking_lot::Mutex<String>);

impl Attribute for Kept {
    fn show(&self) -> Result<String, Refusal> {
        Ok(format!("{}\n", self.0.lock()))
    }

    fn store(&self, _caller: &Caller, value: &[u8]) -> Result<(), Refusal> {
        let value = String::from_utf8_lossy(value).trim_end().to_owned();
        if value == "bad" {
            return Err(Refusal::new(Errno::EUSERS, "there is no room for that"));
        }
        *self.0.lock() = value;
        Ok(())
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
