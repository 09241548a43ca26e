//! `create` and `remove`: what they write, and how they tell a refusal.

mod common;

use std::os::fd::AsRawFd;

use common::{BUSY, Fixture, IDLE, MDEV, NEW, golden};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

const CREATE: &str = "sys/devices/virtual/mdev/loopback0/mdev_supported_types/loopback0-net/create";
const LAST_ERROR: &str = "sys/devices/virtual/mdev/loopback0/mdev_supported_types/loopback0-net/last_error";

/// An attribute that refuses every write with EPERM and has words to read: a sealed memfd, reached through its link in /proc.
fn refusing(words: &str) -> (std::os::fd::OwnedFd, String) {
    let fd = memfd_create(c"attribute", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).expect("a memfd");
    nix::unistd::write(&fd, words.as_bytes()).expect("write the words");
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).expect("seal");
    let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    (fd, path)
}

#[test]
fn create_writes_the_uuid_as_echo_does_and_prints_it() {
    let fixture = Fixture::new();
    assert_eq!(fixture.run(&["create", "loopback0/loopback0-net", NEW]).ok(), format!("{NEW}\n"));
    assert_eq!(fixture.read(CREATE), format!("{NEW}\n"));
}

#[test]
fn create_passes_settings_on_the_same_line() {
    let fixture = Fixture::new();
    fixture.run(&["create", "loopback0-net", NEW, "mac=52:54:00:12:34:56", "owner=alice"]).ok();
    assert_eq!(fixture.read(CREATE), format!("{NEW} mac=52:54:00:12:34:56 owner=alice\n"));
}

#[test]
fn create_makes_up_a_uuid_when_none_is_given() {
    let fixture = Fixture::new();
    let first = fixture.run(&["create", "loopback0-net", "mtu=1500"]).ok();
    assert_eq!(fixture.read(CREATE), format!("{} mtu=1500\n", first.trim_end()));
    let second = fixture.run(&["create", "loopback0-net"]).ok();
    assert_ne!(first, second);
    let version = uuid::Uuid::try_parse(first.trim_end()).expect("a UUID").get_version_num();
    assert_eq!(version, 4);
}

#[test]
fn create_is_stable_json() {
    // The instance is there already: plain files create none.
    golden("create.json", &Fixture::new().run(&["--json", "create", "loopback0-net", IDLE]).ok());
}

#[test]
fn a_type_of_several_parents_wants_its_parent_named() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.run(&["create", "net", NEW]).refused(),
        "umdev: several parents offer the type net: name one of loopback0/net, tap0/net\n"
    );
    fixture.run(&["create", "tap0/net", NEW]).ok();
    assert_eq!(fixture.read(&format!("{MDEV}/tap0/mdev_supported_types/net/create")), format!("{NEW}\n"));
}

#[test]
fn an_unknown_type_is_refused_with_those_that_exist() {
    assert_eq!(
        Fixture::new().run(&["create", "tap0/loopback0-net"]).refused(),
        "umdev: no parent offers the type tap0/loopback0-net: there are loopback0/loopback0-net, loopback0/net, tap0/net\n"
    );
}

#[test]
fn a_refusal_is_told_in_the_words_of_the_descriptor_that_wrote() {
    let fixture = Fixture::new();
    let (_fd, attribute) = refusing("all 16 instances are taken\n");
    fixture.link(CREATE, &attribute);
    fixture.file(LAST_ERROR, "an older reason\n");
    assert_eq!(
        fixture.run(&["create", "loopback0-net", NEW]).refused(),
        format!("umdev: cannot create {NEW} of loopback0/loopback0-net: all 16 instances are taken (EPERM)\n")
    );
}

#[test]
fn a_refusal_without_words_is_told_by_last_error_of_the_type() {
    let fixture = Fixture::new();
    // Reads as zeros for ever: no words, and no end.
    fixture.link(CREATE, "/dev/full");
    fixture.file(LAST_ERROR, "the memory is used up\n");
    fixture.file(&format!("{MDEV}/loopback0/last_error"), "not this one\n");
    assert_eq!(
        fixture.run(&["create", "loopback0-net", NEW]).refused(),
        format!("umdev: cannot create {NEW} of loopback0/loopback0-net: the memory is used up (ENOSPC)\n")
    );
}

#[test]
fn then_by_last_error_of_the_parent() {
    let fixture = Fixture::new();
    fixture.link(CREATE, "/dev/full");
    fixture.file(&format!("{MDEV}/loopback0/last_error"), "the parent is \u{1b}[31mred\n");
    assert_eq!(
        fixture.run(&["create", "loopback0-net", NEW]).refused(),
        format!("umdev: cannot create {NEW} of loopback0/loopback0-net: the parent is \\x1b[31mred (ENOSPC)\n")
    );
}

#[test]
fn then_by_the_name_of_the_error() {
    let fixture = Fixture::new();
    fixture.link(CREATE, "/dev/full");
    assert_eq!(
        fixture.run(&["create", "loopback0-net", NEW]).refused(),
        format!("umdev: cannot create {NEW} of loopback0/loopback0-net: No space left on device (ENOSPC)\n")
    );
}

#[test]
fn a_write_that_could_not_be_made_is_not_told_in_the_words_of_an_older_one() {
    let fixture = Fixture::new();
    fixture.file(LAST_ERROR, "an older reason\n");
    fixture.link(CREATE, "nowhere/create");
    assert!(fixture.run(&["create", "loopback0-net", NEW]).refused().ends_with("No such file or directory (ENOENT)\n"));
}

#[test]
fn remove_writes_1_and_says_nothing() {
    let fixture = Fixture::new();
    assert_eq!(fixture.run(&["remove", BUSY]).ok(), "");
    assert_eq!(fixture.read(&format!("{MDEV}/tap0/{BUSY}/remove")), "1\n");
}

#[test]
fn remove_by_force_writes_the_word() {
    let fixture = Fixture::new();
    assert_eq!(fixture.run(&["remove", "--force", BUSY]).ok(), "");
    assert_eq!(fixture.read(&format!("{MDEV}/tap0/{BUSY}/remove")), "force\n");
}

#[test]
fn remove_is_stable_json() {
    assert_eq!(Fixture::new().run(&["--json", "remove", BUSY]).ok(), format!("{{\n  \"uuid\": \"{BUSY}\"\n}}\n"));
}

#[test]
fn a_refused_removal_is_told_in_words() {
    let fixture = Fixture::new();
    let (_fd, attribute) = refusing("qemu (pid 4711) did not let go within 10 s\n");
    fixture.link(&format!("{MDEV}/tap0/{BUSY}/remove"), &attribute);
    assert_eq!(
        fixture.run(&["--json", "remove", BUSY]).refused(),
        format!("umdev: cannot remove {BUSY}: qemu (pid 4711) did not let go within 10 s (EPERM)\n")
    );
}

#[test]
fn a_refused_removal_falls_back_to_last_error_of_the_parent() {
    let fixture = Fixture::new();
    fixture.link(&format!("{MDEV}/tap0/{BUSY}/remove"), "/dev/full");
    fixture.file(&format!("{MDEV}/tap0/last_error"), "in use\n");
    assert_eq!(fixture.run(&["remove", BUSY]).refused(), format!("umdev: cannot remove {BUSY}: in use (ENOSPC)\n"));
}

#[test]
fn removing_what_is_not_there_is_refused() {
    assert!(Fixture::new().run(&["remove", NEW]).refused().starts_with(&format!("umdev: no instance {NEW}")));
}
