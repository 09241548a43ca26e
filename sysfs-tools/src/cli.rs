//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use uuid::Uuid;

/// Creates, removes and watches mediated devices that umdevd serves.
///
/// Every command reads or writes files below the root, as a shell could; watch and trace ask its socket fd.sock.
#[derive(Debug, Parser)]
#[command(
    name = "umdev",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  umdev types                                     what can be created
  umdev create loopback-net                      an instance with a new UUID, which is printed
  umdev create tap0/tap-net owner=alice mtu=9000  with settings, its files handed to alice
  umdev list                                      what there is, and who uses it
  umdev show 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
  umdev stats --watch                             packets, bytes and drops of each, a second
  umdev remove 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
  umdev --json list | jq -r '.[] | select(.state == \"idle\") | .uuid'
  umdev doctor                                    what this machine lacks
  umdev conformance 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
  umdev exec -- qemu-system-x86_64 ...            a VFIO program, unmodified

Exit codes:
  0  done
  1  refused or failed; the reason is on standard error
  2  the command line is wrong

JSON:
  --json prints one document; its keys are never renamed or removed, what is unknown is null. watch and
  trace print one object a line. The help of each command shows the shape of its document."
)]
pub struct Cli {
    /// Where umdevd serves its tree
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/umdev")]
    pub root: PathBuf,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the types that can be created
    #[command(after_help = "\
Columns:
  PARENT       the parent device, a name below sys/class/mdev_bus
  TYPE         what `create` takes
  AVAILABLE    how many more instances can be created now
  DEVICE_API   what an instance speaks, e.g. virtio-mdev
  DMA_MODEL    how it reaches a client's memory: vfio (the container's mappings), vhost (IOTLB messages)

With -v the parameters of `create` are listed instead: their values (a range, 2^n for a power of two, or a shape),
and what they are unless given. A shell reads them in mdev_supported_types/TYPE/parameters, one a line.

JSON:
  [{\"parent\", \"type\", \"available_instances\": N, \"device_api\", \"dma_model\", \"name\", \"description\",
    \"parameters\": [{\"name\", \"values\", \"default\", \"what\"}]}]")]
    Types {
        /// List the parameters that `create` takes
        #[arg(short, long)]
        verbose: bool,
    },

    /// List the instances
    #[command(after_help = "\
STATE is one word:
  idle          no client
  open          a client has the vhost file open
  running       its driver set DRIVER_OK
  needs_reset   it stopped on a malformed ring or a bad address; a reset by its driver revives it
  broken        the vendor's code failed; remove it

JSON:
  [{\"uuid\", \"parent\", \"type\", \"state\", \"driver\", \"iommu_group\": N, \"owner\"}]")]
    List,

    /// Create an instance and print its UUID
    #[command(
        override_usage = "umdev create [OPTIONS] <TYPE|PARENT/TYPE> [UUID] [KEY=VALUE]...",
        after_help = "\
Which settings a type takes, with their ranges and defaults, is told by `umdev types -v`. They are checked as a
whole, and applied all or none. owner=USER[:GROUP] hands all files of the instance to that user.

Examples:
  umdev create loopback-net
  umdev create loopback0/loopback-net 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
  umdev create tap-net mac=52:54:00:12:34:56 owner=alice
  umdev create tap-net pairs=4 queue-size=256 features=-mrg_rxbuf
  umdev create tap-net doorbell=page

The same by a shell:
  echo UUID > ROOT/sys/class/mdev_bus/PARENT/mdev_supported_types/TYPE/create

JSON:
  {\"uuid\", \"parent\", \"type\", \"iommu_group\": N, \"vhost\": PATH}"
    )]
    Create {
        /// The type; its parent may be left out when only one parent has it
        #[arg(value_name = "TYPE|PARENT/TYPE")]
        target: TypeSpec,
        /// The UUID, a random one if none is given; then settings as key=value
        #[arg(value_name = "UUID|KEY=VALUE")]
        words: Vec<CreateWord>,
    },

    /// Remove an instance
    #[command(after_help = "\
The client of an instance in use is asked to let go first; when it does not within a bounded time, the
removal is refused (EBUSY). --force takes the instance from its client at once; the client's further
calls on its files fail.

The same by a shell:
  echo 1 > ROOT/sys/bus/mdev/devices/UUID/remove
  echo force > ROOT/sys/bus/mdev/devices/UUID/remove

JSON:
  {\"uuid\"}")]
    Remove {
        /// The instance
        uuid: Uuid,
        /// Take it from its client, without asking
        #[arg(long)]
        force: bool,
    },

    /// Show everything about one instance
    #[command(after_help = "\
