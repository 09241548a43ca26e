//! Guests that run for long: only in `make test-full`.

use umdev_tests::lab::{KernelName, LabResult, Memory, Netdev, TapScene};

#[test]
fn a_gibibyte_passes_over_vhost_user_unharmed() -> LabResult<()> {
    let scene = TapScene::build(1024)?;
    let shim = scene.shim()?;
    let netdev = Netdev::VhostUser(shim.socket().to_path_buf());
    scene.run_guest(KernelName::Stock, netdev, Memory::Shared).map(drop)
}

#[test]
fn a_gibibyte_passes_over_vhost_vdpa_unharmed() -> LabResult<()> {
    let scene = TapScene::build(1024)?;
    scene.run_guest(KernelName::Newer, scene.vhost_vdpa(), Memory::Shared).map(drop)
}

#[test]
fn the_private_memory_of_the_newer_kernel_is_reached_correctly() -> LabResult<()> {
    let scene = TapScene::build(64)?;
    scene.run_guest(KernelName::Newer, scene.vhost_vdpa(), Memory::Private).map(drop)
}

#[test]
fn one_instance_serves_ten_guests_in_turn_by_both_ways() -> LabResult<()> {
    let scene = TapScene::build(4)?;
    for _ in 0..5 {
        let shim = scene.shim()?;
        let netdev = Netdev::VhostUser(shim.socket().to_path_buf());
        scene.run_guest(KernelName::Stock, netdev, Memory::Shared)?;
        drop(shim);
        scene.run_guest(KernelName::Stock, scene.vhost_vdpa(), Memory::Shared)?;
    }
    Ok(())
}
