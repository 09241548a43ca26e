//! Wrong command lines end with 2 and touch nothing; the help teaches.

mod common;

use common::{Fixture, NEW};

#[test]
fn wrong_command_lines_end_with_2() {
    let fixture = Fixture::new();
    let wrong: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["show"],
        &["show", "not-a-uuid"],
        &["remove", ""],
        &["trace"],
        &["create"],
        &["create", "../../etc"],
        &["create", "loopback0-net", "not-a-uuid"],
        &["create", "loopback0-net", "=value"],
        &["create", "loopback0-net", NEW, "mac=1 owner=root"],
        &["create", "loopback0-net", NEW, "mac=1\nowner=root"],
        &["create", "loopback0-net", NEW, NEW],
        &["create", "loopback0-net", "mtu=1500", NEW],
        &["list", "extra"],
        &["stats", "--watch=0"],
        &["stats", "--watch=nan"],
    ];
    for args in wrong {
        let run = fixture.run(args);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{args:?}: {run:?}");
        assert!(!run.err.is_empty(), "{args:?}");
    }
    let create = "sys/devices/virtual/mdev/loopback0/mdev_supported_types/loopback0-net/create";
    assert_eq!(fixture.read(create), "");
}

#[test]
fn every_command_has_help_that_shows_its_json() {
    let fixture = Fixture::empty();
    for command in ["types", "list", "create", "remove", "show", "stats", "watch", "trace", "doctor"] {
        let help = fixture.run(&[command, "--help"]).ok();
        assert!(help.contains("JSON:"), "{command}: {help}");
    }
}

#[test]
fn the_help_has_examples_and_exit_codes() {
    let help = Fixture::empty().run(&["--help"]).ok();
    for part in ["Examples:", "Exit codes:", "umdev create", "--root", "--json", "/run/umdev"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}
