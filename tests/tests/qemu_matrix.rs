//! Unmodified QEMUs, a Debian guest in each, on the vhost file of a tap instance: one line a way of driving it. Each guest downloads a file, and its
//! checksum is compared.

use umdev_tests::lab::KernelName::{Newer as Linux6_12, Stock as Linux6_1};
use umdev_tests::lab::QemuName::{Newer as Qemu10, Stock as Qemu7};
use umdev_tests::lab::{KernelName, LabResult, Memory, QemuName, TapScene, VdpaWay};

/// Two queue pairs and a control queue, over which the guest's driver takes both.
fn guest_with_two_pairs(qemu: QemuName, kernel: KernelName) -> LabResult<()> {
    let scene = TapScene::build_with(64, "pairs=2")?;
    let report = scene.run_guest_in(qemu, kernel, scene.vhost_vdpa_by(VdpaWay::Pairs(2)), Memory::Shared)?;
    assert_eq!(report.queues, 2, "the guest's driver did not take both pairs");
    scene.remove_instance()
}

fn guest(qemu: QemuName, kernel: KernelName, way: VdpaWay, memory: Memory, mebibytes: usize) -> LabResult<()> {
    let scene = TapScene::build(mebibytes)?;
    scene.run_guest_in(qemu, kernel, scene.vhost_vdpa_by(way), memory)?;
    scene.remove_instance()
}

macro_rules! guests {
    ($($(#[$attribute:meta])* $name:ident: $qemu:ident, $kernel:ident, $way:ident, $memory:ident, $mebibytes:literal MiB;)*) => {
        $($(#[$attribute])* #[test] fn $name() -> LabResult<()> { guest($qemu, $kernel, VdpaWay::$way, Memory::$memory, $mebibytes) })*
    };
}

guests! {
    qemu_10_opens_it: Qemu10, Linux6_12, Plain, Shared, 64 MiB;
    #[cfg(feature = "full")]
    qemu_10_has_memory_of_its_own: Qemu10, Linux6_1, Plain, Private, 16 MiB;
    qemu_10_shadows_the_queues: Qemu10, Linux6_12, ShadowQueues, Shared, 64 MiB;
    #[cfg(feature = "full")]
    qemu_10_is_given_it_open: Qemu10, Linux6_1, Descriptor, Shared, 64 MiB;
    qemu_10_shows_it_as_it_is: Qemu10, Linux6_12, Generic, Shared, 64 MiB;
    qemu_7_shadows_the_queues: Qemu7, Linux6_1, ShadowQueues, Shared, 64 MiB;
    qemu_10_maps_page_by_page_for_an_iommu: Qemu10, Linux6_12, Iommu, Shared, 16 MiB;
    #[cfg(feature = "full")]
    qemu_7_is_given_it_open: Qemu7, Linux6_12, Descriptor, Shared, 64 MiB;
}

#[test]
fn qemu_10_has_two_pairs_and_a_control_queue() -> LabResult<()> {
    guest_with_two_pairs(Qemu10, Linux6_12)
}

#[cfg(feature = "full")]
#[test]
fn qemu_7_has_two_pairs_and_a_control_queue() -> LabResult<()> {
    guest_with_two_pairs(Qemu7, Linux6_1)
}

/// QEMU maps the doorbells of both queues and has the guest store to them; a kick is no eventfd then.
fn guest_that_kicks_by_stores(qemu: QemuName, kernel: KernelName) -> LabResult<()> {
    let scene = TapScene::build_with(64, "doorbell=page")?;
    let file = format!("dev/vhost-mdev/{}", scene.uuid());
    let mut most = 0;
    scene.run_guest_told(qemu, kernel, scene.vhost_vdpa_by(VdpaWay::PagePerQueue), Memory::Shared, |process| {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
        most = most.max(maps.lines().filter(|line| line.contains(&file)).count());
    })?;
    assert_eq!(most, 2, "QEMU did not map the doorbells");
    scene.remove_instance()
}

#[test]
fn qemu_10_kicks_by_stores() -> LabResult<()> {
    guest_that_kicks_by_stores(Qemu10, Linux6_12)
}

#[test]
fn qemu_7_kicks_by_stores() -> LabResult<()> {
    guest_that_kicks_by_stores(Qemu7, Linux6_1)
}

/// A guest that is not offered multiqueue: the third of nine queues takes its commands, and is shadowed alone.
#[test]
fn qemu_10_uses_one_pair_of_four() -> LabResult<()> {
    let scene = TapScene::build_with(16, "pairs=4")?;
    let report = scene.run_guest_in(Qemu10, Linux6_12, scene.vhost_vdpa_by(VdpaWay::Plain), Memory::Shared)?;
    assert_eq!(report.queues, 1);
    scene.remove_instance()
}
