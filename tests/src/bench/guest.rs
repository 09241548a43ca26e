//! A TAP interface behind a guest under software emulation: QEMU's own virtio-net, ours by vhost-user, ours by vhost-vdpa.
//! Three guests of one image run at a time, and the traffic goes to each in turn.

use crate::bench::traffic::Traffic;
use serde::Serialize;
use std::net::Ipv4Addr;
use std::time::Duration;
use tempfile::TempDir;
use umdev_tests::lab::{
    Claim, Daemon, DaemonOptions, Initramfs, Kernel, KernelName, LabError, LabResult, MODULES, Netdev, Netns, QemuName,
    Shim, Vdpa, VdpaWay, Vm, VmOptions, claim, program, wait_until,
};
use uuid::Uuid;

/// Times that every guest has its turn with each kind of traffic.
pub const ROUNDS: usize = 9;
/// How long a turn is.
const TURN: Duration = Duration::from_secs(1);
const BOOT: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(5);
const NAMESPACE: &str = "umdev-bench";
/// Takes the address that the card's own says, and serves.
const SCRIPT: &str = "\
ip link set lo up; ip link set eth0 up
number=$(sed 's/.*:0*//' /sys/class/net/eth0/address)
ip addr add 10.213.$number.2/24 dev eth0
umdev-traffic";

/// What serves the guest's rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Qemu,
    VhostUser,
    VhostVdpa,
}

impl Way {
    const ALL: [Self; 3] = [Self::Qemu, Self::VhostUser, Self::VhostVdpa];

    fn name(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU",
            Self::VhostUser => "vhost-user",
            Self::VhostVdpa => "vhost-vdpa",
        }
    }

    /// Its interface, the last byte of its guest's address, and the third of their network.
    fn number(self) -> u8 {
        match self {
            Self::Qemu => 1,
            Self::VhostUser => 2,
            Self::VhostVdpa => 3,
        }
    }

    fn interface(self) -> String {
        format!("bench{}", self.number())
    }
}

/// One kind of traffic, by one of our ways and by QEMU's own.
#[derive(Debug, Serialize)]
pub struct GuestTraffic {
    /// What passed, and what was counted.
    pub traffic: &'static str,
    /// The way.
    pub way: &'static str,
    /// The median by QEMU's own virtio-net.
    pub qemu: f64,
    /// The median by this way.
    pub this: f64,
    /// This way by QEMU's, of the turns that are next to each other: median, least, most.
    pub ratio: [f64; 3],
}

/// Three guests and what they are connected to. Dropped in this order.
struct Guests {
    vms: Vec<Vm>,
    _shim: Shim,
    daemon: Daemon,
    netns: Netns,
    _files: Initramfs,
    _dir: TempDir,
    _claim: Claim,
}

