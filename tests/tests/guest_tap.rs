//! The lab itself: a guest on QEMU's own tap device, with nothing of umdev in between. What the other guest tests are measured against.

use umdev_tests::lab::{
    DhcpServer, GUEST_SUBNET, HOST_ADDRESS, HttpServer, Initramfs, Kernel, KernelName, LabResult, MODULES, Netdev,
    Netns, NetworkReport, Vm, VmOptions, claim, network_script,
};

fn guest_on_a_plain_tap(name: KernelName) -> LabResult<()> {
    let _claim = claim()?;
    let kernel = Kernel::find(name)?;
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(&kernel, &MODULES)?;
    let archive = initramfs.finish(&network_script())?;

    let netns = Netns::create("umdev-plain")?;
    netns.run("ip tuntap add dev plain0 mode tap")?;
    netns.address("plain0", GUEST_SUBNET)?;
    let _dhcp = DhcpServer::start(&netns, "plain0")?;
    let http = HttpServer::start(&netns, &format!("{HOST_ADDRESS}:80"), 64)?;

    let mut vm = Vm::boot(&VmOptions {
        netdev: Netdev::Tap("plain0".into()),
        netns: Some(&netns),
        ..VmOptions::new(&kernel, &archive)
    })?;
    let report = NetworkReport::follow(&mut vm, |line| println!("{line}"))?;
    println!("64 MiB in {:.1} s", report.download.took.as_secs_f64());
    assert_eq!(report.kernel, kernel.release());
    assert_eq!(report.download.sha256, http.sha256());
    Ok(())
}

#[test]
fn the_lab_boots_the_stock_kernel_to_a_checksummed_download() -> LabResult<()> {
    guest_on_a_plain_tap(KernelName::Stock)
}

#[test]
fn the_lab_boots_the_newer_kernel_to_a_checksummed_download() -> LabResult<()> {
    guest_on_a_plain_tap(KernelName::Newer)
}
