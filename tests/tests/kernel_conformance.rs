//! The rules against the kernel's own vhost-vdpa, inside Debian's 6.12, and against ours beside it.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use umdev_tests::lab::{Initramfs, Kernel, KernelName, LabError, LabResult, Vm, VmOptions, claim, program};

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// Where the kernel's vhost-vdpa over VDUSE and a `loopback-net` differ: the rule, the kernel's verdict and answers, ours.
/// ARCHITECTURE.md says why.
const DIFFERENCES: [(&str, &str, &str); 28] = [
    ("asid.bounds", "skip", "pass EINVAL"),
    ("asid.groups", "skip", "pass"),
    ("asid.message", "pass EFAULT", "skip"),
    ("config.write", "pass", "pass kept"),
    ("errno.net", "pass taken ENOTTY", "pass EOPNOTSUPP EOPNOTSUPP"),
    ("features.required", "pass kept kept", "pass EINVAL EINVAL"),
    ("features.unoffered", "pass kept", "pass EINVAL"),
    ("iotlb.batch", "pass EFAULT", "pass EEXIST"),
    ("iotlb.malformed", "pass EFAULT", "pass EINVAL"),
    ("iotlb.miss", "skip", "pass"),
    ("iotlb.overlap", "pass EFAULT", "pass EEXIST"),
    ("iotlb.range", "pass EFAULT taken", "pass EINVAL taken"),
    ("iotlb.untouched", "pass EFAULT", "pass taken"),
    ("log.complete", "skip", "pass"),
    ("log.errno", "pass ENOTTY ENOTTY", "pass EBADF EINVAL EFAULT"),
    ("log.exact", "skip", "pass"),
    ("log.running", "skip", "pass"),
    ("owner.status", "pass taken", "pass EPERM"),
    ("rings.broken", "pass nothing", "pass"),
    ("rings.disabled", "skip", "pass"),
    ("rings.where", "pass taken", "pass EBUSY"),
    ("status.reserved", "pass taken taken taken", "pass EINVAL EINVAL EINVAL"),
    ("suspend.idle", "skip", "pass"),
    ("suspend.prompt", "skip", "pass"),
    ("suspend.quiet", "skip", "pass"),
    ("suspend.resume", "skip", "pass"),
    ("suspend.ring_state", "skip", "pass"),
    ("suspend.settable", "skip", "pass"),
];

/// Both reports go to the console whole.
fn script() -> String {
    format!(
        "wait_for() {{ for i in $(seq 100); do grep -q \"$1\" \"$2\" && break; sleep 0.1; done; }}\n\
         umdev-vduse card0 >/tmp/card 2>&1 &\n\
         wait_for ready /tmp/card\n\
         vdpa dev add name card0 mgmtdev vduse; echo lab: added $?\n\
         umdevd --root /run/umdev --parent loopback:loopback0 >/tmp/ready 2>/tmp/log &\n\
         wait_for 'ready on' /tmp/ready\n\
         echo {UUID} >/run/umdev/sys/class/mdev_bus/loopback0/mdev_supported_types/loopback-net/create\n\
         umdev --json conformance /dev/vhost-vdpa-0 >/tmp/report 2>&1; echo lab: kernel $?\n\
         cat /tmp/report; echo lab: kernel-end\n\
         umdev --json conformance {UUID} >/tmp/report 2>&1; echo lab: ours $?\n\
         cat /tmp/report; echo lab: ours-end\n\
         cat /tmp/card /tmp/log"
    )
}

/// The report between two lines of a console.
fn report(console: &str, name: &str) -> LabResult<Value> {
    let wrong = || LabError::Wrong(format!("no report of {name}:\n{console}"));
    let (_, behind) = console.split_once(&format!("lab: {name} ")).ok_or_else(wrong)?;
    let (text, _) = behind.split_once(&format!("lab: {name}-end")).ok_or_else(wrong)?;
    let text = text.find('{').map(|at| &text[at..]).ok_or_else(wrong)?;
    serde_json::from_str(text).map_err(|error| LabError::Wrong(format!("{error}: {text}")))
}

/// How each rule went, and what was seen. Its verdict, the errnos that were seen, and the words that stand in their
/// place are behaviour; sizes and times are not.
fn behaviour(report: &Value) -> BTreeMap<String, (String, String)> {
    let rules = report["rules"].as_array().into_iter().flatten();
    rules
        .map(|item| {
            let seen = item["seen"].as_str().or(item["reason"].as_str()).unwrap_or_default();
            let is_errno = |word: &&str| {
                word.len() > 3 && word.starts_with('E') && word.chars().all(|c| c.is_ascii_uppercase())
                    || matches!(*word, "taken" | "nothing" | "kept")
            };
            let mut words = vec![item["verdict"].as_str().unwrap_or_default()];
            if words != ["skip"] {
                words.extend(seen.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_errno));
            }
            (item["rule"].as_str().unwrap_or_default().to_owned(), (words.join(" "), seen.to_owned()))
        })
        .collect()
}

#[test]
fn the_kernel_differs_where_it_is_said() -> LabResult<()> {
    let _claim = claim()?;
    let kernel = Kernel::find(KernelName::Newer)?;
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(&kernel, &["fuse", "vduse", "vhost_vdpa"])?;
    for name in ["umdevd", "umdev"] {
        initramfs.program(&program(name)?, name)?;
    }
    initramfs.program(Path::new(env!("CARGO_BIN_EXE_umdev-vduse")), "umdev-vduse")?;
    initramfs.program(Path::new("/usr/sbin/vdpa"), "vdpa")?;
    let archive = initramfs.finish(&script())?;
    let mut vm = Vm::boot(&VmOptions { processors: 2, ..VmOptions::new(&kernel, &archive) })?;
    vm.wait_end(Duration::from_secs(240))?;
    println!("the machine lived for {:.1} s", vm.age().as_secs_f64());
    let console = vm.console();
    let (theirs, ours) = (behaviour(&report(&console, "kernel")?), behaviour(&report(&console, "ours")?));
    assert_eq!(theirs.keys().collect::<BTreeSet<_>>(), ours.keys().collect());
    let failed = |rules: &BTreeMap<String, (String, String)>| rules.values().any(|how| how.0.starts_with("fail"));
    assert!(!failed(&theirs) && !failed(&ours), "{console}");
    let differences: Vec<_> = theirs
        .iter()
        .map(|(rule, theirs)| (rule.as_str(), theirs, &ours[rule]))
        .filter(|(_, theirs, ours)| theirs.0 != ours.0)
        .collect();
    for (rule, theirs, ours) in &differences {
        println!("{rule}\n    kernel: {}: {}\n    ours:   {}: {}", theirs.0, theirs.1, ours.0, ours.1);
    }
    let found: Vec<_> = differences.iter().map(|(rule, theirs, ours)| (*rule, &*theirs.0, &*ours.0)).collect();
    assert_eq!(found, DIFFERENCES, "{console}");
    Ok(())
}

#[test]
fn each_difference_has_its_reason() {
    let text = include_str!("../../ARCHITECTURE.md");
    let (_, section) = text.split_once("## Where we differ from the kernel").unwrap();
    let section = section.split_once("\n## ").unwrap().0;
    let is_rule = |word: &&str| DIFFERENCES.iter().any(|(rule, ..)| rule.split('.').next() == word.split('.').next());
    let named: BTreeSet<_> = section.split('`').filter(|word| word.contains('.')).filter(is_rule).collect();
    assert_eq!(named, DIFFERENCES.iter().map(|(rule, ..)| *rule).collect());
}
