//! The end of the daemon, and its return.

use super::*;

#[test]
fn what_create_made_is_there_again_after_a_clean_end_and_after_a_kill() {
    let mut daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    runs(&dir, &format!("echo {UUID} mtu=9000 owner=1234:5678 > create"));
    let gone = daemon.create();
    let other = daemon.create_of("loopback-net-fast");
    daemon.remove(&gone, "1").unwrap();
    let describe = |daemon: &Daemon, uuid| {
        let group = umdev_tests::driver::group_number(daemon.root(), uuid).unwrap();
        (group, fs::read_link(daemon.instance_dir(uuid).join("mdev_type")).unwrap(), daemon.attribute(uuid, "owner"))
    };
    let before = (describe(&daemon, UUID), describe(&daemon, &other));
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGKILL] {
        daemon.end(signal);
        daemon.start_again();
        assert_eq!((describe(&daemon, UUID), describe(&daemon, &other)), before, "after {signal}");
        assert!(!daemon.instance_dir(&gone).exists());
        let mtu = Vhost::open(daemon.root(), UUID).unwrap().config(10, 2).unwrap();
        assert_eq!(mtu, 9000_u16.to_le_bytes());
        Client::start(daemon.root(), &other, Options::default()).unwrap().exchange(&[4; 60]).unwrap();
    }
}

#[test]
fn parameters_and_a_mac_address_written_since_survive_a_restart() {
    let mut daemon = Daemon::start();
    let parameters = "mac=02:00:00:00:00:07 pairs=4 queue-size=64 features=-event_idx";
    runs(&daemon.type_dir("loopback-net-cvq"), &format!("echo {UUID} {parameters} > create"));
    let plain = daemon.create();
    for uuid in [UUID, &plain] {
        fs::write(daemon.instance_dir(uuid).join("mac"), "02:00:00:00:00:09\n").unwrap();
    }
    let all = |daemon: &Daemon| ["mac", "mtu", "pairs", "queue-size", "features"].map(|of| daemon.attribute(UUID, of));
    let before = all(&daemon);
    assert_eq!(before[0], "02:00:00:00:00:09");
    daemon.end(Signal::SIGKILL);
    daemon.start_again();
    assert_eq!(all(&daemon), before);
    assert_eq!(daemon.attribute(&plain, "mac"), "02:00:00:00:00:09");
}

#[test]
fn an_instance_that_offers_no_mac_address_takes_none_and_survives_a_restart() {
    let mut daemon = Daemon::start();
    runs(&daemon.type_dir("loopback-net"), &format!("echo {UUID} features=-mac > create"));
    let refused = fs::write(daemon.instance_dir(UUID).join("mac"), "02:00:00:00:00:09\n").unwrap_err();
    assert_eq!(errno(&refused), Errno::EOPNOTSUPP);
    daemon.end(Signal::SIGKILL);
    daemon.start_again();
    assert!(daemon.instance_dir(UUID).exists(), "{}", daemon.log());
}

#[test]
fn what_is_removed_while_an_attribute_is_written_stays_removed() {
    let mut daemon = Daemon::start();
    for _ in 0..100 {
        let uuid = daemon.create();
        let mac = daemon.instance_dir(&uuid).join("mac");
        let begun = Barrier::new(4);
        std::thread::scope(|scope| {
            for writer in 1..4 {
                let (mac, begun) = (&mac, &begun);
                scope.spawn(move || {
                    begun.wait();
                    while fs::write(mac, format!("02:00:00:00:00:0{writer}")).is_ok() {}
                });
            }
            begun.wait();
            daemon.remove(&uuid, "1").unwrap();
        });
    }
    daemon.end(Signal::SIGKILL);
    daemon.start_again();
    assert_eq!(fs::read_dir(daemon.path("sys/bus/mdev/devices")).unwrap().count(), 0, "{}", daemon.log());
}

#[test]
fn an_override_survives_a_restart() {
    let mut daemon = Daemon::start();
    let uuid = daemon.create();
    runs(&daemon.instance_dir(&uuid), "echo another > driver_override");
    daemon.end(Signal::SIGKILL);
    daemon.start_again();
    assert_eq!(daemon.attribute(&uuid, "driver_override"), "another");
    assert!(!daemon.vhost_path(&uuid).exists(), "vhost_mdev is not the driver it is to have");
}

#[test]
fn a_clean_end_leaves_no_mount() {
    let mut daemon = Daemon::start();
    let uuid = daemon.create();
    let client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    let status = daemon.end(Signal::SIGTERM);
    assert!(status.success(), "{status}");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(daemon.root().to_str().unwrap()), "{mounts}");
    assert_eq!(fs::read_dir(daemon.root()).unwrap().count(), 0);
    // What it had open answers, with an error.
    assert!(client.vhost.features().is_err());
}

#[test]
fn the_stale_mount_of_a_killed_daemon_is_replaced() {
    let mut daemon = Daemon::start();
    daemon.end(Signal::SIGKILL);
    assert_eq!(errno(&fs::metadata(daemon.root()).unwrap_err()), Errno::ENOTCONN);
    daemon.start_again();
    let uuid = daemon.create();
    Client::start(daemon.root(), &uuid, Options::default()).unwrap().exchange(&[5; 60]).unwrap();
}

#[test]
fn f40_a_client_of_a_killed_daemon_gets_errors_and_can_come_back() {
    let mut daemon = Daemon::start();
    let uuid = daemon.create();
    let client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    daemon.end(Signal::SIGKILL);
    assert!(matches!(client.vhost.features().unwrap_err().errno(), Some(Errno::ENOTCONN | Errno::ECONNABORTED)));
    drop(client);
    daemon.start_again();
    Client::start(daemon.root(), &uuid, Options::default()).unwrap().exchange(&[6; 60]).unwrap();
}

#[test]
fn a_second_daemon_on_the_same_root_is_refused_and_the_first_serves_on() {
    let daemon = Daemon::start();
    let (status, said) = daemon.second();
    assert!(!status.success());
    assert!(said.contains(daemon.root().to_str().unwrap()), "{said}");
    daemon.create();
}
