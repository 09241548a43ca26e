//! A guest that sets its card up by ethtool and ip: what its driver commands has effect.

use std::path::Path;
use std::time::Duration;
use umdev_tests::lab::{
    HOST_ADDRESS, Initramfs, Kernel, KernelName, LabResult, MODULES, QemuName, TAKE_ADDRESS, TapScene, VdpaWay, Vm,
    VmOptions,
};

const BOOT: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_secs(60);

/// What a guest is sent for another card: the host answers 10.213.0.77 where a card is that no guest has.
const STRAYS: &str = "\
ip addr add 10.213.0.77/32 dev eth0
strays() {
    read before </sys/class/net/eth0/statistics/rx_packets
    ping -c 20 -i 0.05 -W 1 -I 10.213.0.77 10.213.0.1 >/dev/null 2>&1
    read after </sys/class/net/eth0/statistics/rx_packets
    echo lab: $1 $((after - before))
}
strays plain
ip link set eth0 promisc on; strays promiscuous
ip link set eth0 promisc off; strays again
ip addr del 10.213.0.77/32 dev eth0
ip link add link eth0 name second address 02:00:00:00:00:77 type macvlan mode bridge
ip addr add 10.213.0.77/24 dev second; ip link set second up
echo lab: second $(ping -c 5 -i 0.2 -I second 10.213.0.1 | grep -c 'bytes from')
ip link del second
";

/// VLANs of which the card has to be told: the driver says so in its log when the card does not take them.
const VLAN: &str = "\
ip link add link eth0 name tagged type vlan id 5; ip link set tagged up; ip link del tagged
ip link add link eth0 name tagged type vlan id 6; ip link set tagged up
echo lab: tagged $(cat /proc/net/vlan/config | grep -c '^tagged *| 6 ') $(dmesg | grep -ci 'failed to .* vlan')
ifconfig eth0 allmulti; echo lab: allmulticast $(cat /sys/class/net/eth0/flags)
";

/// Queue pairs: how many there are and how many are used, then with one, then with both.
const CHANNELS: &str = "\
channels() { echo lab: $1 $(ethtool -l eth0 | sed -n 's/^Combined:[^0-9]*//p'); }
channels channels
ethtool -L eth0 combined 1; channels one
ethtool -L eth0 combined 2; channels both
echo lab: counters $(ethtool -S eth0 | grep -c '[rt]x\\(_queue_\\)\\?[01]_kicks')
ping -c 3 -i 0.2 10.213.0.1 >/dev/null
echo lab: kicks $(ethtool -S eth0 | sed -n 's/ *tx\\(_queue_\\)\\?[01]_kicks: //p')
";

/// The features by name, in a line. Segmentation of UDP is there to be turned on.
const FEATURES: &str = "\
ethtool -K eth0 tx-udp-segmentation on
echo lab: features $(ethtool -k eth0 | sed -n 's/^[[:space:]]*//; s/: /=/; s/ .*//; /^\\(tx-tcp6-segmentation\\|tx-tcp-ecn-segmentation\\|tx-udp-segmentation\\|rx-vlan-filter\\)=/p')
echo lab: link $(ethtool eth0 | sed -n 's/^[[:space:]]*\\(Speed\\|Duplex\\): //p')
echo lab: spread $(ethtool -x eth0 2>/dev/null | grep -c '^ *[0-9]*: ')
";

/// Hashes of frames, and interrupts that wait: how long a ping takes before, while each waits for others, and after.
const LATER: &str = "\
ethtool -K eth0 rxhash on
echo lab: complaints $(dmesg | grep -c 'RSS')
echo lab: hashing $(ethtool -k eth0 | sed -n 's/^receive-hashing: \\([a-z]*\\).*/\\1/p')
millis() { ping -c 5 -i 0.2 10.213.0.1 | sed -n 's|^round-trip.*= \\([0-9]*\\).*|\\1|p'; }
coalesced() { echo lab: $1 $(ethtool -c eth0 | sed -n 's/^rx-\\(usecs\\|frames\\):[^0-9]*//p') $(millis); }
coalesced told
ethtool -C eth0 rx-usecs 50000 rx-frames 64; coalesced later
ethtool -C eth0 rx-usecs 0 rx-frames 0; coalesced at-once
";

/// Gives the card another address while it runs.
const ADDRESS: &str = "\
ip link set eth0 address 02:00:00:00:00:55
echo lab: moved $(cat /sys/class/net/eth0/address) $(ping -c 5 -i 0.2 10.213.0.1 | grep -c 'bytes from')
";

/// A guest on a card with two pairs, the host's side of its strays made.
fn guest(scene: &TapScene, kernel: &Kernel, way: VdpaWay, own: &[&str]) -> LabResult<(Initramfs, Vm)> {
    let (netns, interface) = (scene.netns(), scene.interface());
    netns.run(&format!("ip neigh replace 10.213.0.77 lladdr 02:00:00:00:00:77 dev {interface} nud permanent"))?;
    let mut initramfs = Initramfs::new()?;
    initramfs.modules(kernel, &[&MODULES[..], &["8021q", "macvlan"]].concat())?;
    initramfs.program(Path::new("/usr/sbin/ethtool"), "ethtool")?;
    let script = [&[TAKE_ADDRESS][..], own, &[STRAYS, VLAN]].concat();
    let archive = initramfs.finish(&script.concat())?;
    let netdev = scene.vhost_vdpa_by(way);
    let options = VmOptions { qemu: QemuName::Newer, netdev, processors: 2, ..VmOptions::new(kernel, &archive) };
    Ok((initramfs, Vm::boot(&options)?))
}

