//! A client made of plain memory, so that what serves clients can be tested without a mount and without root.

use crate::{Client, Home};
use devnode::{OpenFile, Piece};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_mdev_api::dma::{Backing, Permissions, RemoteMemory};
use virtio_mdev_api::notify::EventFd;

/// Where the memory of a [`FakeClient`] begins.
pub const BASE: u64 = 0x10_0000;
/// How much of it there is.
pub const SIZE: usize = 0x10_0000;

/// What a descriptor of a [`FakeClient`] is.
#[derive(Clone)]
pub enum Descriptor {
    /// An eventfd.
    Event(EventFd),
    /// One of our own device files.
    Device(Arc<dyn OpenFile>),
    /// A file of the kernel.
    File(Arc<OwnedFd>),
    /// A memory file that shows the process's memory.
    Memory,
    /// Anything else.
    Other,
}

/// A client with 1 MiB of memory at [`BASE`], made of stretches of `stretch` bytes that are mapped apart.
pub struct FakeClient {
    space: Arc<FakeSpace>,
    uid: u32,
}

type Deed = Box<dyn FnOnce() + Send>;

/// What threads of one fake process share.
pub struct FakeSpace {
    id: i32,
    memory: Mutex<Vec<u8>>,
    stretch: u64,
    descriptors: Mutex<BTreeMap<i32, Descriptor>>,
    /// What another of its threads does while its memory is looked at next.
    meanwhile: Mutex<Option<Deed>>,
    read_only: AtomicBool,
}

impl FakeClient {
    /// A process with the given number.
    pub fn new(pid: i32) -> Self {
        Self::with_stretches(pid, SIZE as u64)
    }

    /// A process whose memory shows another file every `stretch` bytes.
    pub fn with_stretches(pid: i32, stretch: u64) -> Self {
        let memory = Mutex::new(vec![0; SIZE]);
        let (descriptors, meanwhile, read_only) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Self { space: Arc::new(FakeSpace { id: pid, memory, stretch, descriptors, meanwhile, read_only }), uid: 1000 }
    }

    /// A process of user `uid`.
    pub fn of_user(pid: i32, uid: u32) -> Self {
        Self { uid, ..Self::new(pid) }
    }

    /// Whether answers can not be written to its memory, though everything can be read.
    pub fn refuse_writes(&self, refuse: bool) {
        self.space.read_only.store(refuse, Ordering::Relaxed);
    }

    /// Another thread of the same process.
    pub fn thread(&self) -> Self {
        Self { space: Arc::clone(&self.space), uid: self.uid }
    }

    /// Makes `fd` a descriptor of the process.
    pub fn install(&self, fd: i32, descriptor: Descriptor) {
        self.space.descriptors.lock().insert(fd, descriptor);
    }

    /// The process closes all its descriptors.
    pub fn forget_descriptors(&self) {
        self.space.descriptors.lock().clear();
    }

    /// Does `deed` while memory of the process is mapped next: what another of its threads could do then.
    pub fn meanwhile(&self, deed: impl FnOnce() + Send + 'static) {
        *self.space.meanwhile.lock() = Some(Box::new(deed));
    }

    /// How many mappings, and other threads of the process, hold on to its memory.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.space) - 1
    }

    /// Puts bytes in its memory.
    pub fn put(&self, addr: u64, bytes: &[u8]) {
        self.space.store(addr, bytes).expect("the test's own address");
    }

    /// Until the guard is dropped its memory comes for nobody, as under userfaultfd: whoever looks there waits.
    pub fn stall(&self) -> impl Drop + '_ {
        self.space.memory.lock()
    }

    /// Takes bytes out of its memory.
    pub fn get(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.space.load(addr, &mut bytes).expect("the test's own address");
        bytes
    }
}

impl FakeSpace {
    fn range(addr: u64, len: usize) -> Result<std::ops::Range<usize>, Errno> {
        let from = addr.checked_sub(BASE).and_then(|from| usize::try_from(from).ok()).ok_or(Errno::EFAULT)?;
        let to = from.checked_add(len).filter(|&to| to <= SIZE).ok_or(Errno::EFAULT)?;
        Ok(from..to)
    }

    fn load(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        buf.copy_from_slice(&self.memory.lock()[Self::range(addr, buf.len())?]);
        Ok(())
    }

