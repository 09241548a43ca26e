//! ioctl(2), which no safe interface covers.
#![allow(unsafe_code)]
// UNSAFETY: ioctl(2) takes an untyped third argument.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

/// Room behind every argument: what an ioctl without a size in its number may write, going by its `argsz`.
const ROOM: usize = 64 * 1024;

/// Issues `number` with a plain number as its argument.
///
/// A number is also how a test hands over an address that is none: the far side answers EFAULT. Give it an address of this process only if whatever
/// the device writes there may be written.
///
/// # Errors
/// The errno of the call.
pub fn ioctl_value(file: &File, number: u32, value: u64) -> Result<i32, Errno> {
    // SAFETY: the argument is a number to the compiler. A call that takes it for an address reads and writes only what the caller of this function
    // offered; tests pass file numbers, flags and addresses that are not mapped.
    Errno::result(unsafe { nix::libc::ioctl(file.as_raw_fd(), number.into(), value) })
}

/// Issues `number` with a pointer to a copy of `argument`, and copies back what the call wrote.
///
/// # Errors
/// The errno of the call.
pub fn ioctl_bytes(file: &File, number: u32, argument: &mut [u8]) -> Result<i32, Errno> {
    let mut buffer = vec![0_u8; argument.len() + ROOM];
    buffer[..argument.len()].copy_from_slice(argument);
    // SAFETY: the pointer names a live buffer that is larger than any size an ioctl number can encode (14 bits) and than any structure of the two
    // headers without one.
    let result = Errno::result(unsafe { nix::libc::ioctl(file.as_raw_fd(), number.into(), buffer.as_mut_ptr()) })?;
    argument.copy_from_slice(&buffer[..argument.len()]);
    Ok(result)
}