JSON:
  what `list` has, and
  \"device_api\", \"driver_override\", \"last_error\",
  \"devices\": {\"vhost\": PATH, \"vhost_vdpa\": PATH, \"vfio_group\": PATH, \"vfio_dev\": NAME},
  \"attributes\": {NAME: {\"value\": TEXT} or {\"error\": WORDS}}")]
    Show {
        /// The instance
        uuid: Uuid,
    },

    /// Print what instances count: packets, bytes, and drops by reason
    #[command(after_help = "\
Columns:
  rx is what the driver of the instance receives, tx what it sends
  QUEUE    the queue, then the sums of all
  WHY      drops by reason

Without an instance there is a line for each, with its sums. With --watch the table shows what is counted a second.

Examples:
  umdev stats
  umdev stats --watch=5 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
  umdev stats /run/umdev/dev/vhost-vdpa-0
  umdev --json stats | jq '.[] | select(.statistics.rx_dropped > 0) | .uuid'

The same by a shell:
  cat ROOT/sys/bus/mdev/devices/UUID/statistics/rx_packets

JSON:
  [{\"uuid\", \"parent\", \"type\", \"statistics\": {NAME: N},
    \"queues\": [{\"direction\": \"rx\"|\"tx\", \"queue\": N, \"counters\": {NAME: N}}]}]
  with --watch a line every time, {\"time\": SECONDS, \"instances\": [...]}; counts are totals")]
    Stats {
        /// An instance, its directory, or a device file of it
        #[arg(value_name = "PATH|UUID")]
        target: Option<String>,
        /// Print again and again, every second unless said otherwise
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = seconds)]
        watch: Option<f64>,
    },

    /// Print the events of the bus as they happen
    #[command(after_help = "\
Times are UTC. A reader too slow loses events and is told how many.

Examples:
  umdev watch
  umdev --json watch | jq -c 'select(.event == \"state\")'

JSON:
  {\"event\": \"create\"|\"remove\"|\"bind\"|\"unbind\"|\"open\"|\"close\"|\"state\"|\"remove_request\"|
   \"parent_add\"|\"parent_remove\", \"time\": SECONDS, \"parent\", \"type\", \"uuid\", \"driver\", \"state\"}; what does not apply is absent
  {\"event\": \"lost\", \"count\": N}")]
    Watch,

    /// Print the ioctls on an instance's files as they happen
    #[command(after_help = "\
A line reads as strace would write it: time (UTC), thread of the caller, file, call, result.

Example:
  umdev trace 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
  08:40:12.345Z [4711] vhost VHOST_SET_VRING_NUM(index=0, num=256) = 0

JSON:
  {\"time\": SECONDS, \"tid\": N, \"file\": \"vhost\"|\"group\"|\"container\", \"call\", \"args\": {…}, \"result\": N, \"errno\"}
  {\"event\": \"lost\", \"count\": N}")]
    Trace {
        /// The instance
        uuid: Uuid,
    },

    /// Drive a device through the rules of vhost-vdpa and say which it keeps
    #[command(after_help = "\
The device must not be in use: it is opened, brought up, sent frames, suspended and reset many times, and is left
reset and closed. The link of a network card sees frames of the experimental Ethernet type 0x88b5.
Rules that need frames are for network cards.

One line a rule:
  pass   the device keeps it
  FAIL   it does not; the line says what was seen and what is expected
  skip   it could not be tried, for the reason given

Rules are named FAMILY.RULE. It exits with 1 when a rule failed. A call that a device never answers is named, and
the rules behind it are skipped; the call itself ends when the device's server does.

Examples:
  umdev conformance 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
  umdev conformance /dev/vhost-vdpa-0
  umdev --json conformance /dev/vhost-vdpa-0 | jq -r '.rules[] | select(.verdict == \"fail\") | .rule'

JSON:
  {\"version\", \"path\", \"conforms\": BOOL, \"passed\": N, \"failed\": N, \"skipped\": N,
   \"rules\": [{\"rule\", \"reference\", \"verdict\": \"pass\"|\"fail\"|\"skip\", \"expected\", \"seen\", \"reason\"}]}")]
    Conformance {
        /// A vhost-vdpa file, or an instance
        #[arg(value_name = "PATH|UUID")]
        target: String,

        /// How long a call may take; one that takes longer ends the examination
        #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
        timeout: u64,
    },

    /// Run a program that finds the tree at the kernel's own paths
    #[command(
        override_usage = "umdev exec [OPTIONS] -- <PROGRAM> [ARGUMENT]...",
        after_help = "\
The program, and all it starts, sees the tree of ROOT where it would see the kernel's: /dev/vfio/vfio and
/dev/vfio/GROUP, /dev/vfio/devices, /dev/iommu, /dev/vhost-vdpa-N, /sys/bus/mdev, /sys/class/mdev_bus,
/sys/devices/virtual/mdev, /sys/kernel/iommu_groups. What really is in these directories stays there beside it; of two
of one name ours is shown (/dev/vfio/vfio, /dev/iommu), but /dev/vhost-net is the kernel's where there is one. A real
group is seen, and cannot be put into a container of ours. Nothing changes for other programs. Instances made later,
and a daemon that was started again, are seen too.

