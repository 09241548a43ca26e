//! `umdevd`, the stock daemon.

use clap::{Parser, ValueEnum};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use umdevd::config::{Config, ParentSpec};
use umdevd::{Daemon, DaemonError};

const EXAMPLES: &str = "\
Examples:
  umdevd                                         serve /run/umdev with a loopback and, where permitted, a tap parent
  umdevd --root /tmp/u --parent loopback:lo0,capacity=4
  umdevd --config /etc/umdevd.toml

Then, in a shell:
  cd /run/umdev/sys/class/mdev_bus/loopback0/mdev_supported_types/loopback-net
  cat description available_instances
  uuidgen > create
  umdev list

Parents:
  loopback   instances return every frame they are sent; types loopback-net, loopback-net-fast, loopback-net-cvq,
             loopback-net-iommu; or only give, or only take: loopback-source, loopback-source-fast, loopback-sink,
             loopback-sink-fast
  tap        instances are virtio-net devices on TAP interfaces; types tap-net, tap-net-fast
  switch     instances are ports of a learning switch; types switch-access (one VLAN), switch-trunk (several, with tags) and
             switch-uplink (all), each with -fast; uplink=tap:NAME makes an interface of the host that is a port as well,
             ageing=SECONDS (300) and fdb=N (8192) are of its forwarding table
  mtty       instances are PCI serial cards, for VFIO alone; types mtty-1, mtty-2 of one and two ports
  All know capacity=N, the number of instances they have room for; of mtty it is the number of ports (24).
  loopback, tap and switch know how their queues are served:
    threads=N    most threads, which all instances share; a queue pair is served by one at a time (1)
    cpus=LIST    processors the threads run on, one after the other, such as 2-3+6 (any)
    poll-us=N    most microseconds to look for work before a thread sleeps; it looks shorter, or not at all, while that
                 meets nothing (50)

What `create` made is restored when the daemon starts again in the same boot; it is kept in DIR.state beside DIR.
SIGTERM unmounts and ends the daemon. One daemon serves a root.";

/// Serves mediated devices from user space, as the kernel's mdev bus, VFIO and vhost would.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Where to mount the tree
    #[arg(long, value_name = "DIR", default_value = "/run/umdev")]
    root: PathBuf,
    /// A TOML file: parents and how patient to be
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A parent to register; may be given several times
    #[arg(long = "parent", value_name = "KIND[:NAME][,key=value…]")]
    parents: Vec<String>,
    /// What to log: error, warn, info, debug, trace, or directives such as vhost_mdev=debug
    #[arg(long, value_name = "FILTER", env = "UMDEV_LOG", default_value = "info")]
    log: String,
    /// How to log to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = log_to_stderr(&arguments) {
        eprintln!("umdevd: {error}");
        return ExitCode::from(2);
    }
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("umdevd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), DaemonError> {
    let config = arguments.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let mut specs = config.parents()?;
    for text in &arguments.parents {
        specs.push(ParentSpec::parse(text)?);
    }
    if specs.is_empty() {
        specs = umdevd::default_parents();
    }
    let mut builder = Daemon::builder(&arguments.root).stock_parents(&specs)?;
    if let Some(patience) = config.remove_patience()? {
        builder = builder.remove_patience(patience);
    }
    if let Some(deadline) = config.vendor_deadline()? {
        builder = builder.vendor_deadline(deadline);
    }
    builder.start()?.run()
}

fn log_to_stderr(arguments: &Arguments) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(&arguments.log)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
