//! A request, decoded from the bytes the kernel gave: pure, total, without allocation.

use super::abi::{
    InHeader, InitIn, InitInExt, InterruptIn, IoctlIn, MknodIn, OpenIn, PollIn, ReadIn, ReleaseIn, SetattrIn, WriteIn,
    init, op,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A request of the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub unique: u64,
    pub opcode: u32,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
    /// The thread that called; 0 when it lives outside our pid namespace.
    pub tid: i32,
    pub op: Op<'a>,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op<'a> {
    Init {
        major: u32,
        minor: u32,
        flags: u32,
        /// Zero where the kernel has no such.
        flags2: u32,
    },
    Destroy,
    /// FORGET and BATCH_FORGET: nothing to forget, numbers are not reused. No answer.
    Forget,
    Lookup {
        name: &'a [u8],
    },
    Getattr,
    Setattr {
        set: SetattrIn,
    },
    Readlink,
    Mknod {
        mode: u32,
        name: &'a [u8],
    },
    Create,
    /// Anything else that would change a directory.
    ChangeDirectory,
    Open {
        flags: u32,
    },
    Read {
        fh: u64,
        offset: u64,
        size: u32,
        /// The open file's, of this moment.
        flags: u32,
    },
    Poll {
        fh: u64,
        kh: u64,
        flags: u32,
        events: u32,
    },
    Write {
        fh: u64,
        offset: u64,
        flags: u32,
        data: &'a [u8],
    },
    Ioctl {
        fh: u64,
        flags: u32,
        cmd: u32,
        arg: u64,
        input: &'a [u8],
        out_size: u32,
    },
    Release {
        fh: u64,
    },
    Flush,
    Opendir,
    Readdir {
        offset: u64,
        size: u32,
    },
    Releasedir,
    Statfs,
    Access,
    Interrupt {
        unique: u64,
    },
    /// Known to be without an answer.
    Silent,
    /// Not offered: the kernel is told so once and helps itself.
    Unknown,
}

/// Bytes that are no request. The kernel never sends such; `unique` allows an answer where it was readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request {unique:?} is too short or contradicts itself")]
pub(crate) struct DecodeError {
    pub unique: Option<u64>,
}

/// Decodes one request.
pub(crate) fn decode(bytes: &[u8]) -> Result<Request<'_>, DecodeError> {
    let (header, body) = InHeader::read_from_prefix(bytes).map_err(|_| DecodeError { unique: None })?;
    let bad = DecodeError { unique: Some(header.unique) };
    if usize::try_from(header.len) != Ok(bytes.len()) {
        return Err(bad);
    }
    // Extensions, 8 bytes each, follow the arguments.
    let extension = usize::from(header.extlen) * 8;
    let body = body.get(..body.len().checked_sub(extension).ok_or(bad)?).ok_or(bad)?;
    Ok(Request {
        unique: header.unique,
        opcode: header.opcode,
        node: header.nodeid,
        uid: header.uid,
        gid: header.gid,
        tid: i32::try_from(header.pid).map_err(|_| bad)?,
        op: operation(header.opcode, body).ok_or(bad)?,
    })
}

fn operation(opcode: u32, body: &[u8]) -> Option<Op<'_>> {
    Some(match opcode {
        op::INIT => {
            let (init, rest) = take::<InitIn>(body)?;
            let more = init.flags & init::INIT_EXT != 0;
            let flags2 = if more { take::<InitInExt>(rest)?.0.flags2 } else { 0 };
            Op::Init { major: init.major, minor: init.minor, flags: init.flags, flags2 }
        }
        op::DESTROY => Op::Destroy,
        op::FORGET | op::BATCH_FORGET => Op::Forget,
        op::NOTIFY_REPLY => Op::Silent,
        op::LOOKUP => Op::Lookup { name: name(body)? },
        op::GETATTR => Op::Getattr,
        op::SETATTR => Op::Setattr { set: take::<SetattrIn>(body)?.0 },
        op::READLINK => Op::Readlink,
        op::MKNOD => {
            let (mknod, rest) = take::<MknodIn>(body)?;
            Op::Mknod { mode: mknod.mode, name: name(rest)? }
        }
        op::CREATE => Op::Create,
        op::SYMLINK | op::MKDIR | op::UNLINK | op::RMDIR | op::RENAME | op::LINK | op::RENAME2 => Op::ChangeDirectory,
        op::OPEN => Op::Open { flags: take::<OpenIn>(body)?.0.flags },
        op::READ => {
            let (read, _) = take::<ReadIn>(body)?;
            Op::Read { fh: read.fh, offset: read.offset, size: read.size, flags: read.flags }
        }
        op::POLL => {
            let (poll, _) = take::<PollIn>(body)?;
            Op::Poll { fh: poll.fh, kh: poll.kh, flags: poll.flags, events: poll.events }
        }
        op::WRITE => {
            let (write, data) = take::<WriteIn>(body)?;
            let data = data.get(..usize::try_from(write.size).ok()?)?;
            Op::Write { fh: write.fh, offset: write.offset, flags: write.write_flags, data }
        }
        op::IOCTL => {
            let (ioctl, input) = take::<IoctlIn>(body)?;
            let input = input.get(..usize::try_from(ioctl.in_size).ok()?)?;
            Op::Ioctl {
                fh: ioctl.fh,
                flags: ioctl.flags,
                cmd: ioctl.cmd,
                arg: ioctl.arg,
                input,
                out_size: ioctl.out_size,
            }
        }
        op::RELEASE => Op::Release { fh: take::<ReleaseIn>(body)?.0.fh },
        op::FLUSH => Op::Flush,
        op::OPENDIR => Op::Opendir,
        op::READDIR => {
            let (read, _) = take::<ReadIn>(body)?;
            Op::Readdir { offset: read.offset, size: read.size }
        }
        op::RELEASEDIR => Op::Releasedir,
        op::STATFS => Op::Statfs,
        op::ACCESS => Op::Access,
        op::INTERRUPT => Op::Interrupt { unique: take::<InterruptIn>(body)?.0.unique },
        _ => Op::Unknown,
    })
}

