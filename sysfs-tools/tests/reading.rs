//! `types`, `list` and `show`: what they print of a tree.

mod common;

use common::{BUSY, Fixture, IDLE, MDEV, NEW, golden};

#[test]
fn types_are_a_table_of_every_parent() {
    golden("types.txt", &Fixture::new().run(&["types"]).ok());
}

#[test]
fn types_are_stable_json() {
    golden("types.json", &Fixture::new().run(&["--json", "types"]).ok());
}

#[test]
fn parameters_of_the_types_are_a_table() {
    golden("parameters.txt", &Fixture::new().run(&["types", "-v"]).ok());
}

#[test]
fn instances_are_a_table() {
    golden("list.txt", &Fixture::new().run(&["list"]).ok());
}

#[test]
fn instances_are_stable_json() {
    golden("list.json", &Fixture::new().run(&["list", "--json"]).ok());
}

fn with_vendor_attributes() -> Fixture {
    let fixture = Fixture::new();
    fixture.file(&format!("{MDEV}/tap0/{BUSY}/mac"), "52:54:00:12:34:56\n");
    fixture.file(&format!("{MDEV}/tap0/{BUSY}/alias"), "\u{1b}]0;title\u{7}\n");
    fixture.file(&format!("{MDEV}/tap0/{BUSY}/statistics/rx_packets"), "7\n");
    fixture.file(&format!("{MDEV}/tap0/{BUSY}/reset"), "");
    fixture.file(&format!("{MDEV}/tap0/{BUSY}/last_error"), "mtu: 70000 is above 65535\n");
    let write_only = std::os::unix::fs::PermissionsExt::from_mode(0o200);
    std::fs::set_permissions(fixture.path(&format!("{MDEV}/tap0/{BUSY}/reset")), write_only).expect("chmod");
    fixture
}

#[test]
fn show_tells_everything_about_an_instance() {
    golden("show.txt", &with_vendor_attributes().run(&["show", BUSY]).ok());
}

#[test]
fn show_is_stable_json() {
    golden("show.json", &with_vendor_attributes().run(&["--json", "show", BUSY]).ok());
}

#[test]
fn an_empty_tree_lists_nothing() {
    let fixture = Fixture::empty();
    fixture.file("sys/class/mdev_bus/.keep", "");
    fixture.file("sys/bus/mdev/devices/.keep", "");
    std::fs::remove_file(fixture.path("sys/class/mdev_bus/.keep")).expect("unlink");
    std::fs::remove_file(fixture.path("sys/bus/mdev/devices/.keep")).expect("unlink");
    assert_eq!(fixture.run(&["--json", "types"]).ok(), "[]\n");
    assert_eq!(fixture.run(&["--json", "list"]).ok(), "[]\n");
}

#[test]
fn the_kernels_own_devices_are_listed_with_fewer_columns() {
    let fixture = Fixture::new();
    let dir = format!("{MDEV}/loopback0/{IDLE}");
    for absent in ["state", "owner", "driver"] {
        std::fs::remove_file(fixture.path(&format!("{dir}/{absent}"))).expect("unlink");
    }
    let list: serde_json::Value = serde_json::from_str(&fixture.run(&["--json", "list"]).ok()).expect("JSON");
    assert_eq!(list[0]["uuid"], IDLE);
    for absent in ["state", "owner", "driver"] {
        assert!(list[0].as_object().expect("an object").contains_key(absent), "{absent}");
        assert!(list[0][absent].is_null(), "{absent}");
    }
}

#[test]
fn an_instance_that_goes_while_it_is_listed_is_left_out() {
    let fixture = Fixture::new();
    fixture.link(&format!("sys/bus/mdev/devices/{NEW}"), "../../../devices/virtual/mdev/tap0/gone");
    assert!(!fixture.run(&["list"]).ok().contains(NEW));
}

#[test]
fn a_uuid_is_found_however_it_is_written() {
    let fixture = Fixture::new();
    let spelled = format!("{{{}}}", "11111111-1111-4111-8111-111111111111".to_uppercase());
    assert!(fixture.run(&["show", &spelled]).ok().starts_with(&format!("uuid: {IDLE}\n")));
}

#[test]
fn an_unknown_instance_is_refused_in_words() {
    assert_eq!(
        Fixture::new().run(&["show", NEW]).refused(),
        format!("umdev: no instance {NEW} (umdev list shows what there is)\n")
    );
}

#[test]
fn a_name_of_the_tree_does_not_reach_the_terminal_in_an_error_either() {
    let fixture = Fixture::new();
    let parent = format!("{MDEV}/red\u{1b}[31m");
    fixture.file(&format!("{parent}/mdev_supported_types"), "no directory");
    fixture.link("sys/class/mdev_bus/red\u{1b}[31m", "../../devices/virtual/mdev/red\u{1b}[31m");
    let said = fixture.run(&["types"]).refused();
    assert!(said.contains("red\\x1b[31m/mdev_supported_types: ") && !said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn a_root_without_a_tree_is_refused_in_words() {
    assert_eq!(
        Fixture::empty().run(&["list"]).refused(),
        "umdev: no device tree at ROOT: No such file or directory (is umdevd running? umdev doctor says more)\n"
    );
}

#[test]
fn an_output_that_nobody_reads_is_no_error() {
    let fixture = Fixture::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = fixture.command(&["list"]).stdout(writer).output().expect("run umdev");
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn an_output_that_is_full_is_an_error() {
    let fixture = Fixture::new();
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = fixture.command(&["list"]).stdout(full).output().expect("run umdev");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"));
}
