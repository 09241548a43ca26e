//! A virtual machine: unmodified QEMU under software emulation.

use super::deps::program;
use super::kernel::Kernel;
use super::netns::Netns;
use super::process::Running;
use super::qemu::{QemuName, qemu_command};
use super::vdpa::{Vdpa, with_descriptor_9};
use super::vhost_net::VhostNet;
use super::{LabError, LabResult};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The guest's network device.
#[derive(Debug, Clone)]
pub enum Netdev {
    /// None at all.
    None,
    /// QEMU's own, on a tap interface that is there.
    Tap(String),
    /// QEMU's own, its rings in the daemon.
    VhostNet(VhostNet),
    /// A vhost-user back end's, behind this socket.
    VhostUser(PathBuf),
    /// A vhost-vdpa device.
    VhostVdpa(Vdpa),
}

impl Netdev {
    /// How many processors a guest needs to use all of its queues.
    pub fn processors(&self) -> u32 {
        match self {
            Self::VhostVdpa(vdpa) => vdpa.pairs().into(),
            _ => 1,
        }
    }
}

/// An instance that QEMU drives through VFIO, run by `umdev exec` as it is.
#[derive(Debug, Clone)]
pub struct Mdev {
    /// The mount of its daemon.
    pub root: PathBuf,
    /// The instance.
    pub uuid: String,
}

impl Mdev {
    fn wrapper(&self) -> LabResult<Vec<String>> {
        let umdev = program("umdev")?.display().to_string();
        Ok([&umdev, "--root", &self.root.display().to_string(), "exec", "--"].map(str::to_owned).into())
    }
}

/// How QEMU allocates the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// As a memfd that others can map. What holds firmware is private still.
    Shared,
    /// The same, firmware included (QEMU 10.0 alone).
    AllShared,
    /// As anonymous memory of its own.
    Private,
}

/// What to boot.
#[derive(Debug)]
pub struct VmOptions<'a> {
    /// The program.
    pub qemu: QemuName,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The root file system.
    pub initramfs: &'a Path,
    /// The network device.
    pub netdev: Netdev,
    /// Its address, where it is not to be QEMU's first.
    pub mac: Option<&'a str>,
    /// A device that it drives through VFIO.
    pub mdev: Option<Mdev>,
    /// The kind of memory.
    pub memory: Memory,
    /// Its size in MiB.
    pub mebibytes: u32,
    /// How many processors the guest has.
    pub processors: u32,
    /// Where QEMU runs.
    pub netns: Option<&'a Netns>,
    /// Where QEMU's monitor listens.
    pub monitor: Option<&'a Path>,
    /// The socket from which the guest comes, running, rather than boots.
    pub incoming: Option<&'a Path>,
}

impl<'a> VmOptions<'a> {
    /// A guest of the stock QEMU with one processor and 512 MiB that others can map, and without a network.
    pub fn new(kernel: &'a Kernel, initramfs: &'a Path) -> Self {
        Self {
            qemu: QemuName::Stock,
            kernel,
            initramfs,
            netdev: Netdev::None,
            mac: None,
            mdev: None,
            memory: Memory::Shared,
            mebibytes: 512,
            processors: 1,
            netns: None,
            monitor: None,
            incoming: None,
        }
    }
}

/// A running guest, its serial console captured. Killed on drop.
#[derive(Debug)]
pub struct Vm {
    qemu: Running,
    started: Instant,
}

impl Vm {
    /// Starts QEMU.
    pub fn boot(options: &VmOptions<'_>) -> LabResult<Self> {
        let command = command(options)?;
        let wrapper = options.netns.map(Netns::wrapper).unwrap_or_default();
        Ok(Self { qemu: Running::start("QEMU", &wrapper, &command)?, started: Instant::now() })
    }

