//! Access to mapped memory, during a burst or a lease.

use super::{AccessError, Backing, Held, Local, Permissions, Region, RemoteMemory, Snapshot};
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::Ordering;
use vm_memory::{AtomicAccess, ByteValued, Bytes, VolatileSlice};

/// What is found at an address.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// Memory. It may be shorter than what was asked for: the rest is in the next region.
    Hit(Piece<'a>),
    /// Nothing, or memory that does not allow this access.
    Fault,
    /// Nothing yet; whoever fills the space was asked. See [`AccessError::Pending`].
    Pending,
}

/// A stretch of memory in one region.
#[derive(Clone, Copy)]
pub enum Piece<'a> {
    /// In place.
    Local(VolatileSlice<'a>),
    /// Through the client.
    Remote {
        /// The client's address space.
        memory: &'a dyn RemoteMemory,
        /// Where in it.
        addr: u64,
        /// How many bytes.
        len: u64,
    },
}

impl Piece<'_> {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Local(slice) => slice.len() as u64,
            Self::Remote { len, .. } => *len,
        }
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Piece<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(slice) => write!(f, "Local({:#x} bytes)", slice.len()),
            Self::Remote { addr, len, .. } => write!(f, "Remote({len:#x} bytes at {addr:#x})"),
        }
    }
}

/// Access to the memory of one version of the table. It remembers the region it found last, and where that is, because
/// most accesses of a queue go to the one before.
///
/// All values are in the byte order of the machine; the specification's are little endian.
#[derive(Clone)]
pub struct View<'a> {
    snapshot: &'a Snapshot,
    last: Cell<Option<&'a Region>>,
    /// The last region that is reached in place. Each field by itself, so that looking at one copies no other.
    iova: Cell<u64>,
    len: Cell<u64>,
    permissions: Cell<Permissions>,
    place: Cell<Option<Held<'a>>>,
}

