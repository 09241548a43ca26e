//! The rules about what stands in front of a device (errnos, owners, limits, maps) find a lie out. No device can commit
//! these faults, so the lies are told between the rules and a daemon that keeps them.

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
    let families: BTreeSet<_> = failed.clone().filter_map(|item| item.rule.split('.').next()).collect();
    assert_eq!(families, BTreeSet::from([family]), "{:#?}", failed.collect::<Vec<_>>());
}

#[test]
fn the_truth_is_no_lie() {
    let daemon = Daemon::start();
    let report = examine_through(Rc::new(honest()), &daemon.vhost_path(&daemon.create())).unwrap();
    assert!(report.conforms, "{report:#?}");
}

#[test]
fn a_second_open_is_found_out() {
    let open = |told: nix::Result<File>| if told.is_err() { open_null() } else { told };
    is_found_out(Liar { open, ..honest() }, "open");
}

#[test]
fn a_stranger_who_is_let_in_is_found_out() {
    is_found_out(Liar { elsewhere: |_| Ok(()), ..honest() }, "owner");
    let ioctl = |told| if told == Err(Errno::EPERM) { Ok(()) } else { told };
    is_found_out(Liar { ioctl, ..honest() }, "owner");
}

#[test]
fn wrong_errnos_are_found_out() {
    let ioctl = |told| if told == Err(Errno::ENOTTY) { Err(Errno::EINVAL) } else { told };
    is_found_out(Liar { about: &[NO_CALL], ioctl, ..honest() }, "errno");
}

#[test]
fn limits_that_are_not_told_are_found_out() {
    let ioctl = |told: nix::Result<()>| told.and(Err(Errno::EIO));
    is_found_out(Liar { about: &[VHOST_VDPA_GET_VRING_SIZE], ioctl, ..honest() }, "limits");
}

#[test]
fn features_that_change_late_are_found_out() {
    let ioctl = |told| if told == Err(Errno::EBUSY) { Ok(()) } else { told };
    is_found_out(Liar { about: &[VHOST_SET_FEATURES], ioctl, ..honest() }, "features");
}

#[test]
fn a_status_that_is_not_taken_is_found_out() {
    let ioctl = |told| if told == Err(Errno::EINVAL) { Ok(()) } else { told };
    is_found_out(Liar { about: &[VHOST_VDPA_SET_STATUS], ioctl, ..honest() }, "status");
}

#[test]
fn maps_that_overlap_are_found_out() {
    let write = |told| if told == Err(Errno::EEXIST) { Ok(72) } else { told };
    is_found_out(Liar { write, ..honest() }, "iotlb");
}

#[test]
fn address_spaces_that_are_not_there_are_found_out() {
    let ioctl = |told| if told == Err(Errno::EINVAL) { Ok(()) } else { told };
    is_found_out(Liar { about: &[VHOST_VDPA_SET_GROUP_ASID], ioctl, ..honest() }, "asid");
}

#[test]
fn rings_of_any_size_are_found_out() {
    let ioctl = |told| if told == Err(Errno::EINVAL) { Ok(()) } else { told };
    is_found_out(Liar { about: &[VHOST_SET_VRING_NUM], ioctl, ..honest() }, "rings");
}

#[test]
fn descriptors_that_are_no_eventfds_are_found_out() {
    let ioctl = |told| if told == Err(Errno::EBADF) { Ok(()) } else { told };
    is_found_out(Liar { about: &[VHOST_SET_VRING_CALL], ioctl, ..honest() }, "eventfds");
}

fn open_null() -> nix::Result<File> {
    File::open("/dev/null").map_err(|_| Errno::ENOENT)
}
