//! What a device file needs of the one who calls it.

use devnode::{AddressSpaceId, Caller, MapAccess, OpenFile, Piece};
use nix::errno::Errno;
use std::any::Any;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use virtio_mdev_api::dirty::{LOG_PAGE, MAX_PAGES, log_len};
use virtio_mdev_api::dma::{Backing, Permissions, Region};
use virtio_mdev_api::notify::EventFd;

/// The one who calls a device file. Every method looks into the client and may block for as long as the client likes:
/// none is called with a lock held.
pub trait Client {
    /// The calling thread.
    fn tid(&self) -> i32;

    /// Its effective user.
    fn uid(&self) -> u32;

    /// Its address space, pinned.
    fn home(&self) -> Result<Home, Errno>;

    /// Whether it runs in address space `home`.
    fn lives_in(&self, home: &Home) -> bool;

    /// Fills `buf` from address `addr`, whole or EFAULT.
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno>;

    /// Writes `buf` to address `addr`, whole or EFAULT.
    fn write(&self, addr: u64, buf: &[u8]) -> Result<(), Errno>;

    /// The eventfd it knows as `fd`: EBADF when there is no such descriptor, EINVAL when it is something else.
    fn eventfd(&self, fd: i32) -> Result<EventFd, Errno>;

    /// The file it knows as `fd`: EBADF when there is no such descriptor, EINVAL when it is one that is not to be held.
    fn file(&self, fd: i32) -> Result<OwnedFd, Errno>;

    /// The device file of ours it knows as `fd`: EBADF when there is no such descriptor, EINVAL when it is none of ours.
    fn device_file(&self, fd: i32) -> Result<Arc<dyn OpenFile>, Errno>;

    /// How a device reaches `len` bytes at `addr`: pieces that cover all of it, in order.
    fn map(&self, addr: u64, len: u64, permissions: Permissions) -> Result<Vec<Piece>, Errno>;

    /// How a device reaches `len` bytes from `start` of the memory file it knows as `fd`. EBADF when there is no such
    /// descriptor, EINVAL when it is no memory file or has not all of these.
    fn map_file(&self, fd: i32, start: u64, len: u64, permissions: Permissions) -> Result<Piece, Errno>;
}

/// A pinned address space.
#[derive(Clone)]
pub struct Home {
    pid: i32,
    id: Arc<dyn Any + Send + Sync>,
}

impl Home {
    /// The address space `id` of process `pid`; what `id` is, only the client that made it knows.
    pub fn new(pid: i32, id: Arc<dyn Any + Send + Sync>) -> Self {
        Self { pid, id }
    }

    /// The process it was pinned by: for people to read, not for decisions.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What it was made of, if that is a `T`.
    pub fn id<T: 'static>(&self) -> Option<&T> {
        self.id.downcast_ref()
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Home(process {})", self.pid)
    }
}

impl Client for Caller {
    fn tid(&self) -> i32 {
        Caller::tid(self)
    }

    fn uid(&self) -> u32 {
        Caller::uid(self)
    }

    fn home(&self) -> Result<Home, Errno> {
        let id = self.address_space()?;
        Ok(Home::new(id.pid(), Arc::new(id)))
    }

    fn lives_in(&self, home: &Home) -> bool {
        home.id::<AddressSpaceId>().is_some_and(|id| self.same_address_space(id))
    }

    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
        Caller::read(self, addr, buf)
    }

    fn write(&self, addr: u64, buf: &[u8]) -> Result<(), Errno> {
        Caller::write(self, addr, buf)
    }

    fn eventfd(&self, fd: i32) -> Result<EventFd, Errno> {
        Caller::eventfd(self, fd).map(EventFd::from)
    }

    fn file(&self, fd: i32) -> Result<OwnedFd, Errno> {
        Caller::fd(self, fd)
    }

    fn device_file(&self, fd: i32) -> Result<Arc<dyn OpenFile>, Errno> {
        self.open_file(fd)
    }

    fn map(&self, addr: u64, len: u64, permissions: Permissions) -> Result<Vec<Piece>, Errno> {
        let read = permissions.contains(Permissions::READ);
        let write = permissions.contains(Permissions::WRITE);
        Caller::map(self, addr, len, MapAccess { read, write })
    }

    fn map_file(&self, fd: i32, start: u64, len: u64, permissions: Permissions) -> Result<Piece, Errno> {
        let read = permissions.contains(Permissions::READ);
        let write = permissions.contains(Permissions::WRITE);
        Caller::map_file(self, fd, start, len, MapAccess { read, write })
    }
}

/// The regions that show `len` bytes at `addr` of the client at `iova`. EFAULT when the client cannot give all of it.
pub fn regions(
    client: &dyn Client,
    iova: u64,
    addr: u64,
    len: u64,
    permissions: Permissions,
) -> Result<Vec<Region>, Errno> {
    let pieces = client.map(addr, len, permissions)?;
    let mut at = iova;
    let mut left = len;
    let mut regions = Vec::with_capacity(pieces.len());
    for Piece { len, backing } in pieces {
        left = left.checked_sub(len).ok_or(Errno::EFAULT)?;
        regions.push(Region { iova: at, len, permissions, backing });
        at = at.wrapping_add(len);
    }
    if left == 0 { Ok(regions) } else { Err(Errno::EFAULT) }
}

/// The dirty bitmap at `base` of the client, long enough for address `last`: EFAULT where any of it is not the client's to
/// write.
pub fn log_bitmap(client: &dyn Client, base: u64, last: u64) -> Result<Vec<Region>, Errno> {
    if last / LOG_PAGE >= MAX_PAGES {
        return Err(Errno::EFAULT);
    }
    let bitmap = regions(client, 0, base, log_len(last), Permissions::READ | Permissions::WRITE);
    let bitmap = bitmap.map_err(|_| Errno::EFAULT)?;
    for region in &bitmap {
        let Backing::Remote { memory, addr } = &region.backing else { continue };
        // Where nothing is mapped is found out now rather than by the device.
        let end = addr.checked_add(region.len).ok_or(Errno::EFAULT)?;
        for page in (*addr..end).step_by(4096).chain([end - 1]) {
            memory.read(page, &mut [0])?;
            // Writing nothing tells whether something could be written.
            memory.write(page, &[])?;
        }
    }
    Ok(bitmap)
}
