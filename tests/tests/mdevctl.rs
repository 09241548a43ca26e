//! Real mdevctl lists the types, starts an instance, lists it and stops it: Debian's 1.2, which knows no root but `/`, and 1.4.

use std::fs;
use std::path::Path;
use std::process::Command;
use umdev_tests::lab::{Daemon, DaemonOptions, LabError, LabResult, cache_dir, claim, require, run};
use uuid::Uuid;

/// Runs mdevctl with arguments; its standard output.
type Mdevctl<'a> = &'a dyn Fn(&[&str]) -> LabResult<String>;

fn with_daemon(test: impl FnOnce(&Daemon, &Path) -> LabResult<()>) -> LabResult<()> {
    let _claim = claim()?;
    let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
    let parents = ["loopback:loopback0"];
    let daemon = Daemon::start(&DaemonOptions { root: &dir.path().join("root"), parents: &parents, netns: None })?;
    test(&daemon, dir.path())
}

fn start_and_stop(daemon: &Daemon, mdevctl: Mdevctl<'_>) -> LabResult<()> {
    let types = mdevctl(&["types"])?;
    for word in ["loopback0", "loopback-net", "Available instances:", "Device API: virtio-mdev", "Description:"] {
        assert!(types.contains(word), "`mdevctl types` does not say {word}:\n{types}");
    }
    let uuid = Uuid::new_v4().to_string();
    mdevctl(&["start", "--uuid", &uuid, "--parent", "loopback0", "--type", "loopback-net"])?;
    assert!(daemon.instance_dir(&uuid).exists(), "started, and not there");
    assert_eq!(mdevctl(&["list"])?.trim(), format!("{uuid} loopback0 loopback-net manual"));

    let again = mdevctl(&["start", "--uuid", &uuid, "--parent", "loopback0", "--type", "loopback-net"]);
    assert!(again.is_err(), "started twice");
    let unknown = mdevctl(&["start", "--uuid", &Uuid::new_v4().to_string(), "--parent", "loopback0", "--type", "none"]);
    assert!(unknown.is_err(), "started with an unknown type");

    mdevctl(&["stop", "--uuid", &uuid])?;
    assert!(!daemon.instance_dir(&uuid).exists(), "stopped, and still there");
    assert_eq!(mdevctl(&["list"])?.trim(), "");
    Ok(())
}

#[test]
fn debians_mdevctl_starts_and_stops_an_instance_with_the_tree_bound_over_sys() -> LabResult<()> {
    with_daemon(|daemon, _| {
        let sys = daemon.root().join("sys");
        let mdevctl = |arguments: &[&str]| {
            let script = "mount --bind \"$1\" /sys; shift; exec mdevctl \"$@\"";
            run(Command::new("unshare").args(["--mount", "sh", "-ec", script, "sh"]).arg(&sys).args(arguments))
        };
        assert!(mdevctl(&["--version"])?.contains(" 1.2"));
        start_and_stop(daemon, &mdevctl)
    })
}

#[test]
fn mdevctl_1_4_starts_and_stops_an_instance_below_a_root_of_its_own() -> LabResult<()> {
    let program = require(cache_dir().join("mdevctl-1.4/bin/mdevctl"))?;
    with_daemon(|daemon, dir| {
        let root = dir.join("environment");
        for below in
            ["etc/mdevctl.d/scripts.d", "usr/lib/mdevctl/scripts.d/callouts", "usr/lib/mdevctl/scripts.d/notifiers"]
        {
            fs::create_dir_all(root.join(below)).map_err(LabError::io("make the environment"))?;
        }
        std::os::unix::fs::symlink(daemon.root().join("sys"), root.join("sys")).map_err(LabError::io("link sys"))?;
        let mdevctl = |arguments: &[&str]| run(Command::new(&program).env("MDEVCTL_ENV_ROOT", &root).args(arguments));
        assert!(mdevctl(&["--version"])?.contains(" 1.4"));
        start_and_stop(daemon, &mdevctl)
    })
}
