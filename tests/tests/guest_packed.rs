//! Two Debian guests in unmodified QEMU at two fast ports of a switch, over packed rings, two pairs of queues each, with
//! all offloads.

use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use umdev_tests::lab::{
    Daemon, DaemonOptions, Initramfs, Kernel, KernelName, LabError, LabResult, MODULES, Memory, Netdev, QemuName, Vdpa,
    VdpaWay, Vm, VmOptions, claim, program, shell,
};
use uuid::Uuid;

const BOOT: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_secs(120);
const PAIRS: u16 = 2;
/// Of the file that each of them has for the other.
const BYTES: u64 = 16 << 20;
/// How often it is fetched, from each processor in turn.
const FETCHES: u64 = 4;
const PINGS: u64 = 200;
/// The largest frame that is not a segmented one.
const MTU_FRAME: u64 = 1514;

/// What the guests have to accept: the numbers of virtio 1.3 §5.1.3 and §6.
const ACCEPTED: [(&str, usize); 13] = [
    ("CSUM", 0),
    ("GUEST_CSUM", 1),
    ("GUEST_TSO4", 7),
    ("GUEST_TSO6", 8),
    ("HOST_TSO4", 11),
    ("HOST_TSO6", 12),
    ("MRG_RXBUF", 15),
    ("CTRL_VQ", 17),
    ("GUEST_ANNOUNCE", 21),
    ("MQ", 22),
    ("INDIRECT_DESC", 28),
    ("EVENT_IDX", 29),
    ("RING_PACKED", 34),
];

/// What `ethtool -k` has to say.
const OFFLOADS: [&str; 5] =
    ["rx-checksumming", "tx-checksumming", "scatter-gather", "tcp-segmentation-offload", "tx-tcp6-segmentation"];