impl<'a> View<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            last: Cell::new(None),
            iova: Cell::new(0),
            len: Cell::new(0),
            permissions: Cell::new(Permissions::empty()),
            place: Cell::new(None),
        }
    }

    /// The version of the table.
    pub fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    #[inline]
    fn find(&self, iova: u64) -> Option<&'a Region> {
        if let Some(last) = self.last.get()
            && last.contains(iova)
        {
            return Some(last);
        }
        let found = self.snapshot.tree.find(iova)?;
        self.last.set(Some(found));
        Some(found)
    }

    /// The `len` bytes at `iova`, if `access` to all of them is to be had in place, in one region. If not,
    /// [`lookup`](Self::lookup) says what there is.
    #[inline]
    pub fn held(&self, iova: u64, len: usize, access: Permissions) -> Option<Held<'a>> {
        let mut offset = iova.wrapping_sub(self.iova.get());
        if offset >= self.len.get() {
            offset = self.find_in_place(iova)?;
        }
        let region = self.place.get()?;
        if !self.permissions.get().contains(access) || !region.is_kept() {
            return None;
        }
        region.part(usize::try_from(offset).ok()?, len)
    }

    /// Makes the region of `iova` the last one, and says where in it that is.
    #[cold]
    fn find_in_place(&self, iova: u64) -> Option<u64> {
        let region = self.find(iova)?;
        let Backing::Shared { memory, offset } = &region.backing else { return None };
        // The region was checked against the window when it was mapped; if that is shorter now, it is a fault like any
        // other.
        let slice = memory.slice().subslice(*offset, usize::try_from(region.len).ok()?).ok()?;
        self.place.set(Some(Held::new(Local::new(slice)?, memory.faults())));
        self.permissions.set(region.permissions);
        self.iova.set(region.iova);
        self.len.set(region.len);
        Some(iova - region.iova)
    }

    /// The first piece of the `len` bytes at `iova`, for `access`.
    ///
    /// Memory whose client truncated the file behind it is a fault.
    #[inline]
    pub fn lookup(&self, iova: u64, len: u64, access: Permissions) -> Lookup<'a> {
        let Some(region) = self.find(iova) else { return self.miss(iova, access) };
        if !region.permissions.contains(access) {
            return Lookup::Fault;
        }
        let skipped = iova - region.iova;
        let len = len.min(region.len - skipped);
        match &region.backing {
            Backing::Shared { memory, offset } => {
                if memory.faulted() {
                    return Lookup::Fault;
                }
                // The region was checked against the window when it was mapped, so neither sum can overflow; if the
                // window is shorter now, that is a fault like any other.
                let (Ok(skipped), Ok(len)) = (usize::try_from(skipped), usize::try_from(len)) else {
                    return Lookup::Fault;
                };
                match memory.slice().subslice(offset.wrapping_add(skipped), len) {
                    Ok(slice) => Lookup::Hit(Piece::Local(slice)),
                    Err(_) => Lookup::Fault,
                }
            }
            Backing::Remote { memory, addr } => match addr.checked_add(skipped) {
                Some(addr) => Lookup::Hit(Piece::Remote { memory: &**memory, addr, len }),
                None => Lookup::Fault,
            },
        }
    }

    #[cold]
    fn miss(&self, iova: u64, access: Permissions) -> Lookup<'a> {
        match &self.snapshot.misses {
            Some(misses) => {
                misses.report(iova, access, self.snapshot.generation);
                Lookup::Pending
            }
            None => Lookup::Fault,
        }
    }

    /// All pieces of the `len` bytes at `iova`, for `access`. Ends after the first error.
    #[inline]
    pub fn pieces(&self, iova: u64, len: u64, access: Permissions) -> Pieces<'_, 'a> {
        Pieces { view: self, next: Some(iova), left: len, access }
    }

    /// Whether all `len` bytes at `iova` are mapped for `access`.
    pub fn check(&self, iova: u64, len: u64, access: Permissions) -> Result<(), AccessError> {
        self.pieces(iova, len, access).try_for_each(|piece| piece.map(|_| ()))
    }

    /// Fills `buf` from `iova`. After an error its content is unspecified.
    #[inline]
    pub fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), AccessError> {
        match self.held(iova, buf.len(), Permissions::READ) {
            Some(held) if held.memory().read(buf) => kept(held, iova),
            _ => self.read_pieces(iova, buf),
        }
    }

    #[cold]
    fn read_pieces(&self, iova: u64, buf: &mut [u8]) -> Result<(), AccessError> {
        let mut rest = buf;
        let mut iova = iova;
        for piece in self.pieces(iova, rest.len() as u64, Permissions::READ) {
            let piece = piece?;
            let len = usize::try_from(piece.len()).unwrap_or(rest.len()).min(rest.len());
            let (part, tail) = rest.split_at_mut(len);
            match piece {
                Piece::Local(slice) => {
                    slice.copy_to(part);
                    self.check_kept(iova)?;
                }
                Piece::Remote { memory, addr, .. } => {
                    memory.read(addr, part).map_err(|errno| AccessError::Remote { iova, errno })?;
                }
            }
            rest = tail;
            iova = iova.wrapping_add(len as u64);
        }
        Ok(())
    }

    /// Writes `buf` to `iova`. After an error any part of it may have been written.
    ///
    /// Reporting the pages to a [`DirtyRecord`](crate::dirty::DirtyRecord) afterwards is the caller's.
    #[inline]
    pub fn write(&self, iova: u64, buf: &[u8]) -> Result<(), AccessError> {
        match self.held(iova, buf.len(), Permissions::WRITE) {
            Some(held) if held.memory().write(buf) => kept(held, iova),
            _ => self.write_pieces(iova, buf),
        }
    }

    #[cold]
    fn write_pieces(&self, iova: u64, buf: &[u8]) -> Result<(), AccessError> {
        let mut rest = buf;
        let mut iova = iova;
        for piece in self.pieces(iova, rest.len() as u64, Permissions::WRITE) {
            let piece = piece?;
            let len = usize::try_from(piece.len()).unwrap_or(rest.len()).min(rest.len());
            let (part, tail) = rest.split_at(len);
            match piece {
                Piece::Local(slice) => {
                    slice.copy_from(part);
                    self.check_kept(iova)?;
                }
                Piece::Remote { memory, addr, .. } => {
                    memory.write(addr, part).map_err(|errno| AccessError::Remote { iova, errno })?;
                }
            }
            rest = tail;
            iova = iova.wrapping_add(len as u64);
        }
        Ok(())
    }

    /// Reads one object that need not be aligned and may span regions.
    pub fn read_obj<T: ByteValued>(&self, iova: u64) -> Result<T, AccessError> {
        let mut value = T::zeroed();
        self.read(iova, value.as_mut_slice())?;
        Ok(value)
    }

    /// Writes one object that need not be aligned and may span regions.
    pub fn write_obj<T: ByteValued>(&self, value: T, iova: u64) -> Result<(), AccessError> {
        self.write(iova, value.as_slice())
    }

    /// Loads an integer in place, at once. In remote memory the read is one system call, which orders it.
    #[inline]
    pub fn load<T: AtomicAccess>(&self, iova: u64, order: Ordering) -> Result<T, AccessError> {
        match self.whole::<T>(iova, Permissions::READ)? {
            Piece::Local(slice) => {
                let value = slice.load(0, order).map_err(|_| misaligned::<T>(iova))?;
                self.check_kept(iova)?;
                Ok(value)
            }
            Piece::Remote { memory, addr, .. } => {
                let mut value = T::zeroed();
                memory.read(addr, value.as_mut_slice()).map_err(|errno| AccessError::Remote { iova, errno })?;
                Ok(value)
            }
        }
    }

    /// Stores an integer in place, at once. In remote memory the write is one system call, after all earlier ones.
    #[inline]
    pub fn store<T: AtomicAccess>(&self, value: T, iova: u64, order: Ordering) -> Result<(), AccessError> {
        match self.whole::<T>(iova, Permissions::WRITE)? {
            Piece::Local(slice) => {
                slice.store(value, 0, order).map_err(|_| misaligned::<T>(iova))?;
                self.check_kept(iova)
            }
            Piece::Remote { memory, addr, .. } => {
                memory.write(addr, value.as_slice()).map_err(|errno| AccessError::Remote { iova, errno })
            }
        }
    }

    /// The one aligned piece that holds a `T`.
    #[inline]
    fn whole<T>(&self, iova: u64, access: Permissions) -> Result<Piece<'a>, AccessError> {
        let size = size_of::<T>() as u64;
        if !iova.is_multiple_of(size) {
            return Err(misaligned::<T>(iova));
        }
        match self.lookup(iova, size, access) {
            Lookup::Hit(piece) if piece.len() == size => Ok(piece),
            Lookup::Hit(_) => Err(misaligned::<T>(iova)),
            Lookup::Fault => Err(AccessError::Fault { iova, access }),
            Lookup::Pending => Err(AccessError::Pending { iova }),
        }
    }

    /// Whether the memory just looked up at `iova` was still the client's.
    #[inline]
    fn check_kept(&self, iova: u64) -> Result<(), AccessError> {
        match self.last.get().map(|region| &region.backing) {
            Some(Backing::Shared { memory, .. }) if memory.faulted() => Err(AccessError::Lost { iova }),
            _ => Ok(()),
        }
    }
}

