//! A Debian guest in unmodified QEMU, on `-netdev vhost-vdpa` and the instance's file: no other process in between.

use umdev_tests::lab::{KernelName, LabResult, Memory, TapScene};

/// The warning that tells a user why the guest is slow.
fn warned_of_private_memory(log: &str) -> bool {
    log.lines().any(|line| line.contains("WARN") && line.contains("private memory"))
}

#[test]
fn a_guest_with_shared_memory_downloads_over_vhost_vdpa() -> LabResult<()> {
    let mut scene = TapScene::build(64)?;
    scene.run_guest(KernelName::Stock, scene.vhost_vdpa(), Memory::Shared)?;
    // closed by one QEMU, opened by the next
    scene.run_guest(KernelName::Newer, scene.vhost_vdpa(), Memory::Shared)?;
    let log = scene.daemon().log();
    assert!(!warned_of_private_memory(&log), "a warning of private memory, and none is:\n{log}");
    scene.remove_instance()
}

#[test]
fn a_guest_with_private_memory_downloads_over_vhost_vdpa_and_the_daemon_warns() -> LabResult<()> {
    let mut scene = TapScene::build(16)?;
    scene.run_guest(KernelName::Stock, scene.vhost_vdpa(), Memory::Private)?;
    let log = scene.daemon().log();
    assert!(warned_of_private_memory(&log), "no warning that this memory is reached slowly:\n{log}");
    Ok(())
}