/// What both do: set the card up, fetch from the other guest while it fetches from this one, and ping it.
const SCRIPT: &str = "\
ip link set lo up; ip link set eth0 up; ip addr add $own/24 dev eth0
echo lab: features $(cat /sys/bus/virtio/devices/virtio0/features)
channels() { echo lab: $1 $(ethtool -l eth0 | sed -n 's/^Combined:[^0-9]*//p'); }
channels channels
ethtool -L eth0 combined 1; channels one
ethtool -L eth0 combined 2; channels both
echo lab: offloads $(ethtool -k eth0 | grep ': on' | sed 's/^[[:space:]]*//; s/:.*//')
mkdir /tmp/www; head -c $bytes /dev/urandom >/tmp/www/data; echo ready >/tmp/www/ready
httpd -h /tmp/www && echo lab: serving $(sha256sum </tmp/www/data | cut -d ' ' -f 1)
until wget -q -O /dev/null http://$other/ready 2>/dev/null; do sleep 0.2; done
sum() { taskset -c $(($1 % 2)) wget -q -O - http://$other/data | sha256sum | cut -d ' ' -f 1 >/tmp/sum$1; }
for number in $(seq $fetches); do sum $number & jobs=\"$jobs $!\"; done; wait $jobs
echo lab: fetched $(cat /tmp/sum*)
ping -q -c $pings -A -s 18 $other >/tmp/ping; echo lab: ping $(sed -n 's/ packets transmitted, \\([0-9]*\\) .*/ \\1/p' /tmp/ping)
echo lab: kicks $(ethtool -S eth0 | sed -n 's/ *tx\\(_queue_\\)\\?[01]_kicks: //p')
count='seen[$1] { split(seen[$1], names); for (at in names) if (names[at] == \"InCsumErrors\") sum += $at; next }'
echo lab: checksums $(awk \"$count { seen[\\$1] = \\$0 } END { print sum + 0 }\" /proc/net/snmp)
echo lab: complaints $(dmesg | grep 'NETDEV WATCHDOG\\|csum failure\\|is not a head\\|virtio.*error')
read go
";

/// The files of the guest 10.213.0.`own`, which has to do with 10.213.0.`other`.
fn guest(kernel: &Kernel, own: u8, other: u8) -> LabResult<(Initramfs, PathBuf)> {
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(kernel, &MODULES)?;
    initramfs.program(Path::new("/usr/sbin/ethtool"), "ethtool")?;
    let words = format!("own=10.213.0.{own} other=10.213.0.{other} bytes={BYTES} fetches={FETCHES} pings={PINGS}\n");
    let archive = initramfs.finish(&(words + SCRIPT))?;
    Ok((initramfs, archive))
}

/// The guest took what it was offered, and its card can be set up.
fn check_set_up(vm: &Vm) -> LabResult<()> {
    let features = vm.report("features", BOOT)?;
    println!("{}: {features}", vm.report("up", BOOT)?);
    let missing: Vec<_> = ACCEPTED.iter().filter(|(_, bit)| features.as_bytes().get(*bit) != Some(&b'1')).collect();
    assert!(missing.is_empty(), "{missing:?} were not accepted: {features}");
    for (key, expected) in [("channels", "2 2"), ("one", "2 1"), ("both", "2 2")] {
        assert_eq!(vm.report(key, STEP)?, expected, "{key}\n{}", vm.console());
    }
    let offloads = vm.report("offloads", STEP)?;
    assert!(OFFLOADS.iter().all(|name| offloads.split(' ').any(|is| is == *name)), "{offloads}");
    Ok(())
}

/// Nothing was lost or changed on its way from `sent` to this guest.
fn check_traffic(vm: &Vm, sent: &str) -> LabResult<()> {
    let fetched = vm.report("fetched", STEP)?;
    let sums: Vec<_> = fetched.split(' ').collect();
    assert_eq!(sums, vec![sent; sums.len()], "{}", vm.console());
    assert_eq!(sums.len() as u64, FETCHES);
    assert_eq!(vm.report("ping", STEP)?, format!("{PINGS} {PINGS}"), "{}", vm.console());
    let kicks = vm.report("kicks", STEP)?;
    assert!(kicks.split(' ').all(|kicks| kicks.parse::<u64>().is_ok_and(|kicks| kicks > 0)), "{kicks} kicks of queues");
    assert_eq!(kicks.split(' ').count(), usize::from(PAIRS), "kicks of queues: {kicks}");
    assert_eq!(vm.report("checksums", STEP)?, "0", "wrong checksums\n{}", vm.console());
    assert_eq!(vm.report("complaints", STEP)?, "", "of the driver");
    Ok(())
}

/// All queues of a port had frames, and large ones passed as they are.
fn check_statistics(root: &Path, uuid: &str) -> LabResult<()> {
    let umdev = program("umdev")?;
    let told = shell(&format!("{} --root {} --json stats {uuid}", umdev.display(), root.display()))?;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let queues = told[0]["queues"].as_array().expect("queues");
    let of = |queue: &Value, name: &str| queue["counters"][name].as_u64().expect("a counter");
    println!("{:?}", queues.iter().map(|queue| of(queue, "packets")).collect::<Vec<_>>());
    assert_eq!(queues.len(), 2 * usize::from(PAIRS));
    assert!(queues.iter().all(|queue| of(queue, "packets") > PINGS / 4), "{told}");
    let sum = |direction, name| {
        queues.iter().filter(|queue| queue["direction"] == direction).map(|queue| of(queue, name)).sum::<u64>()
    };
    let (bytes, packets) = (sum("rx", "bytes"), sum("rx", "packets"));
    assert!(bytes > FETCHES * BYTES && bytes > packets * MTU_FRAME, "{told}");
    let faults = [("rx", "too_long"), ("tx", "too_long"), ("tx", "too_short"), ("tx", "bad_header"), ("tx", "errors")];
    assert!(faults.iter().all(|(direction, name)| sum(*direction, name) == 0), "{told}");
    Ok(())
}

/// The threads that serve queues of the switch.
fn threads(daemon: Pid) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{daemon}/task")).into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("switch0")).collect()
}

#[test]
fn two_guests_with_two_packed_pairs_and_all_offloads_exchange_files_through_a_switch() -> LabResult<()> {
    let _claim = claim()?;
    let dir = tempfile::tempdir().map_err(LabError::io("make a directory"))?;
    let root = dir.path().join("root");
    let mut daemon = Daemon::start(&DaemonOptions { root: &root, parents: &["switch:switch0"], netns: None })?;
    let ports = ["52:54:00:00:00:01", "52:54:00:00:00:02"].map(|mac| (Uuid::new_v4().to_string(), mac));
    for (uuid, mac) in &ports {
        daemon.create("switch0", "switch-access-fast", &format!("{uuid} mac={mac} pairs={PAIRS} spoofchk=on"))?;
    }
    let kernels = [Kernel::find(KernelName::Newer)?, Kernel::find(KernelName::Stock)?];
    let files = [guest(&kernels[0], 1, 2)?, guest(&kernels[1], 2, 1)?];
    let boot = |at: usize| {
        let (uuid, mac) = &ports[at];
        let netdev = Netdev::VhostVdpa(Vdpa::new(daemon.vhost_file(uuid), VdpaWay::PackedPairs(PAIRS)));
        let (processors, memory) = (netdev.processors(), Memory::AllShared);
        let options = VmOptions::new(&kernels[at], &files[at].1);
        Vm::boot(&VmOptions { qemu: QemuName::Newer, netdev, mac: Some(mac), memory, processors, ..options })
    };
    let vms = [boot(0)?, boot(1)?];
    vms.iter().try_for_each(check_set_up)?;
    let [first, second] = [vms[0].report("serving", STEP)?, vms[1].report("serving", STEP)?];
    assert_ne!(first, second);
    check_traffic(&vms[0], &second)?;
    check_traffic(&vms[1], &first)?;
    ports.iter().try_for_each(|(uuid, _)| check_statistics(&root, uuid))?;
    // None of their memory is private, so none of them needs a thread of its own.
    assert_eq!(threads(daemon.running().pid()), ["switch0/0"], "{}", daemon.log());
    for mut vm in vms {
        vm.qemu().say("go\n")?;
        vm.wait_end(STEP)?;
    }
    Ok(())
}