fn take<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(body).ok()
}

/// A name ends at its NUL.
fn name(body: &[u8]) -> Option<&[u8]> {
    let end = body.iter().position(|byte| *byte == 0)?;
    (end != 0).then(|| &body[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(40 + body.len()).unwrap();
        let header = InHeader { len, opcode, unique: 7, nodeid: 9, pid: 11, ..InHeader::default() };
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn an_ioctl_keeps_its_argument_pointer_and_its_input() {
        let call = IoctlIn { fh: 3, flags: 0, cmd: 0x4008_af00, arg: 0xdead_beef_f00d, in_size: 8, out_size: 0 };
        let bytes = request(op::IOCTL, &[call.as_bytes(), &[1, 2, 3, 4, 5, 6, 7, 8]].concat());
        let decoded = decode(&bytes).unwrap();
        assert_eq!((decoded.unique, decoded.node, decoded.tid), (7, 9, 11));
        let Op::Ioctl { fh: 3, cmd: 0x4008_af00, arg: 0xdead_beef_f00d, input, .. } = decoded.op else {
            panic!("{decoded:?}")
        };
        assert_eq!(input, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn more_flags_of_a_kernel_are_read_where_it_says_that_there_are_some() {
        let first = |flags| InitIn { major: 7, minor: 40, flags, ..InitIn::default() };
        let more = InitInExt { flags2: init::PASSTHROUGH, ..InitInExt::default() };
        let flags2 = |flags| match decode(&request(op::INIT, &[first(flags).as_bytes(), more.as_bytes()].concat())) {
            Ok(Request { op: Op::Init { flags2, .. }, .. }) => flags2,
            other => panic!("{other:?}"),
        };
        assert_eq!(flags2(init::INIT_EXT), init::PASSTHROUGH);
        assert_eq!(flags2(0), 0);
        assert!(decode(&request(op::INIT, first(init::INIT_EXT).as_bytes())).is_err());
    }

    #[test]
    fn a_size_beyond_the_request_is_refused() {
        let write = WriteIn { size: 9, ..WriteIn::default() };
        let bytes = request(op::WRITE, &[write.as_bytes(), &[0; 8]].concat());
        assert_eq!(decode(&bytes).unwrap_err(), DecodeError { unique: Some(7) });
        let call = IoctlIn { in_size: u32::MAX, ..IoctlIn::default() };
        assert!(decode(&request(op::IOCTL, call.as_bytes())).is_err());
    }

    #[test]
    fn a_header_that_lies_about_its_length_is_refused() {
        let mut bytes = request(op::STATFS, &[]);
        bytes.push(0);
        assert!(decode(&bytes).is_err());
        assert_eq!(decode(&bytes[..39]).unwrap_err(), DecodeError { unique: None });
    }

    #[test]
    fn extensions_are_no_part_of_the_arguments() {
        let mut bytes = request(op::LOOKUP, b"abc\0\0\0\0\0\x01\0\0\0\0\0\0\0");
        bytes[36] = 1;
        let Op::Lookup { name } = decode(&bytes).unwrap().op else { panic!() };
        assert_eq!(name, b"abc");
        bytes[36] = 3;
        assert!(decode(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_body_of_any_opcode_makes_the_decoder_panic(
            opcode in 0u32..60, extlen in 0u16..4, body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = request(opcode, &body);
            bytes[36..38].copy_from_slice(&extlen.to_le_bytes());
            let _ = decode(&bytes);
        }
    }
}