    /// Waits for `lab: <key> …` on the console; what follows the key.
    pub fn report(&self, key: &str, patience: Duration) -> LabResult<String> {
        let marker = format!("lab: {key}");
        let line = self.qemu.wait_for(&marker, patience)?;
        Ok(line.split_once(&marker).map_or("", |(_, value)| value).trim().to_owned())
    }

    /// Waits for the end of the guest's script and of QEMU.
    pub fn wait_end(&mut self, patience: Duration) -> LabResult<()> {
        self.qemu.wait_for("lab: end", patience)?;
        let status = self.qemu.wait_end(Duration::from_secs(30))?;
        if status.success() {
            Ok(())
        } else {
            Err(LabError::Wrong(format!("QEMU ended with {status}:\n{}", self.qemu.tail())))
        }
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// QEMU itself.
    pub fn qemu(&mut self) -> &mut Running {
        &mut self.qemu
    }

    /// All the console showed, and what QEMU said.
    pub fn console(&self) -> String {
        self.qemu.output()
    }
}

fn command(options: &VmOptions<'_>) -> LabResult<Vec<String>> {
    let size = options.mebibytes;
    let memory = match options.memory {
        Memory::Shared | Memory::AllShared => format!("memory-backend-memfd,id=m,size={size}M,share=on"),
        Memory::Private => format!("memory-backend-ram,id=m,size={size}M,share=off"),
    };
    let mut words = match &options.netdev {
        Netdev::VhostVdpa(vdpa) => vdpa.wrapper(),
        Netdev::VhostNet(vhost_net) => with_descriptor_9(&vhost_net.file),
        _ => Vec::new(),
    };
    if let Some(mdev) = &options.mdev {
        words.extend(mdev.wrapper()?);
    }
    words.extend(qemu_command(options.qemu)?);
    let mut add = |text: &str| words.extend(text.split_whitespace().map(str::to_owned));
    add("-nodefaults -no-user-config -no-reboot -nographic -serial stdio -accel tcg");
    let firmware = if options.memory == Memory::AllShared { ",aux-ram-share=on" } else { "" };
    add(&format!("-smp {} -m {size} -object {memory} -machine q35,memory-backend=m{firmware}", options.processors));
    add(&format!("-kernel {} -initrd {}", options.kernel.image().display(), options.initramfs.display()));
    if let Some(mac) = options.mac {
        add(&format!("-global virtio-net-pci.mac={mac}"));
    }
    if let Some(socket) = options.monitor {
        add(&format!("-qmp unix:{},server=on,wait=off", socket.display()));
    }
    if let Some(socket) = options.incoming {
        add(&format!("-incoming unix:{}", socket.display()));
    }
    if let Some(mdev) = &options.mdev {
        // On a port of its own, where it can be unplugged.
        add("-device pcie-root-port,id=slot0,chassis=1");
        add(&format!("-device vfio-pci,bus=slot0,sysfsdev=/sys/bus/mdev/devices/{}", mdev.uuid));
    }
    let mut kernel_words = "console=ttyS0 quiet loglevel=1 panic=-1".to_owned();
    let card = "-device virtio-net-pci,netdev=n,disable-legacy=on,romfile=";
    match &options.netdev {
        Netdev::None => {}
        Netdev::Tap(name) => add(&format!("-netdev tap,id=n,ifname={name},script=no,downscript=no,vhost=off {card}")),
        Netdev::VhostNet(vhost_net) => add(&format!("{} {card}", vhost_net.arguments())),
        Netdev::VhostUser(socket) => {
            // QEMU 7.2 without KVM fails on a vhost-user device with MSI-X
            let vectors = if options.qemu == QemuName::Stock { ",vectors=0" } else { "" };
            let socket = socket.display();
            add(&format!("-chardev socket,id=c,path={socket} -netdev vhost-user,id=n,chardev=c {card}{vectors}"));
        }
        Netdev::VhostVdpa(vdpa) => {
            add(&vdpa.arguments());
            kernel_words.push_str(vdpa.kernel_words());
        }
    }
    words.extend(["-append".into(), kernel_words]);
    Ok(words)
}