    fn store(&self, addr: u64, buf: &[u8]) -> Result<(), Errno> {
        self.memory.lock()[Self::range(addr, buf.len())?].copy_from_slice(buf);
        Ok(())
    }
}

impl std::fmt::Debug for FakeSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakeSpace({})", self.id)
    }
}

impl RemoteMemory for FakeSpace {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.load(addr, buf)
    }

    fn write(&self, addr: u64, buf: &[u8]) -> Result<(), Errno> {
        self.store(addr, buf)
    }

    fn set_bits(&self, addr: u64, bits: u8) -> Result<(), Errno> {
        let at = Self::range(addr, 1)?.start;
        self.memory.lock()[at] |= bits;
        Ok(())
    }

    fn another(self: Arc<Self>) -> Arc<dyn RemoteMemory> {
        self
    }

    fn revoke(&self) {}
}

impl Client for FakeClient {
    fn tid(&self) -> i32 {
        self.space.id
    }

    fn uid(&self) -> u32 {
        self.uid
    }

    fn home(&self) -> Result<Home, Errno> {
        Ok(Home::new(self.space.id, Arc::new(self.space.id)))
    }

    fn lives_in(&self, home: &Home) -> bool {
        home.id::<i32>() == Some(&self.space.id)
    }

    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.space.load(addr, buf)
    }

    fn write(&self, addr: u64, buf: &[u8]) -> Result<(), Errno> {
        if self.space.read_only.load(Ordering::Relaxed) {
            return Err(Errno::EFAULT);
        }
        self.space.store(addr, buf)
    }

    fn eventfd(&self, fd: i32) -> Result<EventFd, Errno> {
        match self.space.descriptors.lock().get(&fd) {
            Some(Descriptor::Event(event)) => Ok(event.clone()),
            Some(_) => Err(Errno::EINVAL),
            None => Err(Errno::EBADF),
        }
    }

    fn file(&self, fd: i32) -> Result<OwnedFd, Errno> {
        match self.space.descriptors.lock().get(&fd) {
            Some(Descriptor::File(file)) => file.try_clone().map_err(|_| Errno::EMFILE),
            Some(_) => Err(Errno::EINVAL),
            None => Err(Errno::EBADF),
        }
    }

    fn device_file(&self, fd: i32) -> Result<Arc<dyn OpenFile>, Errno> {
        match self.space.descriptors.lock().get(&fd) {
            Some(Descriptor::Device(file)) => Ok(Arc::clone(file)),
            Some(_) => Err(Errno::EINVAL),
            None => Err(Errno::EBADF),
        }
    }

    fn map_file(&self, fd: i32, start: u64, len: u64, _permissions: Permissions) -> Result<Piece, Errno> {
        match self.space.descriptors.lock().get(&fd) {
            Some(Descriptor::Memory) if start.checked_add(len).is_some_and(|end| end <= SIZE as u64) => {
                let memory = Arc::clone(&self.space) as Arc<dyn RemoteMemory>;
                Ok(Piece { len, backing: Backing::Remote { memory, addr: BASE + start } })
            }
            Some(_) => Err(Errno::EINVAL),
            None => Err(Errno::EBADF),
        }
    }

    /// Like the real thing: memory that is only partly there is there, and faults on access.
    fn map(&self, addr: u64, len: u64, _permissions: Permissions) -> Result<Vec<Piece>, Errno> {
        let deed = self.space.meanwhile.lock().take();
        deed.into_iter().for_each(|deed| deed());
        let end = addr.checked_add(len).filter(|_| len != 0).ok_or(Errno::EINVAL)?;
        if end <= BASE || addr >= BASE + SIZE as u64 {
            return Err(Errno::EFAULT);
        }
        let mut pieces = Vec::new();
        let mut at = addr;
        while at < end {
            // What is not there is one piece, however much it is.
            let next = match at {
                ..BASE => BASE.min(end),
                at if at >= BASE + SIZE as u64 => end,
                at => (at - at % self.space.stretch).saturating_add(self.space.stretch).min(end),
            };
            let memory = Arc::clone(&self.space) as Arc<dyn RemoteMemory>;
            pieces.push(Piece { len: next - at, backing: Backing::Remote { memory, addr: at } });
            at = next;
        }
        Ok(pieces)
    }
}
