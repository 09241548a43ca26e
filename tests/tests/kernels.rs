//! The daemon inside Debian's own kernels: it mounts its tree, makes an instance by `echo`, a client exchanges frames with it,
//! and a VFIO program drives it under `umdev exec`.

use std::path::Path;
use std::time::Duration;
use umdev_tests::lab::{Initramfs, Kernel, KernelName, LabResult, Memory, Vm, VmOptions, claim, program};

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
/// An instance with doorbell pages.
const PAGED: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";

/// What is done in the guest. Every line of the programs is on the console for whoever looks into a failure.
fn script() -> String {
    format!(
        "umdevd --root /run/umdev --parent loopback:loopback0 >/tmp/ready 2>/tmp/log &\n\
         for i in $(seq 100); do grep -q 'ready on' /tmp/ready && break; sleep 0.1; done\n\
         echo lab: ready $(cat /tmp/ready)\n\
         echo {UUID} >/run/umdev/sys/class/mdev_bus/loopback0/mdev_supported_types/loopback-net/create\n\
         echo lab: created $?\n\
         umdev-exchange /run/umdev {UUID} >/tmp/exchange 2>&1\n\
         echo lab: exchanged $? $(tail -n 1 /tmp/exchange)\n\
         umdev exec -- umdev-inside device {UUID} >/tmp/inside 2>&1\n\
         echo lab: inside $? $(tail -n 1 /tmp/inside)\n\
         umdev exec -- umdev-inside often {UUID} >/tmp/inside 2>&1\n\
         echo lab: often $? $(tail -n 1 /tmp/inside)\n\
         for i in $(seq 100); do ps | grep -v grep | grep -q 'umdev exec' || break; sleep 0.1; done\n\
         ps | grep -v grep | grep -q 'umdev exec'; echo lab: supervised $?\n\
         cd /run/umdev/sys/class/mdev_bus/loopback0/mdev_supported_types/loopback-net\n\
         echo {PAGED} doorbell=page >create; echo lab: paged $? $(cat last_error)\n\
         cd /; echo 1 >/run/umdev/sys/bus/mdev/devices/{UUID}/remove\n\
         echo lab: removed $?\n\
         kill %1; wait %1\n\
         echo lab: left $?\n\
         grep -q /run/umdev /proc/mounts; echo lab: mounted $?\n\
         cat /tmp/log /tmp/exchange /tmp/inside"
    )
}

/// `paged` is how the answer to `doorbell=page` begins.
fn exchange_inside(name: KernelName, paged: &str) -> LabResult<()> {
    let _claim = claim()?;
    let kernel = Kernel::find(name)?;
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(&kernel, &["fuse", "tun"])?;
    initramfs.program(&program("umdevd")?, "umdevd")?;
    initramfs.program(&program("umdev")?, "umdev")?;
    initramfs.program(Path::new(env!("CARGO_BIN_EXE_umdev-exchange")), "umdev-exchange")?;
    initramfs.program(Path::new(env!("CARGO_BIN_EXE_umdev-inside")), "umdev-inside")?;
    let archive = initramfs.finish(&script())?;
    let mut vm = Vm::boot(&VmOptions { memory: Memory::Private, ..VmOptions::new(&kernel, &archive) })?;
    vm.wait_end(Duration::from_secs(240))?;
    println!("{}: the machine lived for {:.1} s", kernel.release(), vm.age().as_secs_f64());
    let said = |key: &str| vm.report(key, Duration::ZERO);
    assert_eq!(said("up")?, kernel.release());
    assert_eq!(said("inside")?, "0 regions 2, interrupts 2, closed on exec: true", "{}", vm.console());
    assert_eq!(said("often")?, "0 1000 calls, 0 failed, 0 descriptors left", "{}", vm.console());
    assert_eq!(said("supervised")?, "1", "{}", vm.console());
    let results = [said("created")?, said("exchanged")?, said("removed")?, said("left")?, said("mounted")?];
    assert_eq!(results, ["0", "0 exchange: PASS", "0", "0", "1"], "{}", vm.console());
    assert!(said("paged")?.starts_with(paged), "{}", vm.console());
    Ok(())
}

#[test]
fn an_instance_passes_frames_inside_the_stock_kernel() -> LabResult<()> {
    exchange_inside(KernelName::Stock, "1 doorbell=page: clients cannot map files here")
}

#[test]
fn an_instance_passes_frames_inside_the_newer_kernel() -> LabResult<()> {
    exchange_inside(KernelName::Newer, "0")
}
