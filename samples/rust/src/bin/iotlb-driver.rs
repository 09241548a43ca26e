//! `iotlb-driver FILE [FRAMES]`: drives a virtio-net device through its vhost file alone, memory handed over by IOTLB
//! messages. FILE is `ROOT/dev/vhost-mdev/UUID`; the calls are those of a kernel's `/dev/vhost-vdpa-N`.

use nix::errno::Errno;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use umdev_samples::net::Net;
use umdev_samples::sys::{ioctl, open};
use umdev_samples::{Error, Result, queue, report};
use vhost_abi::IovaRange;
use vhost_abi::command::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use zerocopy::{Immutable, IntoBytes};

/// `VHOST_BACKEND_F_IOTLB_MSG_V2`, as a mask.
const MESSAGES_V2: u64 = 1 << 1;
const VHOST_IOTLB_MSG_V2: u32 = 2;
const VHOST_IOTLB_UPDATE: u8 = 2;
const VHOST_IOTLB_INVALIDATE: u8 = 3;
const VHOST_ACCESS_RW: u8 = 3;

/// `struct vhost_msg_v2` with a `struct vhost_iotlb_msg` in it.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Message {
    kind: u32,
    asid: u32,
    iova: u64,
    size: u64,
    uaddr: u64,
    perm: u8,
    request: u8,
    padding: [u8; 38],
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let driven = match &arguments[1..] {
        [file] => drive(Path::new(file), 1000),
        [file, frames] if frames.parse::<u32>().is_ok() => drive(Path::new(file), frames.parse().unwrap_or(0)),
        _ => {
            eprintln!("usage: iotlb-driver FILE [FRAMES]");
            return ExitCode::from(2);
        }
    };
    report("iotlb-driver", driven)
}

fn drive(file: &Path, frames: u32) -> Result<u32> {
    let vhost = open(file)?;
    check_kind(&vhost)?;
    // The memory that messages name is the owner's: without one they are refused.
    let mut net = Net::own(vhost)?;
    negotiate_messages(net.vhost())?;
    let (address, size) = (net.memory().address(), net.memory().size());
    check_range(net.vhost(), size)?;
    tell(net.vhost(), "VHOST_IOTLB_UPDATE", VHOST_IOTLB_UPDATE, size, address)?;

    net.start()?;
    net.exchange(frames)?;
    net.stop()?;

    // When the write returns, the device has let go of the memory.
    tell(net.vhost(), "VHOST_IOTLB_INVALIDATE", VHOST_IOTLB_INVALIDATE, size, 0)?;
    Ok(frames)
}

fn check_kind(vhost: &File) -> Result<()> {
    let mut id = 0_u32;
    ioctl(vhost, "VHOST_VDPA_GET_DEVICE_ID", VHOST_VDPA_GET_DEVICE_ID, &mut id)?;
    if id == VIRTIO_ID_NET { Ok(()) } else { Err(Error::Wrong(format!("device id {id} is no network card"))) }
}

/// Which of the interface's own extensions we speak: the second layout of messages is all that is needed.
fn negotiate_messages(vhost: &File) -> Result<()> {
    let (mut offered, mut wanted) = (0_u64, MESSAGES_V2);
    ioctl(vhost, "VHOST_GET_BACKEND_FEATURES", VHOST_GET_BACKEND_FEATURES, &mut offered)?;
    if offered & MESSAGES_V2 == 0 {
        return Err(Error::Wrong("the file takes no messages of version 2".into()));
    }
    ioctl(vhost, "VHOST_SET_BACKEND_FEATURES", VHOST_SET_BACKEND_FEATURES, &mut wanted).map(drop)
}

fn check_range(vhost: &File, size: u64) -> Result<()> {
    let mut range = IovaRange { first: 0, last: 0 };
    ioctl(vhost, "VHOST_VDPA_GET_IOVA_RANGE", VHOST_VDPA_GET_IOVA_RANGE, &mut range)?;
    if range.first <= queue::IOVA && queue::IOVA + size - 1 <= range.last {
        return Ok(());
    }
    Err(Error::Wrong(format!("the device reaches {:#x} to {:#x} only", range.first, range.last)))
}

/// A message is a write, and the answer is what `write` returns.
fn tell(mut vhost: &File, name: &str, request: u8, size: u64, uaddr: u64) -> Result<()> {
    let (kind, iova, perm) = (VHOST_IOTLB_MSG_V2, queue::IOVA, VHOST_ACCESS_RW);
    let message = Message { kind, asid: 0, iova, size, uaddr, perm, request, padding: [0; 38] };
    match vhost.write(message.as_bytes()) {
        Ok(taken) if taken == size_of::<Message>() => Ok(()),
        Ok(taken) => Err(Error::Wrong(format!("{name}: {taken} bytes were taken"))),
        Err(error) => Err(Error::call(name)(error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))),
    }
}