/// A number the guest told.
fn number(vm: &Vm, key: &str) -> LabResult<u64> {
    let text = vm.report(key, STEP)?;
    Ok(text.parse().unwrap_or_else(|_| panic!("{key}: {text:?}\n{}", vm.console())))
}

/// Lets the guest do all it has to, with an address of the network.
fn follow(mut vm: Vm) -> LabResult<Vm> {
    vm.report("up", BOOT)?;
    vm.report("allmulticast", STEP)?;
    vm.wait_end(STEP)?;
    assert!(vm.report("address", STEP)?.starts_with(HOST_ADDRESS.trim_end_matches('1')), "{}", vm.console());
    Ok(vm)
}

/// The guest got what it wanted, and no more.
fn check_reception(vm: &Vm) -> LabResult<()> {
    let strays = ["plain", "promiscuous", "again"].map(|key| number(vm, key).unwrap());
    assert!(strays[0] < 10 && strays[1] >= 20 && strays[2] < 10, "{strays:?} of 20 frames for another card");
    assert_eq!(number(vm, "second")?, 5, "a second address");
    assert_eq!(vm.report("tagged", STEP)?, "1 0", "a VLAN, and no complaint of it");
    let flags = vm.report("allmulticast", STEP)?;
    assert!(flags.starts_with("0x") && flags.ends_with("203"), "IFF_ALLMULTI is in {flags}");
    Ok(())
}

/// `whole`: the guest's driver has all that the device offers.
fn set_up(way: VdpaWay, name: KernelName, features: &str, link: &str, whole: bool) -> LabResult<()> {
    let mut scene = TapScene::build_of("tap-net-fast", 1, "pairs=2 speed=40000 duplex=full")?;
    let kernel = Kernel::find(name)?;
    let (_files, vm) = guest(&scene, &kernel, way, &[CHANNELS, FEATURES, LATER])?;
    let vm = follow(vm)?;
    for (key, expected) in [("channels", "2 2"), ("one", "2 1"), ("both", "2 2"), ("counters", "4")] {
        assert_eq!(vm.report(key, STEP)?, expected, "{key}\n{}", vm.console());
    }
    let kicks: u64 = vm.report("kicks", STEP)?.split(' ').map(|count| count.parse::<u64>().unwrap()).sum();
    assert!(kicks > 0, "{}", vm.console());
    assert_eq!(vm.report("features", STEP)?, features);
    assert_eq!(vm.report("link", STEP)?, link);
    assert_eq!(number(&vm, "spread")? > 0, whole, "an indirection table");
    assert_eq!(number(&vm, "complaints")?, 0, "of a command that was refused\n{}", vm.console());
    assert_eq!(vm.report("hashing", STEP)?, if whole { "on" } else { "off" });
    if whole {
        // Limits, and the milliseconds of the fastest of some pings.
        let told = ["told", "later", "at-once"].map(|key| vm.report(key, STEP).unwrap());
        let [before, later, after] = told.each_ref().map(|text| text.rsplit_once(' ').expect("numbers"));
        assert_eq!([before.0, later.0, after.0], ["0 0", "50000 64", "0 0"], "{told:?}");
        let [before, later, after] = [before, later, after].map(|(_, millis)| millis.parse::<u64>().expect("a time"));
        assert!(later >= 50 && before < 50 && after < 50, "{told:?}");
    }
    check_reception(&vm)?;
    let uuid = scene.uuid().to_owned();
    let dir = scene.daemon().instance_dir(&uuid).join("statistics");
    let count = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap().trim().parse::<u64>().unwrap();
    assert!(count("rx_filtered") >= 20, "{} frames were filtered", count("rx_filtered"));
    assert!(count("rx_queue_0_packets") + count("rx_queue_1_packets") == count("rx_packets"));
    scene.remove_instance()
}

/// QEMU shows its guest the features it knows, and shadows the control queue. Segmentation of UDP it has with no device of
/// vhost-vdpa, and RSS only if it is told.
#[test]
fn a_guest_sets_up_a_card_of_qemu_by_ethtool_and_ip() -> LabResult<()> {
    let features = "tx-tcp-ecn-segmentation=on tx-tcp6-segmentation=on rx-vlan-filter=on tx-udp-segmentation=off";
    set_up(VdpaWay::Pairs(2), KernelName::Newer, features, "Unknown! Unknown! (255)", false)
}

/// The guest's driver sees the device as it is.
#[test]
fn a_guest_sets_up_the_device_itself_by_ethtool_and_ip() -> LabResult<()> {
    let features = "tx-tcp-ecn-segmentation=on tx-tcp6-segmentation=on rx-vlan-filter=on tx-udp-segmentation=on";
    set_up(VdpaWay::Generic, KernelName::Newer, features, "40000Mb/s Full", true)
}

/// A control queue is no matter of several pairs: what is not for the guest does not reach it, and its address can be changed.
#[test]
fn a_guest_with_one_pair_chooses_what_it_receives() -> LabResult<()> {
    let scene = TapScene::build_of("tap-net-fast", 1, "")?;
    let kernel = Kernel::find(KernelName::Stock)?;
    let (_files, vm) = guest(&scene, &kernel, VdpaWay::Plain, &[ADDRESS])?;
    let vm = follow(vm)?;
    assert_eq!(vm.report("moved", STEP)?, "02:00:00:00:00:55 5", "{}", vm.console());
    check_reception(&vm)?;
    scene.remove_instance()
}
