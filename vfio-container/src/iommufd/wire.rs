//! Arguments say their size in their first field: what is longer than known must be zero there.

use super::error::IommufdError;
use crate::Client;
use nix::errno::Errno;
use std::mem::size_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// What of an argument that nobody understands is looked at in one go.
const STRETCH: usize = 4096;

/// Reads the first `size_of::<T>()` bytes at `addr`, of which the caller must have all.
pub(super) fn fetch<T>(client: &dyn Client, addr: u64) -> Result<T, IommufdError>
where
    T: FromBytes + FromZeros + IntoBytes + KnownLayout + Immutable,
{
    let mut value = T::new_zeroed();
    fetch_bytes(client, addr, size_of::<T>(), value.as_mut_bytes())?;
    Ok(value)
}

/// Fills `known`, of which the caller must have the first `need` bytes. What it does not have is zero.
pub(super) fn fetch_bytes(client: &dyn Client, addr: u64, need: usize, known: &mut [u8]) -> Result<(), IommufdError> {
    let mut size = [0; size_of::<u32>()];
    client.read(addr, &mut size)?;
    let size = u32::from_ne_bytes(size);
    let given = usize::try_from(size).unwrap_or(usize::MAX);
    if given < need {
        return Err(IommufdError::Size { size, need });
    }
    // No structure will ever be that much longer than what is known.
    if given > known.len() && given > STRETCH {
        return Err(IommufdError::Beyond { at: STRETCH });
    }
    if given > known.len() {
        let mut rest = vec![0; given - known.len()];
        client.read(at(addr, known.len())?, &mut rest)?;
        if let Some(at) = rest.iter().position(|&byte| byte != 0) {
            return Err(IommufdError::Beyond { at: known.len() + at });
        }
    }
    let have = given.min(known.len());
    Ok(client.read(addr, &mut known[..have])?)
}

/// Writes a structure back.
pub(super) fn respond<T: IntoBytes + Immutable>(client: &dyn Client, addr: u64, value: &T) -> Result<(), IommufdError> {
    Ok(client.write(addr, value.as_bytes())?)
}

/// Address `addr`, `offset` bytes on.
pub(super) fn at(addr: u64, offset: usize) -> Result<u64, Errno> {
    u64::try_from(offset).ok().and_then(|offset| addr.checked_add(offset)).ok_or(Errno::EFAULT)
}

/// Refuses flags outside `allowed`.
pub(super) fn check_flags(flags: u32, allowed: u32) -> Result<(), IommufdError> {
    if flags & !allowed == 0 { Ok(()) } else { Err(not_offered("flags", flags)) }
}

/// Refuses what must be zero and is not.
pub(super) fn check_reserved(value: impl Into<u64>) -> Result<(), IommufdError> {
    match value.into() {
        0 => Ok(()),
        value => Err(not_offered("the reserved field", value)),
    }
}

pub(super) fn not_offered(field: &'static str, value: impl Into<u64>) -> IommufdError {
    IommufdError::NotOffered { field, value: value.into() }
}
