//! `umdev conformance` against the daemon: our devices keep all rules, and a device that breaks one is found out.

mod faults;
mod lies;
mod report;
mod types;

use serde_json::Value;
use std::collections::BTreeSet;
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

/// A type, and parameters if there are any.
fn create(daemon: &Daemon, of: &str) -> String {
    let words: Vec<_> = ["create"].into_iter().chain(of.split(' ')).collect();
    let output = umdev(daemon, &words);
    assert!(output.status.success(), "{of}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The exit status and the report.
fn conformance(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = umdev(daemon, &[&["--json", "conformance"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

/// The rules with this verdict.
fn rules<'r>(report: &'r Value, verdict: &str) -> BTreeSet<&'r str> {
    let rules = report["rules"].as_array().unwrap().iter();
    rules.filter(|item| item["verdict"] == verdict).map(|item| item["rule"].as_str().unwrap()).collect()
}

fn families<'r>(rules: impl IntoIterator<Item = &'r str>) -> BTreeSet<&'r str> {
    rules.into_iter().filter_map(|rule| rule.split('.').next()).collect()
}

#[test]
fn each_family_of_rules_can_fail() {
    let daemon = Daemon::start();
    let (_, report) = conformance(&daemon, &[&daemon.create()]);
    let all = families(report["rules"].as_array().unwrap().iter().map(|item| item["rule"].as_str().unwrap()));
    let (by_faults, by_lies) = (BTreeSet::from(faults::FAMILIES), BTreeSet::from(lies::FAMILIES));
    assert_eq!(&by_faults | &by_lies, all);
    // Files, owners and numbers of calls are the daemon's: no device can break their rules.
    assert_eq!(&all - &by_faults, BTreeSet::from(["errno", "limits", "open", "owner"]));
}
