//! `umdev-vhost-vfio`: the program around the library.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use qemu_backend_shim::device::Device;
use qemu_backend_shim::events::Events;
use qemu_backend_shim::instance::MdevInstance;
use qemu_backend_shim::server::{Outcome, serve};
use qemu_backend_shim::socket::ListeningSocket;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Serve a mediated virtio-net instance to QEMU or DPDK over vhost-user.
///
/// The program drives the instance through its vhost file and its VFIO group alone. The front end's memory must be shared (QEMU:
/// memory-backend-memfd,share=on); its packets and notifications never pass this process. Front ends are served one after the other.
#[derive(Debug, Parser)]
#[command(
    name = "umdev-vhost-vfio",
    version,
    after_help = "\
Exit codes:
  0  stopped by SIGTERM or SIGINT
  1  could not start, or failed; the reason is on standard error
  2  wrong arguments
  3  the instance is gone: it was removed or is about to be, or its daemon ended

Example:
  umdev-vhost-vfio --sysfsdev /run/umdev/sys/bus/mdev/devices/UUID --socket /run/vm0.sock &
  qemu-system-x86_64 -accel tcg -m 512 \\
    -object memory-backend-memfd,id=m,size=512M,share=on -machine q35,memory-backend=m \\
    -chardev socket,id=c,path=/run/vm0.sock -netdev vhost-user,id=n,chardev=c \\
    -device virtio-net-pci,netdev=n,disable-legacy=on
  (QEMU 7.2 without KVM also needs vectors=0 on the device.)

Environment:
  RUST_LOG  what is logged to standard error: error, warn, info (default), debug"
)]
struct Arguments {
    /// Where umdevd serves its tree
    #[arg(long, value_name = "DIR", default_value = "/run/umdev")]
    root: PathBuf,
    /// The instance's directory in the tree, DIR/sys/bus/mdev/devices/UUID
    #[arg(long, value_name = "PATH")]
    sysfsdev: PathBuf,
    /// The vhost-user socket to serve; a stale one is replaced
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

/// See the help text.
const EXIT_INSTANCE_GONE: u8 = 3;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    match run(&Arguments::parse()) {
        Ok(Outcome::Stopped) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Ok(Outcome::InstanceGone(how)) => {
            error!("the instance is gone: {how}");
            ExitCode::from(EXIT_INSTANCE_GONE)
        }
        Err(e) => {
            error!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Outcome, Box<dyn std::error::Error>> {
    // before any thread is there to take them
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;

    let instance = MdevInstance::open(&arguments.root, &arguments.sysfsdev)?;
    let uuid = arguments.sysfsdev.file_name().unwrap_or_default().to_string_lossy();
    let events = Events::watch(&arguments.root, &uuid);
    let socket =
        ListeningSocket::bind(&arguments.socket).map_err(|e| format!("{}: {e}", arguments.socket.display()))?;
    info!(instance = %arguments.sysfsdev.display(), socket = %arguments.socket.display(), "ready");
    Ok(serve(Device::new(instance), events, socket.listener(), stop.as_fd())?)
}
