//! A guest of an unmodified QEMU with a serial card of ours, by `vfio-pci`: under `umdev exec`, and nothing else.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};
use umdev_tests::lab::{
    Daemon, DaemonOptions, Initramfs, Kernel, KernelName, LabError, LabResult, Mdev, QemuName, Vm, VmOptions, claim,
    sha256_of,
};
use uuid::Uuid;

const BOOT: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_secs(120);
const BYTES: usize = 16 << 10;

/// The first serial port that is not the console; it stays open, as a closed one drops its lines. Both ways at a time.
fn script() -> String {
    format!(
        "line=$(grep 16550A /proc/tty/driver/serial | grep -v '^0:' | head -n 1)\n\
         echo lab: port $line\n\
         exec 3<>/dev/ttyS${{line%%:*}}\n\
         stty raw -echo 115200 <&3\n\
         head -c {BYTES} /dev/urandom >/tmp/out\n\
         echo lab: sends $(sha256sum </tmp/out | cut -d ' ' -f 1)\n\
         cat /tmp/out >&3 &\n\
         echo lab: received $(head -c {BYTES} <&3 | sha256sum | cut -d ' ' -f 1)\n\
         wait\n\
         read word <&3; echo lab: word $word\n\
         echo lab: interrupts $(grep ttyS /proc/interrupts | tail -n 1)"
    )
}

fn exchange(name: KernelName) -> LabResult<()> {
    let _claim = claim()?;
    let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
    let root = dir.path().join("root");
    let daemon = Daemon::start(&DaemonOptions { root: &root, parents: &["mtty:mtty0"], netns: None })?;
    let uuid = Uuid::new_v4().to_string();
    daemon.create("mtty0", "mtty-1", &format!("{uuid} backend=pty"))?;
    let path = std::fs::read_to_string(daemon.instance_dir(&uuid).join("tty0")).map_err(LabError::io("read tty0"))?;
    let noctty = nix::fcntl::OFlag::O_NOCTTY.bits();
    let open = File::options().read(true).write(true).custom_flags(noctty).open(path.trim());
    let host = open.map_err(LabError::io("open the terminal"))?;

    let kernel = Kernel::find(name)?;
    let archive_of = Initramfs::new()?;
    let archive = archive_of.finish(&script())?;
    let mdev = Some(Mdev { root, uuid: uuid.clone() });
    let mut vm = Vm::boot(&VmOptions { qemu: QemuName::Newer, mdev, ..VmOptions::new(&kernel, &archive) })?;
    let follow = |vm: &mut Vm| -> LabResult<()> {
        println!("Linux {} has {}", vm.report("up", BOOT)?, vm.report("port", STEP)?);
        let sends = vm.report("sends", STEP)?;
        let data: Vec<u8> = (0..BYTES).map(|at| (at * 31 + at / 251).to_le_bytes()[0]).collect();
        let begun = Instant::now();
        let received = std::thread::scope(|scope| {
            scope.spawn(|| (&host).write_all(&data));
            let mut received = vec![0; BYTES];
            (&host).read_exact(&mut received).map(|()| received)
        });
        let received = received.map_err(LabError::io("read the terminal"))?;
        assert_eq!(sends, sha256_of(&received)?, "what the guest sent");
        assert_eq!(vm.report("received", STEP)?, sha256_of(&data)?, "what the guest received");
        println!("{BYTES} bytes each way took {:.1} s", begun.elapsed().as_secs_f64());
        (&host).write_all(b"goodbye\n").map_err(LabError::io("write to the terminal"))?;
        assert_eq!(vm.report("word", STEP)?, "goodbye");
        println!("interrupts: {}", vm.report("interrupts", STEP)?);
        vm.wait_end(STEP)
    };
    follow(&mut vm)
        .map_err(|error| LabError::Wrong(format!("{error}\n{}\n--- umdevd:\n{}", vm.console(), daemon.log())))?;
    let state =
        std::fs::read_to_string(daemon.instance_dir(&uuid).join("state")).map_err(LabError::io("read state"))?;
    assert_eq!(state.trim(), "idle");
    Ok(())
}

#[test]
fn a_guest_of_unmodified_qemu_exchanges_bytes_over_a_serial_card() -> LabResult<()> {
    exchange(KernelName::Newer)
}

#[cfg(feature = "full")]
#[test]
fn a_guest_of_debians_stock_kernel_exchanges_bytes_over_a_serial_card() -> LabResult<()> {
    exchange(KernelName::Stock)
}
