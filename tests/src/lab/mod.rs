//! The lab: guards for everything a whole-system test starts (network namespaces, the daemon, the shim, servers, virtual machines), and the initramfs
//! of a guest. What a guard started is gone when it is dropped, and when the process dies.
//!
//! Whole-system tests share one machine. Each begins with [`claim`], so that they run one after the other whichever runner starts them.

mod daemon;
mod deps;
mod error;
mod guest;
mod http;
mod initramfs;
mod kernel;
mod machine;
mod netns;
mod pcap;
mod process;
mod qemu;
mod qmp;
mod scene;
mod shim;
mod vdpa;
mod vhost_net;
mod vm;

pub use daemon::{Daemon, DaemonOptions};
pub use deps::{cache_dir, program, require};
pub use error::{LabError, LabResult};
pub use guest::{
    DhcpServer, Download, GUEST_SUBNET, HOST_ADDRESS, MODULES, NetworkReport, TAKE_ADDRESS, network_script,
    network_script_with, server_script, stream_script,
};
pub use http::{HttpServer, sha256_of};
pub use initramfs::Initramfs;
pub use kernel::{Kernel, KernelName};
pub use machine::{Claim, claim};
pub use netns::Netns;
pub use pcap::{read_pcap, write_pcap};
pub use process::{Running, run, shell, wait_until};
pub use qemu::{QemuName, qemu_command};
pub use qmp::Monitor;
pub use scene::TapScene;
pub use shim::Shim;
pub use vdpa::{Vdpa, VdpaWay};
pub use vhost_net::{VhostNet, VhostNetScene};
pub use vm::{Mdev, Memory, Netdev, Vm, VmOptions};
