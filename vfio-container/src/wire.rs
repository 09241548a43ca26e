//! Arguments are fetched from a client's memory by the size that they say they have.

use crate::{Client, error::VfioError};
use nix::errno::Errno;
use std::mem::size_of;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Reads the first `size` bytes of a `T` at `addr`; the rest is zero. Its first field, `argsz`, must be at least `size`.
pub(crate) fn fetch<T>(client: &dyn Client, addr: u64, size: usize) -> Result<T, VfioError>
where
    T: FromBytes + FromZeros + IntoBytes + KnownLayout + Immutable,
{
    let mut value = T::new_zeroed();
    let bytes = &mut value.as_mut_bytes()[..size];
    client.read(addr, bytes)?;
    let argsz = bytes.first_chunk().map_or(0, |argsz| u32::from_ne_bytes(*argsz));
    let need = u32::try_from(size).unwrap_or(u32::MAX);
    if argsz < need {
        return Err(VfioError::Argsz { argsz, need });
    }
    Ok(value)
}

/// Reads the `T` that follows a structure of `size` bytes at `addr`, whose `argsz` the client gave.
pub(crate) fn fetch_rest<T>(client: &dyn Client, addr: u64, size: usize, argsz: u32) -> Result<T, VfioError>
where
    T: FromBytes + FromZeros + IntoBytes + KnownLayout + Immutable,
{
    let need = u32::try_from(size + size_of::<T>()).unwrap_or(u32::MAX);
    if argsz < need {
        return Err(VfioError::Argsz { argsz, need });
    }
    let mut value = T::new_zeroed();
    let at = addr.checked_add(size as u64).ok_or(Errno::EFAULT)?;
    client.read(at, value.as_mut_bytes())?;
    Ok(value)
}

/// Refuses flags outside `allowed`.
pub(crate) fn check_flags(flags: u32, allowed: u32) -> Result<(), VfioError> {
    if flags & !allowed == 0 { Ok(()) } else { Err(VfioError::Flags { flags, allowed }) }
}
