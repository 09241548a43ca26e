//! `umdev conformance` against the daemon: our devices keep all rules, and a device that breaks one is found out.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use umdev_tests::driver::Daemon;

fn umdev(daemon: &Daemon, arguments: &[&str]) -> Output {
    let exe = std::env::current_exe().unwrap();
    let found: Option<PathBuf> =
        exe.ancestors().skip(1).take(2).map(|dir| dir.join("umdev")).find(|path| path.exists());
    let program = found.unwrap_or_else(|| panic!("no umdev beside {}: build the workspace first", exe.display()));
    Command::new(program).arg("--root").arg(daemon.root()).args(arguments).output().unwrap()
}

fn create(daemon: &Daemon, of: &str) -> String {
    let words: Vec<_> = ["create"].into_iter().chain(of.split(' ')).collect();
    let output = umdev(daemon, &words);
    assert!(output.status.success(), "{of}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn conformance(daemon: &Daemon, target: &str) -> (Option<i32>, Value) {
    let output = umdev(daemon, &["--json", "conformance", target]);
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

/// The rules with this verdict.
fn rules<'r>(report: &'r Value, verdict: &str) -> Vec<&'r str> {
    let rules = report["rules"].as_array().unwrap().iter();
    rules.filter(|item| item["verdict"] == verdict).map(|item| item["rule"].as_str().unwrap()).collect()
}

/// Rules about what none of our devices offers yet.
const NOWHERE: [&str; 1] = ["rings.packed"];
/// Rules about frames that come back.
const RETURNED: [&str; 2] = ["data.returned", "interrupt.received"];

/// An instance of each type of a parent keeps all rules, and so do `others`; those they were not asked about.
#[track_caller]
fn all_types_keep_all_rules(parent: &str, others: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let daemon = Daemon::with(&["--parent", parent]);
    let types: Value = serde_json::from_slice(&umdev(&daemon, &["--json", "types"]).stdout).unwrap();
    let types: Vec<_> = types.as_array().unwrap().iter().map(|of| of["type"].as_str().unwrap().to_owned()).collect();
    assert!(!types.is_empty());
    let mut skipped = BTreeMap::new();
    for of in types.into_iter().chain(others.iter().map(|&of| of.to_owned())) {
        let uuid = create(&daemon, &of);
        let (code, report) = conformance(&daemon, &uuid);
        assert_eq!(rules(&report, "fail"), [""; 0], "{of}: {report:#}");
        assert!(rules(&report, "pass").len() > 50, "{of}: {report:#}");
        assert_eq!((code, &report["conforms"]), (Some(0), &Value::Bool(true)), "{of}");
        skipped.insert(of, rules(&report, "skip").into_iter().map(str::to_owned).collect());
        // The kernel tells of a close after the process that closed has gone on.
        daemon.wait_for(&uuid, "state", "idle");
    }
    skipped
}

#[test]
fn loopbacks_of_all_types_keep_all_rules_and_leave_none_out() {
    let skipped = all_types_keep_all_rules(
        "loopback:loopback0",
        &["loopback-net pairs=4", "loopback-net-iommu pairs=2 queue-size=64"],
    );
    let everywhere = skipped.values().cloned().reduce(|all, these| &all & &these).unwrap();
    assert!(everywhere.iter().all(|rule| NOWHERE.contains(&rule.as_str())), "{skipped:#?}");
}

#[test]
fn taps_of_all_types_keep_all_rules_but_those_that_need_frames_back() {
    for (of, skipped) in all_types_keep_all_rules("tap:tap0", &["tap-net pairs=2"]) {
        assert!(RETURNED.iter().all(|rule| skipped.contains(*rule)), "{of}: {skipped:?}");
    }
}

#[test]
fn a_device_is_named_by_its_path_as_well() {
    let daemon = Daemon::start();
    let path = daemon.vhost_path(&daemon.create());
    let (code, report) = conformance(&daemon, path.to_str().unwrap());
    assert_eq!((code, report["path"].as_str()), (Some(0), path.to_str()));
}

#[test]
fn a_device_in_use_and_a_file_that_is_none_are_not_driven() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let held = fs::OpenOptions::new().read(true).write(true).open(daemon.vhost_path(&uuid)).unwrap();
    let refused = umdev(&daemon, &["conformance", &uuid]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("EBUSY"), "{refused:?}");
    drop(held);
    let refused = umdev(&daemon, &["conformance", "/dev/null"]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    assert_eq!(umdev(&daemon, &["conformance"]).status.code(), Some(2));
}

/// With `fault` set to `value`, rules of `family` fail, and of no other.
#[track_caller]
fn is_found_out(fault: &str, value: &str, family: &str) {
    let daemon = Daemon::with(&["--parent", "faulty:faulty0"]);
    let uuid = create(&daemon, "faulty-net");
    fs::write(daemon.instance_dir(&uuid).join("faults").join(fault), value).unwrap();
    let (code, report) = conformance(&daemon, &uuid);
    let families = rules(&report, "fail").into_iter().map(|rule| rule.split('.').next().unwrap());
    assert_eq!(families.collect::<BTreeSet<_>>(), BTreeSet::from([family]), "{report:#}");
    assert_eq!((code, &report["conforms"]), (Some(1), &Value::Bool(false)));
}

#[test]
fn a_faulty_device_without_a_fault_keeps_all_rules() {
    all_types_keep_all_rules("faulty:faulty0", &[]);
}

#[test]
fn lost_interrupts_are_found_out() {
    is_found_out("lose_call", "1", "interrupt");
}

#[test]
fn late_interrupts_are_found_out() {
    is_found_out("late_call_ms", "400", "interrupt");
}

#[test]
fn a_device_that_asks_for_a_reset_is_found_out() {
    is_found_out("needs_reset_after", "60", "health");
}

#[test]
fn a_slow_suspend_is_found_out() {
    is_found_out("slow_suspend_ms", "300", "suspend");
}

#[test]
fn a_torn_configuration_space_is_found_out() {
    is_found_out("torn_config", "2", "config");
}

#[test]
fn short_used_lengths_are_found_out() {
    is_found_out("short_used", "5", "data");
}

#[test]
fn a_wrong_ring_state_is_found_out() {
    is_found_out("wrong_ring_state", "3", "suspend");
}

#[test]
fn a_callback_that_hangs_is_found_out_where_it_is_called() {
    is_found_out("hang", "set_features", "features");
}

#[test]
fn callbacks_that_panic_are_found_out_where_they_are_called() {
    is_found_out("panic", "read_config", "config");
    is_found_out("panic", "stop_queue", "reset");
    is_found_out("panic", "reset", "reset");
}
