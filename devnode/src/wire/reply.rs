//! Answers, and the one place where errors become numbers the kernel accepts.

use super::abi::{Dirent, op};
use nix::errno::Errno;
use zerocopy::{Immutable, IntoBytes};

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Success with a payload.
    Data(Vec<u8>),
    /// A refusal.
    Error(Errno),
    /// The operation is not offered: ENOSYS, on which the kernel stops asking and does what is usual itself.
    NotOffered,
    /// This kind of request has no answer.
    None,
}

impl Answer {
    pub fn empty() -> Self {
        Self::Data(Vec::new())
    }

    pub fn of(payload: &(impl IntoBytes + Immutable)) -> Self {
        Self::Data(payload.as_bytes().to_vec())
    }
}

/// The error number the kernel gets for `errno`, an answer to `opcode`.
///
/// The kernel refuses numbers from 512 on and the caller would hang; `nix` shows those (ENOTSUPP and its like, which
/// mean nothing outside a kernel) as an unknown errno: EOPNOTSUPP. A file's ENOSYS must not reach the kernel either,
/// which would take it as "this server never offers this operation": an ioctl's becomes ENOTTY, as the kernel itself
/// would make of it, any other EOPNOTSUPP.
pub(crate) fn errno_on_the_wire(errno: Errno, opcode: u32) -> i32 {
    let errno = match errno {
        Errno::ENOSYS if opcode == op::IOCTL => Errno::ENOTTY,
        Errno::ENOSYS => Errno::EOPNOTSUPP,
        errno => errno,
    };
    match errno as i32 {
        number @ 1..512 => -number,
        // An unknown errno is 0 here, which would be success.
        _ => -(Errno::EOPNOTSUPP as i32),
    }
}

/// Appends a directory entry unless it would make `buffer` longer than `size`: whether it fitted.
pub(crate) fn directory_entry(buffer: &mut Vec<u8>, size: usize, ino: u64, off: u64, kind: u32, name: &str) -> bool {
    let Ok(namelen) = u32::try_from(name.len()) else { return false };
    let entry = Dirent { ino, off, namelen, kind };
    let len = (size_of::<Dirent>() + name.len()).next_multiple_of(8);
    if buffer.len() + len > size {
        return false;
    }
    let end = buffer.len() + len;
    buffer.extend_from_slice(entry.as_bytes());
    buffer.extend_from_slice(name.as_bytes());
    buffer.resize(end, 0);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b6_no_errno_above_511_reaches_the_kernel() {
        for number in 0..5000 {
            for opcode in [op::IOCTL, op::OPEN, op::WRITE] {
                let wire = errno_on_the_wire(Errno::from_raw(number), opcode);
                assert!((-511..0).contains(&wire), "{number} became {wire}");
            }
        }
        assert_eq!(errno_on_the_wire(Errno::from_raw(524), op::IOCTL), -(Errno::EOPNOTSUPP as i32));
    }

    #[test]
    fn b6_enosys_of_a_file_does_not_switch_an_operation_off() {
        assert_eq!(errno_on_the_wire(Errno::ENOSYS, op::IOCTL), -(Errno::ENOTTY as i32));
        assert_eq!(errno_on_the_wire(Errno::ENOSYS, op::OPEN), -(Errno::EOPNOTSUPP as i32));
        assert_eq!(errno_on_the_wire(Errno::EBUSY, op::OPEN), -(Errno::EBUSY as i32));
    }

    #[test]
    fn directory_entries_are_padded_and_bounded() {
        let mut buffer = Vec::new();
        assert!(directory_entry(&mut buffer, 64, 1, 2, 4, "abc"));
        assert_eq!(buffer.len(), 32);
        assert!(directory_entry(&mut buffer, 64, 1, 2, 4, "abcdefgh"));
        assert!(!directory_entry(&mut buffer, 64, 1, 2, 4, "x"));
        assert_eq!(buffer.len(), 64);
    }
}
