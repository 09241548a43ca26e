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

/// Both rings get another size, again and again, as soon as there is a network.
const RESIZE: &str = "\
resize() { ethtool -G eth0 rx $1 tx $1 && ethtool -g eth0 | grep -c \"^[RT]X:.*$1$\" >/dev/null; }
( until ip -4 addr show dev eth0 | grep -q inet; do sleep 0.1; done
  n=0; while resize 64 && resize 128 && resize 256; do n=$((n + 1)); echo lab: resized $n; sleep 0.2; done; echo lab: stuck ) &
";

/// A queue is reset and set up anew (VIRTIO_F_RING_RESET) under the traffic of a download, while the other runs.
#[test]
fn a_guest_resizes_its_rings_in_the_middle_of_a_download_over_vhost_net() -> LabResult<()> {
    let mut scene = VhostNetScene::build(64)?;
    let told = ["resized 1", "resized 2", "resized 3"];
    scene.run_busy_guest((QemuName::Newer, KernelName::Newer, Memory::Shared), RESIZE, &told)?;
    let log = scene.daemon().log();
    assert!(!log.contains("needs reset"), "{log}");
    Ok(())
}

#[test]
fn a_guest_with_private_memory_downloads_over_vhost_net() -> LabResult<()> {
    VhostNetScene::build(16)?.run_guest(QemuName::Stock, KernelName::Stock, Memory::Private).map(drop)
}
