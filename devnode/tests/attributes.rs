//! Attributes behave as sysfs files do, for shells and for programs.
#![allow(missing_docs)]

mod common;

use common::client::{self, Client};
use common::{Kept, Mounted};
use nix::errno::Errno;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::Arc;

fn shell(command: &str) -> (bool, String) {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

fn with_attribute(mode: u16) -> (Mounted, Arc<Kept>, String) {
    let mounted = Mounted::new();
    let kept = Arc::new(Kept::default());
    let dir = mounted.tree.dirs(mounted.tree.root(), "sys/a").unwrap();
    mounted.tree.attribute(dir, "value", mode, kept.clone()).unwrap();
    let path = mounted.path("sys/a/value").display().to_string();
    (mounted, kept, path)
}

#[test]
fn shells_read_and_write_attributes() {
    let (_mounted, kept, path) = with_attribute(0o644);
    assert_eq!(shell(&format!("echo hello > {path} && cat {path}")), (true, "hello\n".into()));
    assert_eq!(shell(&format!("printf x > {path} && cat {path}")), (true, "x\n".into()));
    assert_eq!(shell(&format!("echo more >> {path} && cat {path}")), (true, "more\n".into()));
    assert_eq!(*kept.0.lock(), "more");
    assert_eq!(fs::metadata(&path).unwrap().len(), 4096);
}

#[test]
fn a_refused_store_fails_the_write_and_tells_its_reason_on_the_same_descriptor() {
    let (_mounted, _kept, path) = with_attribute(0o200);
    assert!(!shell(&format!("echo bad > {path}")).0);
    let mut file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let error = file.write(b"bad\n").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EUSERS as i32));
    let mut reason = String::new();
    file.read_to_string(&mut reason).unwrap();
    assert_eq!(reason, "there is no room for that\n");
    file.write_all(b"good\n").unwrap();
}

#[test]
fn access_that_the_mode_does_not_offer_is_refused_to_the_superuser_too() {
    let (_mounted, _kept, path) = with_attribute(0o200);
    assert_eq!(fs::File::open(&path).unwrap_err().raw_os_error(), Some(Errno::EACCES as i32));
    let (_mounted, _kept, path) = with_attribute(0o444);
    assert_eq!(fs::write(&path, "x").unwrap_err().raw_os_error(), Some(Errno::EACCES as i32));
}

#[test]
fn clients_make_no_files() {
    let (mounted, _kept, path) = with_attribute(0o644);
    let errno = |result: std::io::Result<()>| Errno::from_raw(result.unwrap_err().raw_os_error().unwrap());
    assert_eq!(errno(fs::File::create(mounted.path("sys/new")).map(drop)), Errno::EACCES);
    assert_eq!(errno(fs::create_dir(mounted.path("sys/new"))), Errno::EPERM);
    assert_eq!(errno(fs::remove_file(&path)), Errno::EPERM);
    assert_eq!(errno(fs::rename(&path, mounted.path("x"))), Errno::EPERM);
    assert_eq!(errno(std::os::unix::fs::symlink("a", mounted.path("b"))), Errno::EPERM);
    assert_eq!(errno(std::os::unix::net::UnixListener::bind(mounted.path("sock")).map(drop)), Errno::EPERM);
}

#[test]
fn the_tree_lists_and_links_and_keeps_owners() {
    let (mounted, kept, path) = with_attribute(0o644);
    let root = mounted.tree.root();
    mounted.tree.link(root, "link", "sys/a").unwrap();
    let many = mounted.tree.dir(root, "many").unwrap();
    let names: Vec<String> = (0..5000).map(|n| format!("attribute-with-a-long-name-{n:05}")).collect();
    for name in &names {
        mounted.tree.attribute(many, name, 0o444, kept.clone()).unwrap();
    }
    let mut listed: Vec<String> =
        fs::read_dir(mounted.path("many")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    listed.sort();
    assert_eq!(listed, names);
    assert_eq!(fs::read_link(mounted.path("link")).unwrap().to_str(), Some("sys/a"));
    assert!(mounted.path("link/value").exists());
    assert_eq!(fs::metadata(mounted.root()).unwrap().nlink(), 4);
    std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let node = mounted.tree.find("sys/a/value").unwrap();
    assert_eq!(mounted.tree.owner_of(node), Some((12, 34, 0o600)));
}

#[test]
fn an_attribute_that_is_removed_answers_enodev_to_those_who_hold_it() {
    let (mounted, _kept, path) = with_attribute(0o644);
    let mut file = fs::File::options().read(true).write(true).open(&path).unwrap();
    mounted.tree.remove(mounted.tree.find("sys").unwrap());
    assert!(!mounted.path("sys").exists());
    assert_eq!(file.read(&mut [0; 8]).unwrap_err().raw_os_error(), Some(Errno::ENODEV as i32));
    assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(Errno::ENODEV as i32));
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    // The name is free for another file.
    mounted.tree.dir(mounted.tree.root(), "sys").unwrap();
    assert!(fs::read_dir(mounted.path("sys")).unwrap().next().is_none());
}

#[test]
fn m3_mode_bits_hold_for_other_users() {
    let (mounted, _kept, path) = with_attribute(0o640);
    let value = path.clone();
    Client::run(move || {
        client::become_user(65534);
        assert_eq!(client::open(value.as_ref()).unwrap_err(), Errno::EACCES);
        assert_eq!(fs::File::open(&value).unwrap_err().raw_os_error(), Some(Errno::EACCES as i32));
    });
    mounted.tree.set_owner(mounted.tree.find("sys/a/value").unwrap(), 65534, 65534);
    Client::run(move || {
        client::become_user(65534);
        client::open(path.as_ref()).unwrap().write_all(b"mine").unwrap();
    });
}
