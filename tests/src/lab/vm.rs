//! A virtual machine: unmodified QEMU under software emulation.

use super::kernel::Kernel;
use super::netns::Netns;
use super::process::Running;
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
    /// A vhost-user back end's, behind this socket.
    VhostUser(PathBuf),
    /// A vhost-vdpa device.
    VhostVdpa(PathBuf),
}

/// How QEMU allocates the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// As a memfd that others can map.
    Shared,
    /// As anonymous memory of its own.
    Private,
}

/// What to boot.
#[derive(Debug)]
pub struct VmOptions<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The root file system.
    pub initramfs: &'a Path,
    /// The network device.
    pub netdev: Netdev,
    /// The kind of memory.
    pub memory: Memory,
    /// Its size in MiB.
    pub mebibytes: u32,
    /// Where QEMU runs.
    pub netns: Option<&'a Netns>,
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
        let command = command(options);
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

fn command(options: &VmOptions<'_>) -> Vec<String> {
    let size = options.mebibytes;
    let memory = match options.memory {
        Memory::Shared => format!("memory-backend-memfd,id=m,size={size}M,share=on"),
        Memory::Private => format!("memory-backend-ram,id=m,size={size}M,share=off"),
    };
    let mut words = vec!["qemu-system-x86_64".to_owned()];
    let mut add = |text: &str| words.extend(text.split_whitespace().map(str::to_owned));
    add("-nodefaults -no-user-config -no-reboot -nographic -serial stdio -accel tcg -smp 1");
    add(&format!("-m {size} -object {memory} -machine q35,memory-backend=m"));
    add(&format!("-kernel {} -initrd {}", options.kernel.image().display(), options.initramfs.display()));
    // QEMU 7.2 without KVM fails on a vhost-user device with MSI-X
    let (netdev, vectors) = match &options.netdev {
        Netdev::None => (None, ""),
        Netdev::Tap(name) => (Some(format!("tap,id=n,ifname={name},script=no,downscript=no,vhost=off")), ""),
        Netdev::VhostUser(socket) => {
            add(&format!("-chardev socket,id=c,path={}", socket.display()));
            (Some("vhost-user,id=n,chardev=c".to_owned()), ",vectors=0")
        }
        Netdev::VhostVdpa(path) => (Some(format!("vhost-vdpa,id=n,vhostdev={}", path.display())), ""),
    };
    if let Some(netdev) = netdev {
        add(&format!("-netdev {netdev} -device virtio-net-pci,netdev=n,disable-legacy=on,romfile={vectors}"));
    }
    words.push("-append".into());
    words.push("console=ttyS0 quiet loglevel=1 panic=-1".into());
    words
}
