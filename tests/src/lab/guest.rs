//! What a guest does to prove its network: takes an address, pings, fetches a file and sums it.

use super::netns::Netns;
use super::process::Running;
use super::vm::Vm;
use super::{LabError, LabResult};
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

/// The host's side of the guest's network.
pub const HOST_ADDRESS: &str = "10.213.0.1";
/// The network's prefix, in the form of `ip addr add`.
pub const GUEST_SUBNET: &str = "10.213.0.1/24";

const BOOT: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_secs(60);
const FETCH: Duration = Duration::from_secs(300);

/// A file the guest fetched.
#[derive(Debug, Clone)]
pub struct Download {
    /// Its checksum as the guest computed it.
    pub sha256: String,
    /// How long the guest took to fetch and sum it.
    pub took: Duration,
}

/// What the guest said.
#[derive(Debug, Clone)]
pub struct NetworkReport {
    /// The kernel's release.
    pub kernel: String,
    /// From QEMU's start to the script's.
    pub boot: Duration,
    /// The address it was given.
    pub address: String,
    /// How many transmit queues its driver uses.
    pub queues: u32,
    /// The summary line of `ping`.
    pub ping: String,
    /// The file.
    pub download: Download,
}

/// The modules such a guest needs.
pub const MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "af_packet"];

/// The beginning of a script: takes an address by DHCP and tells it.
pub const TAKE_ADDRESS: &str =
    "printf '#!/bin/sh\\n[ \"$1\" = bound ] && ip addr add $ip/24 dev $interface\\n' >/tmp/dhcp; chmod +x /tmp/dhcp
ip link set lo up; ip link set eth0 up
udhcpc -i eth0 -s /tmp/dhcp -q -n -t 20 -T 1 >/dev/null 2>&1
echo lab: address $(ip -4 -o addr show dev eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/')
";

fn fetch(from: &str) -> String {
    format!(
        "read start rest </proc/uptime\n\
         sum=$(wget -q -O - http://{from}/data | sha256sum)\n\
         read now rest </proc/uptime\n\
         echo lab: fetched ${{sum%% *}} $start $now"
    )
}

/// A script that takes an address by DHCP, pings the host and fetches `http://HOST_ADDRESS/data`.
pub fn network_script() -> String {
    network_script_with(HOST_ADDRESS)
}

/// The same with another guest instead of the host: [`server_script`]'s.
pub fn network_script_with(server: &str) -> String {
    let fetch = fetch(server);
    format!(
        "{TAKE_ADDRESS}\
         echo lab: queues $(ls -d /sys/class/net/eth0/queues/tx-* | wc -l)\n\
         ping -c 3 -i 0.2 {server} >/tmp/ping; echo lab: ping $(tail -n 2 /tmp/ping | head -n 1)\n\
         {fetch}"
    )
}

/// A script that takes an address by DHCP, fetches `http://HOST_ADDRESS/data`, and is the web server of that file until its
/// machine is ended.
pub fn server_script() -> String {
    format!(
        "{TAKE_ADDRESS}\
         mkdir /tmp/www; wget -q -O /tmp/www/data http://{HOST_ADDRESS}/data\n\
         httpd -h /tmp/www && echo lab: serving $(sha256sum </tmp/www/data)\n\
         sleep 1000"
    )
}

/// A script that takes an address and fetches `http://HOST_ADDRESS/data`, while it says all the time where it is to whoever forwards frames to it.
pub fn stream_script() -> String {
    format!("{TAKE_ADDRESS}ping -i 0.2 {HOST_ADDRESS} >/dev/null &\n{}", fetch(HOST_ADDRESS))
}

impl NetworkReport {
    /// Follows a guest that runs [`network_script`] to its end. `told` is called with each step.
    pub fn follow(vm: &mut Vm, mut told: impl FnMut(&str)) -> LabResult<Self> {
        let kernel = vm.report("up", BOOT)?;
        let boot = vm.age();
        told(&format!("Linux {kernel} is up after {:.1} s", boot.as_secs_f64()));
        let address = vm.report("address", STEP)?;
        if address.is_empty() {
            return Err(LabError::Wrong(format!("the guest was given no address\n{}", vm.console())));
        }
        told(&format!("it took the address {address}"));
        let queues = vm.report("queues", STEP)?;
        let queues = queues.parse().map_err(|_| LabError::Wrong(format!("{queues:?} transmit queues")))?;
        let ping = vm.report("ping", STEP)?;
        if !ping.contains("3 packets transmitted, 3 packets received") {
            return Err(LabError::Wrong(format!("the guest's ping failed: {ping}")));
        }
        told(&format!("it pinged the host: {ping}"));
        let download = Download::follow(vm)?;
        vm.wait_end(STEP)?;
        Ok(Self { kernel, boot, address, queues, ping, download })
    }
}

impl Download {
    /// Waits until a guest has fetched its file.
    pub fn follow(vm: &Vm) -> LabResult<Self> {
        let text = vm.report("fetched", FETCH)?;
        Self::parse(&text).ok_or_else(|| LabError::Wrong(format!("the guest fetched nothing: {text}")))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let sha256 = words.next()?.to_owned();
        let start: f64 = words.next()?.parse().ok()?;
        let now: f64 = words.next()?.parse().ok()?;
        Some(Self { sha256, took: Duration::try_from_secs_f64(now - start).ok()? })
    }
}

/// Hands out one address on an interface by DHCP. Ends on drop.
#[derive(Debug)]
pub struct DhcpServer {
    _running: Running,
    _dir: TempDir,
}

impl DhcpServer {
    /// Starts busybox's server on `interface`.
    pub fn start(netns: &Netns, interface: &str) -> LabResult<Self> {
        let dir = tempfile::Builder::new().prefix("umdev-dhcp-").tempdir().map_err(LabError::io("make a directory"))?;
        let (config, leases) = (dir.path().join("udhcpd.conf"), dir.path().join("leases"));
        let text = format!(
            "start 10.213.0.2\nend 10.213.0.9\ninterface {interface}\nlease_file {}\npidfile {}\noption subnet 255.255.255.0\n",
            leases.display(),
            dir.path().join("pid").display()
        );
        fs::write(&config, text).map_err(LabError::path("write", &config))?;
        fs::write(&leases, "").map_err(LabError::path("write", &leases))?;
        let command = ["/bin/busybox", "udhcpd", "-f", &config.to_string_lossy()].map(str::to_owned);
        Ok(Self { _running: Running::start("udhcpd", &netns.wrapper(), &command)?, _dir: dir })
    }
}
