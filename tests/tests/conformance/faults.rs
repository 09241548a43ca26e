//! A device that breaks rules of a family is found out, and those of no other family fail.

use crate::{conformance, create, families, rules};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use umdev_tests::driver::Daemon;

/// With `fault` set to `value`, rules of `family` fail, and of no other.
#[track_caller]
fn is_found_out(of: &str, fault: &str, value: &str, family: &str) {
    let daemon = Daemon::with(&["--parent", "faulty"]);
    let uuid = create(&daemon, of);
    fs::write(daemon.instance_dir(&uuid).join("faults").join(fault), value).unwrap();
    let (code, report) = conformance(&daemon, &[&uuid]);
    assert_eq!(families(rules(&report, "fail")), BTreeSet::from([family]), "{report:#}");
    assert_eq!((code, &report["conforms"]), (Some(1), &Value::Bool(false)));
}

/// A test for each line, of a type, its fault and the family whose rules see it.
macro_rules! found_out {
    ($($name:ident: $of:literal, $fault:literal = $value:literal => $family:literal;)*) => {
        $(#[test] fn $name() { is_found_out($of, $fault, $value, $family); })*

        /// Families whose rules a device breaks.
        pub const FAMILIES: [&str; [$($family),*].len()] = [$($family),*];
        const FAULTS: [&str; FAMILIES.len()] = [$($fault),*];
    };
}

found_out! {
    lost_interrupts: "faulty-net", "lose_call" = "1" => "interrupt";
    late_interrupts: "faulty-net", "late_call_ms" = "400" => "interrupt";
    a_device_that_asks_for_a_reset: "faulty-net", "needs_reset_after" = "60" => "health";
    a_slow_suspend: "faulty-net", "slow_suspend_ms" = "300" => "suspend";
    a_torn_configuration_space: "faulty-net", "torn_config" = "2" => "config";
    short_used_lengths: "faulty-net", "short_used" = "5" => "data";
    a_wrong_ring_state: "faulty-net", "wrong_ring_state" = "3" => "suspend";
    writes_that_are_not_logged: "faulty-net", "unlogged" = "1" => "log";
    memory_used_behind_its_unmap: "faulty-net", "stale_maps" = "1" => "iotlb";
    memory_of_another_address_space: "faulty-net pairs=2", "one_space" = "1" => "asid";
    a_hang_on_features: "faulty-net", "hang" = "set_features" => "features";
    a_panic_on_a_status: "faulty-net", "panic" = "status_changed" => "status";
    a_panic_on_configuration_space: "faulty-net", "panic" = "read_config" => "config";
    a_panic_on_the_start_of_a_ring: "faulty-net", "panic" = "start_queue" => "rings";
    a_panic_on_the_stop_of_a_ring: "faulty-net", "panic" = "stop_queue" => "reset";
    a_hang_on_a_new_kick: "faulty-net", "hang" = "set_kick" => "eventfds";
    a_panic_on_reset: "faulty-net", "panic" = "reset" => "reset";
}

#[test]
fn no_fault_is_forgotten() {
    let daemon = Daemon::with(&["--parent", "faulty"]);
    let dir = daemon.instance_dir(&create(&daemon, "faulty-net")).join("faults");
    let names: BTreeSet<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, FAULTS.into_iter().map(Into::into).collect());
}
