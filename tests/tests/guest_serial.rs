//! A guest of an unmodified QEMU with a serial card of ours, by `vfio-pci`: under `umdev exec`, and nothing else.

use nix::poll::{PollFd, PollFlags, poll};
use serde_json::json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use umdev_tests::lab::{
    Claim, Daemon, DaemonOptions, Initramfs, Kernel, KernelName, LabError, LabResult, Mdev, Monitor, QemuName, Vm,
    VmOptions, claim, sha256_of, wait_until,
};
use uuid::Uuid;

const BOOT: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_secs(120);
/// What goes each way.
const BYTES: usize = 16 << 10;

/// Opens the first serial port that is not the console. It stays open: a port that is closed drops its lines.
const OPEN: &str = "line=$(grep 16550A /proc/tty/driver/serial | grep -v '^0:' | head -n 1)
echo lab: port $line
exec 3<>/dev/ttyS${line%%:*}
stty raw -echo 115200 <&3
";

/// Sends random bytes while others are received, and then a word.
fn exchange_script() -> String {
    format!(
        "{OPEN}head -c {BYTES} /dev/urandom >/tmp/out\n\
         echo lab: sends $(sha256sum </tmp/out | cut -d ' ' -f 1)\n\
         cat /tmp/out >&3 &\n\
         echo lab: received $(head -c {BYTES} <&3 | sha256sum | cut -d ' ' -f 1)\n\
         wait\n\
         read word <&3; echo lab: word $word\n\
         echo lab: interrupts $(grep ttyS /proc/interrupts | tail -n 1)"
    )
}

/// Receives, sends for as long as a migration takes, and receives again.
fn stream_script() -> String {
    let receive = format!("$(head -c {BYTES} <&3 | sha256sum | cut -d ' ' -f 1)");
    format!(
        "{OPEN}head -c {STREAM} /dev/urandom >/tmp/out\n\
         echo lab: sends $(sha256sum </tmp/out | cut -d ' ' -f 1)\n\
         echo lab: before {receive}\n\
         cat /tmp/out >&3\n\
         echo lab: after {receive}"
    )
}

/// What a guest sends while it migrates.
const STREAM: usize = 64 << 10;

/// A daemon, and cards with terminals.
struct Cards {
    daemon: Daemon,
    dir: tempfile::TempDir,
    _claim: Claim,
}

struct Card {
    mdev: Mdev,
    terminal: File,
}

impl Cards {
    fn new() -> LabResult<Self> {
        let claim = claim()?;
        let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
        let root = dir.path().join("root");
        let daemon = Daemon::start(&DaemonOptions { root: &root, parents: &["mtty:mtty0"], netns: None })?;
        Ok(Self { daemon, dir, _claim: claim })
    }

    fn card(&self) -> LabResult<Card> {
        let uuid = Uuid::new_v4().to_string();
        self.daemon.create("mtty0", "mtty-1", &format!("{uuid} backend=pty"))?;
        let path = self.attribute(&uuid, "tty0")?;
        let noctty = nix::fcntl::OFlag::O_NOCTTY.bits();
        let terminal = File::options().read(true).write(true).custom_flags(noctty).open(&path);
        let terminal = terminal.map_err(LabError::path("open", Path::new(&path)))?;
        Ok(Card { mdev: Mdev { root: self.daemon.root().to_owned(), uuid }, terminal })
    }

    fn attribute(&self, uuid: &str, name: &str) -> LabResult<String> {
        let path = self.daemon.instance_dir(uuid).join(name);
        Ok(fs::read_to_string(&path).map_err(LabError::path("read", &path))?.trim().to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn explained(&self, error: LabError, vms: &[&Vm]) -> LabError {
        let consoles: Vec<_> = vms.iter().map(|vm| vm.console()).collect();
        LabError::Wrong(format!("{error}\n{}\n--- umdevd:\n{}", consoles.join("\n---\n"), self.daemon.log()))
    }
}

impl Card {
    fn write(&self, data: &[u8]) -> LabResult<()> {
        (&self.terminal).write_all(data).map_err(LabError::io("write to a terminal"))
    }

    /// What can be read within a while, at most `len` bytes.
    fn read(&self, len: usize) -> LabResult<Vec<u8>> {
        let mut fds = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 300_u16).map_err(LabError::errno("poll a terminal"))? == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; len];
        let read = (&self.terminal).read(&mut bytes).map_err(LabError::io("read a terminal"))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn read_all(&self, len: usize) -> LabResult<Vec<u8>> {
        let begun = Instant::now();
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.extend(self.read(len - bytes.len())?);
            if begun.elapsed() > STEP {
                return Err(LabError::Wrong(format!("{} of {len} bytes came", bytes.len())));
            }
        }
        Ok(bytes)
    }
}

