//! Code written for rust-vmm runs on a version of the table: it implements `vm_memory::GuestMemory`.
//!
//! Only memory reached in place can be given out as slices; the rest answers an error.

use super::{AccessError, Permissions, Piece, Snapshot, View};
use std::iter::FusedIterator;
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator, Result};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, VolatileSlice};

fn permissions(access: vm_memory::Permissions) -> Permissions {
    match access {
        vm_memory::Permissions::No => Permissions::empty(),
        vm_memory::Permissions::Read => Permissions::READ,
        vm_memory::Permissions::Write => Permissions::WRITE,
        vm_memory::Permissions::ReadWrite => Permissions::all(),
    }
}

fn error(error: AccessError) -> Error {
    match error {
        AccessError::Fault { iova, .. } | AccessError::Pending { iova } => {
            Error::InvalidGuestAddress(GuestAddress(iova))
        }
        other => Error::IOError(std::io::Error::other(other)),
    }
}

impl GuestMemory for Snapshot {
    type PhysicalMemory = GuestMemoryMmap<()>;
    type Bitmap = ();

    fn check_range(&self, addr: GuestAddress, count: usize, access: vm_memory::Permissions) -> bool {
        Slices::new(self, addr, count, access).all(|slice| slice.is_ok())
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: vm_memory::Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, ()>> {
        Ok(Slices::new(self, addr, count, access))
    }
}

struct Slices<'a> {
    view: View<'a>,
    next: Option<u64>,
    left: u64,
    access: Permissions,
}

impl<'a> Slices<'a> {
    fn new(snapshot: &'a Snapshot, addr: GuestAddress, count: usize, access: vm_memory::Permissions) -> Self {
        Self { view: snapshot.view(), next: Some(addr.0), left: count as u64, access: permissions(access) }
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = Result<VolatileSlice<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let left = std::mem::take(&mut self.left);
        let Some(iova) = self.next else { return Some(Err(Error::InvalidGuestAddress(GuestAddress(u64::MAX)))) };
        let piece = self.view.pieces(iova, left, self.access).next()?;
        Some(match piece {
            Ok(Piece::Local(slice)) => {
                self.left = left - slice.len() as u64;
                self.next = iova.checked_add(slice.len() as u64);
                Ok(slice)
            }
            Ok(Piece::Remote { .. }) => {
                Err(Error::IOError(std::io::Error::other("memory reached through the client has no address here")))
            }
            Err(failed) => Err(error(failed)),
        })
    }
}

impl FusedIterator for Slices<'_> {}
impl<'a> GuestMemorySliceIterator<'a, ()> for Slices<'a> {}
