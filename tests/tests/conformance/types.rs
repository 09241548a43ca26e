//! Every type of every kind of parent keeps all rules, and leaves none out without a reason.

use crate::{conformance, create, rules, umdev};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::collections::BTreeSet;
use umdev_tests::driver::Daemon;

/// The rules that an instance of a type has nothing for; `None` for a type that is new.
fn left_out(of: &str, has_control: bool) -> Option<BTreeSet<&'static str>> {
    let mut rules = BTreeSet::new();
    if !of.ends_with("-fast") {
        rules.insert("rings.packed");
    }
    if !has_control {
        rules.extend(["config.changed", "asid.control", "asid.message", "asid.separate"]);
    }
    if of != "loopback-net-cvq" {
        rules.insert("asid.rings");
    }
    match of {
        "loopback-net" | "loopback-net-fast" | "loopback-net-cvq" | "faulty-net" => {}
        "loopback-source" | "loopback-source-fast" => rules.extend(["data.returned", "interrupt.received"]),
        "loopback-sink" | "loopback-sink-fast" => {
            rules.extend(["data.returned", "interrupt.received", "iotlb.permission"]);
        }
        "loopback-net-iommu" => rules.extend(["iotlb.miss"]),
        "tap-net" | "tap-net-fast" => rules.extend(["data.returned", "interrupt.received"]),
        // Nobody is at another port.
        of if of.starts_with("switch-") => {
            rules.extend(["data.returned", "interrupt.received", "iotlb.permission"]);
        }
        _ => return None,
    }
    Some(rules)
}

/// Each type as it comes, and with as much as its parameters give it.
#[track_caller]
fn all_types_keep_all_rules(kind: &str) {
    // Interfaces are nobody else's.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let daemon = Daemon::with(&["--parent", kind]);
    let types: Value = serde_json::from_slice(&umdev(&daemon, &["--json", "types"]).stdout).unwrap();
    let virtio = types.as_array().unwrap().iter().filter(|of| of["device_api"] == "virtio-mdev");
    let types: Vec<_> = virtio.map(|of| of["type"].as_str().unwrap()).collect();
    assert!(!types.is_empty());
    for of in types {
        let one_has_control = of.ends_with("cvq") || of.ends_with("-fast") && !of.starts_with("loopback");
        for (parameters, has_control) in [("", one_has_control), (" pairs=4 queue-size=64 doorbell=page", true)] {
            let left_out = left_out(of, has_control).unwrap_or_else(|| panic!("what does {of} leave out?"));
            let uuid = create(&daemon, &format!("{of}{parameters}"));
            let (code, report) = conformance(&daemon, &[&uuid]);
            assert_eq!(rules(&report, "fail"), BTreeSet::new(), "{of}{parameters}: {report:#}");
            assert_eq!((code, &report["conforms"]), (Some(0), &Value::Bool(true)), "{of}{parameters}");
            let mut skipped = rules(&report, "skip");
            if of.starts_with("tap") {
                // Whether the machine sends a frame by itself is up to the machine.
                skipped.remove("iotlb.permission");
            }
            assert_eq!(skipped, left_out, "{of}{parameters}: {report:#}");
            // The kernel tells of a close after the process that closed has gone on.
            daemon.wait_for(&uuid, "state", "idle");
        }
    }
}

/// The kinds that are tried below.
const KINDS: [&str; 4] = ["loopback", "tap", "faulty", "switch"];

#[test]
fn no_kind_of_parent_is_forgotten() {
    // A serial card is no virtio device.
    let with_rules = umdevd::kinds().filter(|kind| *kind != "mtty");
    assert_eq!(with_rules.collect::<BTreeSet<_>>(), BTreeSet::from(KINDS));
}

#[test]
fn loopbacks_of_all_types_keep_all_rules() {
    all_types_keep_all_rules(KINDS[0]);
}

#[test]
fn taps_of_all_types_keep_all_rules() {
    all_types_keep_all_rules(KINDS[1]);
}

#[test]
fn faulty_devices_of_all_types_keep_all_rules_while_they_have_no_fault() {
    all_types_keep_all_rules(KINDS[2]);
}

#[test]
fn ports_of_a_switch_of_all_types_keep_all_rules() {
    all_types_keep_all_rules(KINDS[3]);
}