/// Whether the memory just accessed at `iova` was still the client's.
#[inline]
fn kept(held: Held<'_>, iova: u64) -> Result<(), AccessError> {
    if held.is_kept() { Ok(()) } else { Err(AccessError::Lost { iova }) }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("generation", &self.snapshot.generation).finish_non_exhaustive()
    }
}

fn misaligned<T>(iova: u64) -> AccessError {
    AccessError::Misaligned { iova, size: size_of::<T>() }
}

/// Iterates over the pieces of a buffer.
#[derive(Debug)]
pub struct Pieces<'v, 'a> {
    view: &'v View<'a>,
    /// `None` beyond the end of the 64-bit space.
    next: Option<u64>,
    left: u64,
    access: Permissions,
}

impl<'a> Iterator for Pieces<'_, 'a> {
    type Item = Result<Piece<'a>, AccessError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let (access, left) = (self.access, std::mem::take(&mut self.left));
        let Some(iova) = self.next else { return Some(Err(AccessError::Fault { iova: u64::MAX, access })) };
        Some(match self.view.lookup(iova, left, access) {
            Lookup::Hit(piece) => {
                self.next = iova.checked_add(piece.len());
                self.left = left - piece.len();
                Ok(piece)
            }
            Lookup::Fault => Err(AccessError::Fault { iova, access }),
            Lookup::Pending => Err(AccessError::Pending { iova }),
        })
    }
}

impl std::iter::FusedIterator for Pieces<'_, '_> {}
