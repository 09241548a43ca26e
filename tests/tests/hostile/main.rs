//! Callers that lie, hurry, or have no business here: each gets the kernel's errno, and harms itself alone.

mod control;
mod descriptors;
mod dma;
mod doorbells;
mod identity;
mod iommufd;
mod memory;
mod repetition;
mod running;
mod unmap;
mod vendors;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, FdFlag, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags};
use std::fs::{self, File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use umdev_tests::driver::abi::*;
use umdev_tests::driver::memory::{IOVA, SIZE};
use umdev_tests::driver::sys::{self, Map};
use umdev_tests::driver::{
    CallResult, Client, Container, Daemon, Descriptor, DriverError, Group, Memory, Options, Ring, Vhost, Via,
    eventually,
};

const FRAME: [u8; 200] = [0xc3; 200];
const IOTLB: Options = Options { via: Via::Iotlb, ..Options::DEFAULT };
const PRIVATE: Options = Options { via: Via::Container, private: true, ..IOTLB };
const PAGE: u64 = 4096;

fn client(daemon: &Daemon) -> (String, Client) {
    let uuid = daemon.create();
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    client.exchange(&FRAME).unwrap();
    (uuid, client)
}

/// The errno of a refusal.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: CallResult<T>) -> Errno {
    let error = result.expect_err("to be refused");
    error.errno().unwrap_or_else(|| panic!("no errno: {error}"))
}

fn caller(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_umdev-caller")).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.trim().to_owned()
}
