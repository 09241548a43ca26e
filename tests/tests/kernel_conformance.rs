//! The rules against the kernel's own vhost-vdpa, inside Debian's 6.12.

use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use umdev_tests::lab::{Initramfs, Kernel, KernelName, LabResult, Memory, Netdev, Vm, VmOptions, claim, program};

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// Both reports go to the console whole.
fn script() -> String {
    format!(
        "wait_for() {{ for i in $(seq 100); do grep -q \"$1\" \"$2\" && break; sleep 0.1; done; }}\n\
         umdev-vduse card0 >/tmp/card 2>&1 &\n\
         wait_for ready /tmp/card\n\
         vdpa dev add name card0 mgmtdev vduse; echo lab: added $?\n\
         umdev --json conformance /dev/vhost-vdpa-0 >/tmp/report 2>&1; echo lab: kernel $?\n\
         cat /tmp/report; echo lab: kernel-end\n\
         umdevd --root /run/umdev --parent loopback:loopback0 >/tmp/ready 2>/tmp/log &\n\
         wait_for 'ready on' /tmp/ready\n\
         echo {UUID} >/run/umdev/sys/class/mdev_bus/loopback0/mdev_supported_types/loopback-net/create\n\
         umdev --json conformance {UUID} >/tmp/report 2>&1; echo lab: ours $?\n\
         cat /tmp/report; echo lab: ours-end\n\
         cat /tmp/card /tmp/log"
    )
}

#[test]
fn the_kernel_differs_where_it_is_said() -> LabResult<()> {
    let _claim = claim()?;
    let kernel = Kernel::find(KernelName::Newer)?;
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(&kernel, &["fuse", "vduse", "vhost_vdpa"])?;
    for name in ["umdevd", "umdev"] {
        initramfs.program(&program(name)?, name)?;
    }
    initramfs.program(Path::new(env!("CARGO_BIN_EXE_umdev-vduse")), "umdev-vduse")?;
    initramfs.program(Path::new("/usr/sbin/vdpa"), "vdpa")?;
    let archive = initramfs.finish(&script())?;
    let mut vm = Vm::boot(&VmOptions {
        kernel: &kernel,
        initramfs: &archive,
        netdev: Netdev::None,
        memory: Memory::Private,
        mebibytes: 512,
        netns: None,
    })?;
    let ended = vm.wait_end(Duration::from_secs(240));
    println!("{}", vm.console());
    ended?;
    println!("the machine lived for {:.1} s", vm.age().as_secs_f64());
    Ok(())
}
