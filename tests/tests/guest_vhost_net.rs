//! A Debian guest in unmodified QEMU, on `-netdev tap,vhost=on,vhostfd=`: QEMU believes that it has the kernel's vhost-net.

use umdev_tests::lab::{KernelName, LabResult, Memory, QemuName, VhostNetScene};

#[test]
fn guests_download_over_vhost_net() -> LabResult<()> {
    let mut scene = VhostNetScene::build(64)?;
    scene.run_guest(QemuName::Stock, KernelName::Stock, Memory::Shared)?;
    scene.run_guest(QemuName::Newer, KernelName::Newer, Memory::Shared)?;
    let log = scene.daemon().log();
    assert!(!log.contains("needs reset"), "{log}");
    Ok(())
}

#[test]
fn a_guest_with_private_memory_downloads_over_vhost_net() -> LabResult<()> {
    VhostNetScene::build(16)?.run_guest(QemuName::Stock, KernelName::Stock, Memory::Private).map(drop)
}