/// Bytes that are not the same again soon.
fn bytes(seed: usize) -> Vec<u8> {
    (0..BYTES).map(|at| (at * 31 + at / 251 + seed).to_le_bytes()[0]).collect()
}

fn exchange(name: KernelName) -> LabResult<()> {
    let cards = Cards::new()?;
    let card = cards.card()?;
    let kernel = Kernel::find(name)?;
    let initramfs = Initramfs::new()?;
    let archive = initramfs.finish(&exchange_script())?;
    let mdev = Some(card.mdev.clone());
    let mut vm = Vm::boot(&VmOptions { qemu: QemuName::Newer, mdev, ..VmOptions::new(&kernel, &archive) })?;
    follow_exchange(&mut vm, &card).map_err(|error| cards.explained(error, &[&vm]))?;
    wait_until("the card to be free", STEP, || cards.attribute(&card.mdev.uuid, "state").is_ok_and(|is| is == "idle"))
}

fn follow_exchange(vm: &mut Vm, card: &Card) -> LabResult<()> {
    println!("Linux {} has {}", vm.report("up", BOOT)?, vm.report("port", STEP)?);
    let sends = vm.report("sends", STEP)?;
    let data = bytes(0);
    let begun = Instant::now();
    let received = std::thread::scope(|scope| {
        scope.spawn(|| card.write(&data));
        card.read_all(BYTES)
    });
    assert_eq!(sends, sha256_of(&received?)?, "what the guest sent");
    assert_eq!(vm.report("received", STEP)?, sha256_of(&data)?, "what the guest received");
    println!("{BYTES} bytes each way took {:.1} s", begun.elapsed().as_secs_f64());
    card.write(b"goodbye\n")?;
    assert_eq!(vm.report("word", STEP)?, "goodbye");
    println!("interrupts: {}", vm.report("interrupts", STEP)?);
    vm.wait_end(STEP)
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

/// As a card that is pulled out: what the guest reads is all ones, and it lives on. (QEMU gives up when the machine stops or is
/// reset, because it cannot reset the card.)
#[test]
fn a_card_that_is_taken_by_force_leaves_its_guest_running() -> LabResult<()> {
    let cards = Cards::new()?;
    let card = cards.card()?;
    let kernel = Kernel::find(KernelName::Newer)?;
    let initramfs = Initramfs::new()?;
    let archive = initramfs.finish(&format!(
        "{OPEN}echo lab: opened\nread go\necho gone >&3 &\nsleep 1\necho lab: alive $(cat /proc/uptime)\nread stay"
    ))?;
    let mdev = Some(card.mdev.clone());
    let mut vm = Vm::boot(&VmOptions { qemu: QemuName::Newer, mdev, ..VmOptions::new(&kernel, &archive) })?;
    let mut follow = || -> LabResult<()> {
        vm.report("opened", BOOT)?;
        let remove = cards.daemon.instance_dir(&card.mdev.uuid).join("remove");
        fs::write(&remove, "force").map_err(LabError::path("write", &remove))?;
        vm.qemu().say("go\n")?;
        vm.report("alive", STEP).map(drop)
    };
    let followed = follow();
    followed.map_err(|error| cards.explained(error, &[&vm]))?;
    assert!(!cards.daemon.instance_dir(&card.mdev.uuid).exists());
    // Another takes its place, and what the guest had open of it keeps nothing.
    cards.card().map(drop)
}

/// QEMU is asked for the card as the kernel's VFIO asks, and has the guest let go of it.
#[test]
fn a_card_that_is_removed_is_unplugged_by_its_guest() -> LabResult<()> {
    let cards = Cards::new()?;
    let card = cards.card()?;
    let kernel = Kernel::find(KernelName::Newer)?;
    let initramfs = Initramfs::new()?;
    let archive =
        initramfs.finish(&format!("{OPEN}echo lab: opened\nexec 3>&-\nread go\necho lab: alive\nread stay"))?;
    let mdev = Some(card.mdev.clone());
    let mut vm = Vm::boot(&VmOptions { qemu: QemuName::Newer, mdev, ..VmOptions::new(&kernel, &archive) })?;
    let mut follow = || -> LabResult<()> {
        vm.report("opened", BOOT)?;
        cards.daemon.remove(&card.mdev.uuid)?;
        vm.qemu().say("go\n")?;
        vm.report("alive", STEP).map(drop)
    };
    let followed = follow();
    followed.map_err(|error| cards.explained(error, &[&vm]))?;
    assert!(!cards.daemon.instance_dir(&card.mdev.uuid).exists());
    Ok(())
}

/// The guest sends all the while, and what both terminals got is what it sent.
#[test]
fn a_guest_migrates_between_two_serial_cards_while_it_sends() -> LabResult<()> {
    let cards = Cards::new()?;
    let ends = [cards.card()?, cards.card()?];
    let kernel = Kernel::find(KernelName::Newer)?;
    let initramfs = Initramfs::new()?;
    let archive = initramfs.finish(&stream_script())?;
    let monitors = [cards.path("source.qmp"), cards.path("destination.qmp")];
    let socket = cards.path("migration");
    let options = |side: usize| VmOptions {
        qemu: QemuName::Newer,
        mdev: Some(ends[side].mdev.clone()),
        monitor: Some(&monitors[side]),
        incoming: (side == 1).then_some(&socket),
        mebibytes: 256,
        ..VmOptions::new(&kernel, &archive)
    };
    let source = Vm::boot(&options(0))?;
    let sends = source.report("sends", BOOT)?;
    let mut destination = Vm::boot(&options(1))?;
    let mut from = Monitor::connect(&monitors[0])?;
    let mut to = Monitor::connect(&monitors[1])?;
    ends[0].write(&bytes(1))?;
    assert_eq!(source.report("before", STEP)?, sha256_of(&bytes(1))?);

    let (came, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let first = std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> LabResult<Vec<u8>> {
            let mut first = Vec::new();
            loop {
                let over = ended.load(Ordering::SeqCst);
                let read = ends[0].read(4096)?;
                if over && read.is_empty() {
                    return Ok(first);
                }
                first.extend(read);
                came.store(first.len(), Ordering::SeqCst);
            }
        });
        let moved = wait_until("bytes to flow", STEP, || came.load(Ordering::SeqCst) > STREAM / 16).and_then(|()| {
            from.execute("migrate", json!({ "uri": format!("unix:{}", socket.display()) }))?;
            from.migrated(STEP)
        });
        ended.store(true, Ordering::SeqCst);
        reader.join().expect("the reader").and_then(|first| Ok((first, moved?)))
    });
    let (mut received, said) = first.map_err(|error| cards.explained(error, &[&source, &destination]))?;
    assert_eq!(to.execute("query-status", json!({}))?["status"], "running");
    drop(source);

    let before = received.len();
    let mut follow = || -> LabResult<String> {
        received.extend(ends[1].read_all(STREAM - before)?);
        ends[1].write(&bytes(2))?;
        let after = destination.report("after", STEP)?;
        destination.wait_end(STEP)?;
        Ok(after)
    };
    let after = follow();
    let after = after.map_err(|error| cards.explained(error, &[&destination]))?;
    println!(
        "migrated in {} ms, {} ms of them stopped, {} bytes of vfio; {before} of {STREAM} bytes came before",
        said["total-time"], said["downtime"], said["vfio"]["transferred"]
    );
    assert!(before < STREAM, "the guest had sent all before it moved");
    assert_eq!(sha256_of(&received)?, sends, "what the guest sent, to one end and then to the other");
    assert_eq!(after, sha256_of(&bytes(2))?, "what it received afterwards");
    Ok(())
}