impl Guests {
    fn boot() -> LabResult<Self> {
        let claim = claim()?;
        let dir = tempfile::Builder::new().prefix("umdev-bench-").tempdir().map_err(LabError::io("a directory"))?;
        let netns = Netns::create(NAMESPACE)?;
        let root = dir.path().join("root");
        let daemon = Daemon::start(&DaemonOptions { root: &root, parents: &["tap:tap0"], netns: Some(&netns) })?;
        let uuids = Way::ALL.map(|_| Uuid::new_v4().to_string());
        for (way, uuid) in Way::ALL.into_iter().zip(&uuids) {
            let interface = way.interface();
            match way {
                Way::Qemu => drop(netns.run(&format!("ip tuntap add dev {interface} mode tap vnet_hdr"))?),
                _ => daemon.create("tap0", "tap-net-fast", &format!("{uuid} ifname={interface}"))?,
            }
            wait_until(&format!("the interface {interface}"), SOON, || netns.has_interface(&interface))?;
            netns.address(&interface, &format!("10.213.{}.1/24", way.number()))?;
        }
        let shim = Shim::start(&daemon, &uuids[1], &dir.path().join("vhost-user.sock"))?;
        let kernel = Kernel::find(KernelName::Stock)?;
        let mut files = Initramfs::new()?;
        files.modules(&kernel, &MODULES)?;
        files.program(&program("umdev-traffic")?, "umdev-traffic")?;
        let archive = files.finish(SCRIPT)?;
        let boot = |(way, uuid): (Way, &String)| {
            let netdev = match way {
                Way::Qemu => Netdev::Tap(way.interface()),
                Way::VhostUser => Netdev::VhostUser(shim.socket().to_path_buf()),
                Way::VhostVdpa => Netdev::VhostVdpa(Vdpa::new(daemon.vhost_file(uuid), VdpaWay::Plain)),
            };
            let (mac, netns) = (format!("52:54:00:00:00:{:02}", way.number()), Some(&netns));
            let options = VmOptions::new(&kernel, &archive);
            Vm::boot(&VmOptions { qemu: QemuName::Newer, netdev, mac: Some(&mac), mebibytes: 256, netns, ..options })
        };
        let vms = Way::ALL.into_iter().zip(&uuids).map(boot).collect::<LabResult<Vec<_>>>()?;
        for vm in &vms {
            vm.report("traffic", BOOT)?;
        }
        Ok(Self { vms, _shim: shim, daemon, netns, _files: files, _dir: dir, _claim: claim })
    }

    /// A turn.
    fn measure(&self, way: Way, traffic: Traffic) -> LabResult<f64> {
        let address = Ipv4Addr::new(10, 213, way.number(), 2);
        let measured = self.netns.thread(move || traffic.measure(address, TURN)).join();
        let measured = measured.unwrap_or_else(|_| Err(LabError::Wrong(format!("{} panicked", traffic.name()))));
        measured.map_err(|error| {
            let consoles: Vec<_> = self.vms.iter().map(Vm::console).collect();
            LabError::Wrong(format!(
                "{}: {error}\n{}\n--- umdevd:\n{}",
                way.name(),
                consoles.join("\n"),
                self.daemon.log()
            ))
        })
    }
}

/// So many rounds; the way that begins is another one in each.
pub fn measure(rounds: usize) -> LabResult<Vec<GuestTraffic>> {
    let guests = Guests::boot()?;
    let mut all = Vec::new();
    for traffic in Traffic::ALL {
        let mut turns = Vec::new();
        for round in 0..rounds {
            let mut turn = [0.0; Way::ALL.len()];
            for at in (0..Way::ALL.len()).map(|at| (at + round) % Way::ALL.len()) {
                turn[at] = guests.measure(Way::ALL[at], traffic)?;
            }
            turns.push(turn);
        }
        let column = |at: usize| turns.iter().map(move |turn| turn[at]);
        for at in 1..Way::ALL.len() {
            let [ratio, least, most] = spread(column(at).zip(column(0)).map(|(this, qemu)| this / qemu).collect());
            let [qemu, this] = [0, at].map(|at| spread(column(at).collect())[0]);
            let (traffic, way) = (traffic.name(), Way::ALL[at].name());
            all.push(GuestTraffic { traffic, way, qemu, this, ratio: [ratio, least, most] });
        }
    }
    Ok(all)
}

/// Median, least and most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_unstable_by(f64::total_cmp);
    let middle = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
    [middle, values[0], values[values.len() - 1]]
}

/// For people.
pub fn print(guests: &[GuestTraffic]) {
    println!();
    let head = "a guest under software emulation, on a TAP interface";
    println!("{head:<64} {:>12} {:>10} {:>10} {:>8} {:>16}", "way", "QEMU", "this", "ratio", "least … most");
    for GuestTraffic { traffic, way, qemu, this, ratio: [ratio, least, most] } in guests {
        let spread = format!("{least:.2} … {most:.2}");
        println!("{traffic:<64} {way:>12} {qemu:>10.1} {this:>10.1} {ratio:>8.2} {spread:>16}");
    }
}