VFIO_GROUP_GET_DEVICE_FD gives the program a descriptor, and so do migration states with a data stream; without exec
they do not.

It is the program that runs, not a parent of it: number, terminal, signals and exit code are its own. A process
beside it answers its ioctls for as long as it or anything it started runs.

Needs Linux 5.14, and CAP_SYS_ADMIN or user name spaces. In a user name space (for who has no CAP_SYS_ADMIN)
setuid programs have no effect, and a daemon started again is found only where mounts are shared, as
systemd makes them. A signal whose handler has no SA_RESTART may interrupt these ioctls (EINTR) before they have
begun. One seccomp listener is possible: no exec within exec, or where a container manager has one.

Examples:
  umdev exec -- qemu-system-x86_64 -device vfio-pci,sysfsdev=/sys/bus/mdev/devices/UUID ...
  umdev --root /run/other exec -- mdevctl list
  umdev exec -- sh -c 'ls -l /dev/vfio /sys/bus/mdev/devices'

Exit codes:
  those of the program; 125 exec failed, 126 the program cannot be started, 127 there is no such program"
    )]
    Exec {
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
        command: Vec<OsString>,
    },

    /// Say what this machine lacks, and the way out
    #[command(after_help = "\
One line a check:
  ok        nothing to do
  warn      umdevd works, but slower or for fewer clients
  missing   not there; umdevd works without it unless the line says `required`

Run it as the user that umdevd runs as, normally root. It exits with 1 only when something required is missing.

JSON:
  {\"version\", \"root\", \"able\": BOOL,
   \"checks\": [{\"check\", \"status\": \"ok\"|\"warn\"|\"missing\", \"required\": BOOL, \"found\", \"remedy\"}]}")]
    Doctor,
}

/// A time to wait, of a hundredth of a second to an hour.
fn seconds(text: &str) -> Result<f64, &'static str> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds.ok_or("not a number in 0.01..3600")
}

/// `TYPE` or `PARENT/TYPE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeSpec {
    /// The parent, where it was named.
    pub parent: Option<String>,
    /// The type.
    pub name: String,
}

impl FromStr for TypeSpec {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (parent, name) = match text.split_once('/') {
            Some((parent, name)) => (Some(parent.to_owned()), name),
            None => (None, text),
        };
        if name.is_empty() || name.contains('/') || parent.as_deref() == Some("") {
            return Err("expected TYPE or PARENT/TYPE");
        }
        Ok(Self { parent, name: name.to_owned() })
    }
}

impl fmt::Display for TypeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.parent {
            Some(parent) => write!(f, "{parent}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A word after the type of `create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateWord {
    /// The UUID.
    Uuid(Uuid),
    /// `key=value`.
    Setting(String),
}

impl FromStr for CreateWord {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some(("", _)) => Err("a setting is key=value"),
            // The line that `create` takes is separated by white space and ends at the first newline.
            Some(_) if text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
                Err("a setting has no white space or control characters in it")
            }
            Some(_) => Ok(Self::Setting(text.to_owned())),
            None => Uuid::try_parse(text).map(Self::Uuid).map_err(|_| "neither a UUID nor key=value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, CreateWord, TypeSpec};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_type_is_named_with_or_without_its_parent() {
        assert_eq!("a-net".parse(), Ok(TypeSpec { parent: None, name: "a-net".into() }));
        assert_eq!("a/a-net".parse(), Ok(TypeSpec { parent: Some("a".into()), name: "a-net".into() }));
        for wrong in ["", "/", "a/", "/a", "a/b/c"] {
            assert!(wrong.parse::<TypeSpec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_setting_cannot_smuggle_a_second_one() {
        for wrong in ["mac=1 owner=root", "mac=1\nowner=root", "mac=\0", "=1"] {
            assert!(wrong.parse::<CreateWord>().is_err(), "{wrong:?}");
        }
        assert_eq!("mac=".parse(), Ok(CreateWord::Setting("mac=".into())));
    }
}
