//! The program itself, as far as it goes without an instance.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_umdev-vhost-vfio")).args(arguments).output().unwrap()
}

#[test]
fn help_tells_the_exit_codes() {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    assert!(help.contains("3  the instance is gone"), "{help}");
    assert!(help.contains("share=on"), "{help}");
}

#[test]
fn wrong_arguments_are_two() {
    assert_eq!(run(&["--sysfsdev"]).status.code(), Some(2));
}

#[test]
fn an_instance_that_is_not_there_is_one_with_the_reason_and_leaves_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    let sysfsdev = dir.path().join("sys/bus/mdev/devices/0f1a8c5e-7d9b-4a60-9c0e-3f2b1d4c5a69");
    let socket = dir.path().join("s");
    let [root, device, path] = [dir.path(), &sysfsdev, &socket].map(|p| p.to_str().unwrap());
    let out = run(&["--root", root, "--sysfsdev", device, "--socket", path]);
    assert_eq!(out.status.code(), Some(1));
    let words = String::from_utf8(out.stderr).unwrap();
    assert!(words.contains("iommu_group") && words.contains("No such file"), "{words}");
    assert!(!socket.exists());
}

#[test]
fn a_sysfsdev_that_names_no_uuid_is_told() {
    let out = run(&["--root", "/nonexistent", "--sysfsdev", "/nonexistent/eth0", "--socket", "/nonexistent/s"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8(out.stderr).unwrap().contains("no UUID"));
}

#[test]
fn the_files_are_found_where_the_tree_has_them() {
    const UUID: &str = "0f1a8c5e-7d9b-4a60-9c0e-3f2b1d4c5a69";
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let sysfsdev = root.join("sys/bus/mdev/devices").join(UUID);
    std::fs::create_dir_all(&sysfsdev).unwrap();
    std::os::unix::fs::symlink("../../../../kernel/iommu_groups/1048576", sysfsdev.join("iommu_group")).unwrap();
    std::fs::create_dir_all(root.join("dev/vfio")).unwrap();
    let refusal = || {
        let socket = root.join("s");
        let [root, device, path] = [root, &sysfsdev, &socket].map(|p| p.to_str().unwrap());
        let out = run(&["--root", root, "--sysfsdev", device, "--socket", path]);
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8(out.stderr).unwrap()
    };
    for file in ["dev/vfio/vfio", "dev/vfio/1048576"] {
        let words = refusal();
        assert!(words.contains(&format!("{file}: ENOENT")), "{words}");
        std::fs::write(root.join(file), "").unwrap();
    }
    // a plain file knows no ioctl
    assert!(refusal().contains("VFIO_GET_API_VERSION: ENOTTY"));
}
