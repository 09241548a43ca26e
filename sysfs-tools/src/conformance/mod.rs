//! `umdev conformance`: drives a vhost-vdpa file through its rules from outside.
//!
//! Each rule opens the file anew, and leaves the device reset. Nothing is used that a client of the kernel's vhost-vdpa
//! could not use: open, ioctl, write, eventfds, and memory of its own. Where this stack is stricter than the kernel on
//! purpose (status bits, errnos of IOTLB messages), both answers are right.

mod abi;
mod ask;
mod calls;
mod device;
mod driver;
mod report;
mod ring;
mod rules;
mod sys;
mod watched;

pub use calls::{Calls, System};
pub use report::{Item, Report, Verdict};
pub use watched::examine;

use crate::Error;
use device::{Device, Subject};
use nix::errno::Errno;
use report::{Ended, Outcome};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

/// A rule.
struct Rule {
    /// `family.rule`.
    id: &'static str,
    reference: &'static str,
    expected: &'static str,
    check: fn(&Subject) -> Outcome,
}

/// The rule that is looked at behind every other.
const CLOSE: (&str, &str, &str) =
    ("reset.close", "vhost-vdpa release", "after a rule the file can be opened and the device reset again");

/// The file that the command line means: a path, or the UUID of an instance below `root`. Nothing is looked at yet.
fn resolve(root: &Path, target: &str) -> PathBuf {
    match Uuid::try_parse(target) {
        Ok(uuid) => root.join("dev/vhost-mdev").join(uuid.to_string()),
        Err(_) => PathBuf::from(target),
    }
}

/// What the command line asks for: see [`examine`].
pub(crate) fn of(root: &Path, target: &str, limit: Duration) -> Result<Report, Error> {
    examine(&resolve(root, target), limit).map_err(|error| match (&error, Uuid::try_parse(target)) {
        (Error::Read { errno: Errno::ENOENT, .. }, Ok(uuid)) => {
            let is_there = root.join("sys/bus/mdev/devices").join(uuid.to_string()).exists();
            if is_there { Error::NoVhostFile(uuid) } else { Error::NoInstance(uuid) }
        }
        _ => error,
    })
}

/// Drives the file at `path` through all rules, by other calls than the system's own, and waits for them however long
/// they take. The device must not be in use.
pub fn examine_through(calls: Rc<dyn Calls>, path: &Path) -> Result<Report, Error> {
    let mut items = Vec::new();
    let driven = drive(&Subject { path: path.to_owned(), calls }, &mut |item| items.push(item));
    driven.map_err(|errno| Error::Read { path: path.to_owned(), errno })?;
    Ok(Report::new(path.to_string_lossy().into_owned(), items))
}

/// All rules, and the one that is looked at behind each: what they are called, where they are written, what they ask for.
fn names() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    rules::all().map(|rule| (rule.id, rule.reference, rule.expected)).chain([CLOSE])
}

/// Tells of each rule in the order of [`names`]; or why the file cannot be driven at all.
fn drive(subject: &Subject, tell: &mut dyn FnMut(Item)) -> nix::Result<()> {
    match Device::open(subject) {
        // Whether it is a vhost-vdpa file at all.
        Ok(device) => drop(device.number(abi::VHOST_VDPA_GET_DEVICE_ID)?),
        // A device that cannot be reset is no reason not to say so.
        Err(Errno::ETIMEDOUT | Errno::EIO) => {}
        Err(errno) => return Err(errno),
    }
    let (mut lost, mut closed) = (None, Ok("every time".to_owned()));
    for rule in rules::all() {
        let outcome = match &lost {
            Some(reason) => Err(Ended::Skipped(String::clone(reason))),
            None => (rule.check)(subject),
        };
        let item = item((rule.id, rule.reference, rule.expected), outcome);
        if lost.is_none()
            && let Err(seen) = after(subject)
        {
            let seen = format!("after {}: {seen}", rule.id);
            // A rule that failed itself has said it already.
            let failed = item.verdict == Verdict::Fail;
            closed = Err(if failed { Ended::Skipped(seen.clone()) } else { Ended::Failed(seen.clone()) });
            lost = Some(seen);
        }
        tell(item);
    }
    tell(item(CLOSE, closed));
    Ok(())
}

/// Opens and resets the device; why it cannot be.
fn after(subject: &Subject) -> Result<(), String> {
    let said = |name: &'static str| move |errno: Errno| format!("{name}: {errno:?}");
    let device = Device::open(subject).map_err(said("open"))?;
    device.set_status(0).map_err(said("reset"))?;
    match device.status().map_err(said("VHOST_VDPA_GET_STATUS"))? {
        0 => Ok(()),
        status => Err(format!("status {status:#x} after a reset")),
    }
}

fn item((rule, reference, expected): (&'static str, &'static str, &'static str), outcome: Outcome) -> Item {
    let (verdict, seen, reason) = match outcome {
        Ok(seen) => (Verdict::Pass, Some(seen), None),
        Err(Ended::Failed(seen)) => (Verdict::Fail, Some(seen), None),
        Err(Ended::Skipped(reason)) => (Verdict::Skip, None, Some(reason)),
    };
    Item { rule, reference, verdict, expected, seen, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_rule_has_a_family_and_a_name_of_its_own() {
        let mut seen = HashSet::from([CLOSE.0]);
        for rule in rules::all() {
            assert!(seen.insert(rule.id), "{} is there twice", rule.id);
            assert_eq!(rule.id.split('.').count(), 2, "{}", rule.id);
        }
    }

    #[test]
    fn a_word_is_a_path_unless_it_is_a_uuid() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(resolve(root.path(), "/dev/vhost-vdpa-0"), PathBuf::from("/dev/vhost-vdpa-0"));
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let file = root.path().join("dev/vhost-mdev").join(uuid);
        assert_eq!(resolve(root.path(), uuid), file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "").unwrap();
        let examined = examine_through(Rc::new(System), &file);
        assert!(matches!(examined, Err(Error::Read { .. })), "a file that answers no ioctl was driven");
    }

    #[test]
    fn one_failed_rule_is_enough_not_to_conform() {
        let rule = ("a.b", "", "");
        let passed = item(rule, Ok(String::new()));
        let skipped = item(rule, Err(Ended::Skipped(String::new())));
        let failed = item(rule, Err(Ended::Failed(String::new())));
        assert!(Report::new(String::new(), vec![passed.clone(), skipped.clone()]).conforms);
        let report = Report::new(String::new(), vec![passed, skipped, failed]);
        assert_eq!((report.conforms, report.passed, report.failed, report.skipped), (false, 1, 1, 1));
    }
}
