//! What the tool drives, and how it tells of it.

use crate::{conformance, rules, umdev};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};
use umdev_tests::driver::Daemon;

#[test]
fn a_device_is_named_by_its_path_as_well() {
    let daemon = Daemon::start();
    let path = daemon.vhost_path(&daemon.create());
    let (code, report) = conformance(&daemon, &[path.to_str().unwrap()]);
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
    let unknown = umdev(&daemon, &["conformance", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no instance"), "{unknown:?}");
    assert_eq!(umdev(&daemon, &["conformance"]).status.code(), Some(2));
}

#[test]
fn a_report_says_of_each_rule_what_was_seen_or_why_it_was_not_tried_and_help_tells_its_fields() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let (_, report) = conformance(&daemon, &[&uuid]);
    let items = report["rules"].as_array().unwrap();
    for item in items {
        let skipped = item["verdict"] == "skip";
        assert_eq!(item["seen"].as_str().is_none_or(str::is_empty), skipped, "{item}");
        assert_eq!(item["reason"].as_str().is_some_and(|reason| !reason.is_empty()), skipped, "{item}");
    }
    for (field, verdict) in [("passed", "pass"), ("failed", "fail"), ("skipped", "skip")] {
        assert_eq!(report[field], rules(&report, verdict).len(), "{field}");
    }
    let help = String::from_utf8(umdev(&daemon, &["conformance", "--help"]).stdout).unwrap();
    for field in report.as_object().unwrap().keys().chain(items[0].as_object().unwrap().keys()) {
        assert!(help.contains(&format!("\"{field}\"")), "{field} is not in {help}");
    }
    // The table has the same rules in the same order.
    let table = String::from_utf8(umdev(&daemon, &["conformance", &uuid]).stdout).unwrap();
    let listed: Vec<_> = table.lines().skip(1).map_while(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(listed, items.iter().map(|item| item["rule"].as_str().unwrap()).collect::<Vec<_>>());
}

#[test]
fn a_call_that_never_returns_is_told_of_and_the_rules_behind_it_are_not_tried() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    kill(daemon.pid(), Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let (code, report) = conformance(&daemon, &["--timeout", "1", &uuid]);
    let took = begun.elapsed();
    kill(daemon.pid(), Signal::SIGCONT).unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!((code, &report["conforms"]), (Some(1), &Value::Bool(false)));
    assert_eq!((rules(&report, "pass"), rules(&report, "fail").len()), (BTreeSet::new(), 1), "{report:#}");
    let first = &report["rules"][0];
    assert_eq!(first["seen"], "open did not return within 1s", "{first:#}");
    daemon.wait_for(&uuid, "state", "idle");
    assert_eq!(conformance(&daemon, &[&uuid]).0, Some(0));
}
