//! The rules about what stands in front of a device (errnos, owners, limits, maps) find a lie out. No device can commit
//! these faults, so the lies are told between the rules and a daemon that keeps them.

use crate::families;
use nix::errno::Errno;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use sysfs_tools::conformance::{Calls, System, Verdict, examine_through};
use umdev_tests::driver::Daemon;
use vhost_abi::command::*;

/// A number of the vhost type that no call has.
const NO_CALL: u32 = 0xaf6f;

/// What is told instead of a result.
type Told<T> = fn(nix::Result<T>) -> nix::Result<T>;

/// A daemon's file, but for one lie.
struct Liar {
    /// The calls it lies about; none is all.
    about: &'static [u32],
    ioctl: Told<()>,
    elsewhere: Told<()>,
    write: Told<usize>,
    open: fn(nix::Result<File>) -> nix::Result<File>,
    /// Nothing was done since the file was opened.
    fresh: Cell<bool>,
}

fn honest() -> Liar {
    Liar {
        about: &[],
        ioctl: |told| told,
        elsewhere: |told| told,
        write: |told| told,
        open: |told| told,
        fresh: Cell::new(false),
    }
}

/// A lie about the results of some calls.
fn about(calls: &'static [u32], ioctl: Told<()>) -> Liar {
    Liar { about: calls, ioctl, ..honest() }
}

/// What is told where `truth` is: `lie`.
fn instead<T>(truth: Errno, lie: nix::Result<T>, told: nix::Result<T>) -> nix::Result<T> {
    if told.as_ref().err() == Some(&truth) { lie } else { told }
}

impl Liar {
    fn is_about(&self, cmd: u32) -> bool {
        self.about.is_empty() || self.about.contains(&cmd)
    }
}

impl Calls for Liar {
    fn open(&self, path: &Path) -> nix::Result<File> {
        let opened = System.open(path);
        // A file that was closed a moment ago may be busy in truth.
        if self.fresh.replace(opened.is_ok()) { (self.open)(opened) } else { opened }
    }

    fn ioctl(&self, file: &File, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        self.fresh.set(false);
        let told = System.ioctl(file, cmd, argument);
        if self.is_about(cmd) { (self.ioctl)(told) } else { told }
    }

    fn ioctl_elsewhere(&self, file: &File, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        (self.elsewhere)(System.ioctl_elsewhere(file, cmd, argument))
    }

    fn write(&self, file: &File, bytes: &[u8]) -> nix::Result<usize> {
        (self.write)(System.write(file, bytes))
    }
}

/// Rules of `family` fail, and of no other.
#[track_caller]
fn is_found_out(lie: Liar, family: &str) {
    let daemon = Daemon::start();
    let report = examine_through(Rc::new(lie), &daemon.vhost_path(&daemon.create())).unwrap();
    let failed = report.rules.iter().filter(|item| item.verdict == Verdict::Fail);
    assert_eq!(
        families(failed.clone().map(|item| item.rule)),
        BTreeSet::from([family]),
        "{:#?}",
        failed.collect::<Vec<_>>()
    );
}

/// Numbers that a device is asked for.
const NUMBERS: [u32; 9] = [
    VHOST_VDPA_GET_VQS_COUNT,
    VHOST_VDPA_GET_VRING_NUM,
    VHOST_VDPA_GET_GROUP_NUM,
    VHOST_VDPA_GET_AS_NUM,
    VHOST_VDPA_GET_CONFIG_SIZE,
    VHOST_VDPA_GET_IOVA_RANGE,
    VHOST_VDPA_GET_VRING_SIZE,
    VHOST_VDPA_GET_VRING_GROUP,
    VHOST_GET_VRING_BASE,
];

/// Of each number, all bytes are this one.
struct Unreasonable(u8);

impl Calls for Unreasonable {
    fn ioctl(&self, file: &File, cmd: u32, argument: &mut [u8]) -> nix::Result<()> {
        System.ioctl(file, cmd, argument)?;
        if NUMBERS.contains(&cmd) {
            let size = usize::try_from(cmd >> 16 & 0x3fff).unwrap();
            argument[..size].fill(self.0);
        }
        Ok(())
    }
}

#[test]
fn numbers_out_of_all_reason_are_found_out_and_survived() {
    for byte in [0, 0x7f, 0xff] {
        let daemon = Daemon::start();
        let report = examine_through(Rc::new(Unreasonable(byte)), &daemon.vhost_path(&daemon.create())).unwrap();
        assert!(report.failed > 0, "{byte:#x}: {report:#?}");
        let told = report.rules.iter().find(|item| item.rule == "limits.told").unwrap();
        assert_eq!(told.verdict, Verdict::Fail, "{byte:#x}");
    }
}

#[test]
fn the_truth_is_no_lie() {
    let daemon = Daemon::start();
    let report = examine_through(Rc::new(honest()), &daemon.vhost_path(&daemon.create())).unwrap();
    assert!(report.conforms, "{report:#?}");
}

/// A test for each line, of a lie and the family whose rules see it.
macro_rules! found_out {
    ($($name:ident: $lie:expr => $family:literal;)*) => {
        $(#[test] fn $name() { is_found_out($lie, $family); })*

        /// Families whose rules a lie breaks.
        pub const FAMILIES: [&str; [$($family),*].len()] = [$($family),*];
    };
}

found_out! {
    a_second_open: Liar { open: |told| told.or_else(|_| open_null()), ..honest() } => "open";
    a_stranger_who_is_let_in: Liar { elsewhere: |_| Ok(()), ..honest() } => "owner";
    a_call_without_an_owner: Liar { ioctl: |told| instead(Errno::EPERM, Ok(()), told), ..honest() } => "owner";
    wrong_errnos: about(&[NO_CALL], |told| instead(Errno::ENOTTY, Err(Errno::EINVAL), told)) => "errno";
    limits_that_are_not_told: about(&[VHOST_VDPA_GET_VRING_SIZE], |told| told.and(Err(Errno::EIO))) => "limits";
    features_that_change_late: about(&[VHOST_SET_FEATURES], |told| instead(Errno::EBUSY, Ok(()), told)) => "features";
    a_status_that_is_not_taken: about(&[VHOST_VDPA_SET_STATUS], |told| instead(Errno::EINVAL, Ok(()), told)) => "status";
    maps_that_overlap: Liar { write: |told| instead(Errno::EEXIST, Ok(72), told), ..honest() } => "iotlb";
    address_spaces_that_are_not_there:
        about(&[VHOST_VDPA_SET_GROUP_ASID], |told| instead(Errno::EINVAL, Ok(()), told)) => "asid";
    rings_of_any_size: about(&[VHOST_SET_VRING_NUM], |told| instead(Errno::EINVAL, Ok(()), told)) => "rings";
    descriptors_that_are_no_eventfds:
        about(&[VHOST_SET_VRING_CALL], |told| instead(Errno::EBADF, Ok(()), told)) => "eventfds";
    a_log_that_takes_anything: about(&[VHOST_SET_LOG_FD], |told| instead(Errno::EBADF, Ok(()), told)) => "log";
}

fn open_null() -> nix::Result<File> {
    File::open("/dev/null").map_err(|_| Errno::ENOENT)
}
