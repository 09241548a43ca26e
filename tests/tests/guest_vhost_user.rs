//! A Debian guest in unmodified QEMU, on `-netdev vhost-user` and the shim.

use nix::sys::signal::Signal;
use std::time::Duration;
use umdev_tests::lab::{KernelName, LabResult, Memory, Netdev, TapScene};

#[test]
fn two_guests_in_turn_download_through_one_shim_and_the_instance_is_removed() -> LabResult<()> {
    let scene = TapScene::build(64)?;
    let mut shim = scene.shim()?;
    let netdev = Netdev::VhostUser(shim.socket().to_path_buf());
    scene.run_guest(KernelName::Stock, netdev.clone(), Memory::Shared)?;
    // the next connection, and another driver
    scene.run_guest(KernelName::Newer, netdev, Memory::Shared)?;
    scene.remove_instance()?;
    let status = shim.running().wait_end(Duration::from_secs(10))?;
    assert_eq!(status.code(), Some(3), "the shim says that its instance is gone: {}", shim.running().output());
    Ok(())
}

#[test]
fn a_shim_that_is_killed_leaves_the_instance_to_the_next_one() -> LabResult<()> {
    let scene = TapScene::build(4)?;
    let mut killed = scene.shim()?;
    killed.running().signal(Signal::SIGKILL)?;
    killed.running().wait_end(Duration::from_secs(5))?;
    let shim = scene.shim()?;
    let netdev = Netdev::VhostUser(shim.socket().to_path_buf());
    scene.run_guest(KernelName::Stock, netdev, Memory::Shared)?;
    Ok(())
}
