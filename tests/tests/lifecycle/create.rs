//! Creation.

use super::*;

#[test]
fn echo_and_printf_create_and_remove() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    runs(&dir, &format!("echo {UUID} > create"));
    let other = new_uuid();
    runs(&dir, &format!("/usr/bin/printf %s {other} > create"));
    assert_eq!(runs(&dir, "ls devices | wc -l").trim(), "2");
    runs(&daemon.instance_dir(UUID), "echo 1 > remove");
    runs(&daemon.instance_dir(&other), "/usr/bin/printf 1 > remove");
    assert_eq!(runs(&dir, "ls devices | wc -l").trim(), "0");
    assert!(!daemon.instance_dir(UUID).exists());
    assert!(!daemon.vhost_path(UUID).exists());
}

#[test]
fn f39_a_37th_character_of_any_kind_is_tolerated() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    for last in ["\\n", "\\0", "x", "-"] {
        runs(&dir, &format!("/usr/bin/printf '{UUID}{last}' > create"));
        runs(&daemon.instance_dir(UUID), "echo 1 > remove");
    }
}

#[test]
fn f39_an_uppercase_uuid_makes_the_lower_case_instance() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    runs(&dir, &format!("echo {} > create", UUID.to_uppercase()));
    assert!(daemon.instance_dir(UUID).exists());
    fails(&dir, &format!("/usr/bin/printf %s {UUID} > create"), Errno::EEXIST);
}

#[test]
fn f39_what_is_no_uuid_is_einval() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    let short = &UUID[1..];
    let simple = UUID.replace('-', "");
    let wrong = UUID.replace('f', "g");
    for text in
        [short, &format!("{{{UUID}}}"), &format!("{UUID}xx"), &format!(" {UUID}"), &simple, &wrong, "\\n", "\\0"]
    {
        fails(&dir, &format!("/usr/bin/printf '{text}' > create"), Errno::EINVAL);
    }
    assert_eq!(runs(&dir, "ls devices"), "");
}

#[test]
fn f39_bytes_that_are_no_text_and_texts_without_end_are_refused() {
    let mut daemon = Daemon::start();
    let create = daemon.type_dir("loopback-net").join("create");
    let uuid = UUID.as_bytes();
    let with = |tail: &[u8]| [uuid, tail].concat();
    let cases: [(&str, Vec<u8>); 8] = [
        ("a zero in the middle", [&uuid[..20], b"\0", &uuid[21..]].concat()),
        ("what follows a zero", with(b"\0mtu=9000")),
        ("bytes that are no UTF-8", vec![0xff; 36]),
        ("a parameter that is no UTF-8", with(b" mac=\xff\xfe")),
        ("two UUIDs", with(format!("\n{}", new_uuid()).as_bytes())),
        ("a page of zeros", vec![0; 4096]),
        ("a page of parameters", with(&b" mtu=1500".repeat(500))),
        ("a megabyte", with(&vec![b'x'; 1 << 20])),
    ];
    for (what, text) in cases {
        let written = OpenOptions::new().write(true).open(&create).unwrap().write(&text);
        let errno = errno(&written.expect_err(what));
        assert!(matches!(errno, Errno::EINVAL | Errno::E2BIG), "{what}: {errno}");
        assert!(!daemon.instance_dir(UUID).exists(), "{what}");
    }
    assert_eq!(OpenOptions::new().write(true).open(&create).unwrap().write(b"").unwrap(), 0, "no bytes are no request");
    runs(&daemon.type_dir("loopback-net"), &format!("echo {UUID} > create"));
    assert!(daemon.is_alive());
}

#[test]
fn f39_a_uuid_is_taken_under_whatever_parent_and_type() {
    let daemon = Daemon::with(&["--parent", "loopback:loopback0", "--parent", "loopback:other"]);
    runs(&daemon.type_dir("loopback-net"), &format!("echo {UUID} > create"));
    let other = daemon.path("sys/class/mdev_bus/other/mdev_supported_types/loopback-net");
    for dir in [daemon.type_dir("loopback-net"), daemon.type_dir("loopback-net-fast"), other] {
        fails(&dir, &format!("/usr/bin/printf %s {UUID} > create"), Errno::EEXIST);
    }
}

#[test]
fn a_full_parent_is_enospc_and_has_no_available_instances() {
    let daemon = Daemon::with(&["--parent", "loopback:loopback0,capacity=2"]);
    let dir = daemon.type_dir("loopback-net");
    assert_eq!(runs(&dir, "cat available_instances"), "2\n");
    let first = daemon.create();
    daemon.create_of("loopback-net-fast");
    assert_eq!(runs(&dir, "cat available_instances"), "0\n");
    fails(&dir, &format!("/usr/bin/printf %s {UUID} > create"), Errno::ENOSPC);
    daemon.remove(&first, "1\n").unwrap();
    assert_eq!(runs(&dir, "cat available_instances"), "1\n");
    runs(&dir, &format!("echo {UUID} > create"));
}

#[test]
fn every_parameter_is_applied() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    let parameters =
        "mac=02:00:00:00:00:07 mtu=9000 pairs=4 queue-size=64 features=-mrg_rxbuf,-event_idx owner=1234:5678";
    runs(&dir, &format!("echo {UUID} {parameters} > create"));
    let vhost = Vhost::open(daemon.root(), UUID).unwrap();
    let config = vhost.config(0, 12).unwrap();
    assert_eq!(config[..6], [2, 0, 0, 0, 0, 7]);
    assert_eq!(config[8..], [4, 0, 0x28, 0x23]);
    let features = vhost.features().unwrap();
    assert_eq!(features & (1 << 15 | 1 << 29), 0, "what was left out");
    assert_eq!(features >> 17 & 1, 1, "the control queue that comes with pairs");
    vhost.set_owner().unwrap();
    assert_eq!(vhost.vring_state("size", VHOST_VDPA_GET_VRING_SIZE, 0, 0).unwrap(), 64);
    assert_eq!(vhost.vring_state("group", VHOST_VDPA_GET_VRING_GROUP, 8, 0).unwrap(), 1);
    assert!(vhost.vring_state("group", VHOST_VDPA_GET_VRING_GROUP, 9, 0).is_err());
    assert_eq!(daemon.attribute(UUID, "owner"), "1234:5678");
}

#[test]
fn parameters_are_applied_whole_or_not_at_all_and_refused_in_words() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    let known = "mac, mtu, pairs, queue-size, features, speed, duplex, doorbell, owner";
    for (bad, words) in [
        ("mtu=1500 sped=1", &format!("unknown parameter sped; known are: {known}")[..]),
        ("ifname=eth7", &format!("unknown parameter ifname; known are: {known}")),
        ("mtu=x", "mtu=x: not a number in 68..65535"),
        ("mtu=67 mac=02:00:00:00:00:07", "mtu=67: not a number in 68..65535"),
        ("mtu=65536", "mtu=65536: not a number in 68..65535"),
        ("pairs=0", "pairs=0: not a number in 1..16"),
        ("pairs=17", "pairs=17: not a number in 1..16"),
        ("queue-size=96", "queue-size=96: not a power of two in 2..32768"),
        ("queue-size=65536", "queue-size=65536: not a power of two in 2..32768"),
        ("mac=1", "mac=1: a MAC address is six pairs of hexadecimal digits with colons between them"),
        ("mac=03:00:00:00:00:07", "mac=03:00:00:00:00:07: this is the address of a group of stations"),
        ("mac=00:00:00:00:00:00", "mac=00:00:00:00:00:00: an address of zeros belongs to nobody"),
        ("features=0x1", "features=0x1: csum is not within 0x320018028"),
        ("features=0x20", "features=0x20: no device works without version_1, iommu_platform"),
        ("features=-host_mtu mtu=1400", "mtu=1400 needs the feature host_mtu, which features= leaves out"),
        ("features=0x320018028 pairs=2", "pairs=2 needs the feature mq, which features= leaves out"),
        ("features=0x320418028", "features=0x320418028: mq is not within 0x320018028"),
        ("features=0x320458028 pairs=2", "features=0x320458028: ctrl_rx needs ctrl_vq"),
        ("mtu", "parameter \"mtu\" is not key=value, or is given twice"),
        ("mtu=1400 mtu=1400", "parameter \"mtu=1400\" is not key=value, or is given twice"),
        ("owner=nobody-has-this-name", "owner=nobody-has-this-name: no such user or group"),
    ] {
        fails(&dir, &format!("/usr/bin/printf '{UUID} {bad}' > create"), Errno::EINVAL);
        assert!(!daemon.instance_dir(UUID).exists(), "{bad}");
        assert_eq!(fs::read_to_string(dir.join("last_error")).unwrap().trim_end(), words, "{bad}");
    }
    assert_eq!(runs(&dir, "cat available_instances"), "1024\n");
}

#[test]
fn a_type_tells_its_parameters() {
    let daemon = Daemon::start();
    let lines = runs(&daemon.type_dir("loopback-net"), "cat parameters");
    let names: Vec<_> = lines.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["mac", "mtu", "pairs", "queue-size", "features", "speed", "duplex", "doorbell", "owner"]);
    assert!(lines.contains("\nmtu 68..65535 1500 ") && lines.contains("\nqueue-size 2..32768(2^n) 1024 "), "{lines}");
}

#[test]
fn the_mac_address_can_be_written_while_no_driver_runs() {
    let daemon = Daemon::start();
    let uuid = daemon.create();
    let mac = daemon.instance_dir(&uuid).join("mac");
    let client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    let refused = fs::write(&mac, "02:00:00:00:00:09\n").unwrap_err();
    assert_eq!(errno(&refused), Errno::EBUSY);
    assert!(daemon.attribute(&uuid, "last_error").contains("the driver runs"));
    client.vhost.set_status(0).unwrap();
    fs::write(&mac, "02:00:00:00:00:09\n").unwrap();
    assert_eq!(client.vhost.config(0, 6).unwrap(), [2, 0, 0, 0, 0, 9]);
    assert_eq!(errno(&fs::write(&mac, "03:00:00:00:00:09\n").unwrap_err()), Errno::EINVAL);
    assert_eq!(daemon.attribute(&uuid, "mac"), "02:00:00:00:00:09");
}

#[test]
fn the_reason_is_readable_on_the_descriptor_that_wrote_and_in_last_error() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    let mut create = OpenOptions::new().read(true).write(true).open(dir.join("create")).unwrap();
    let refused = create.write(b"nonsense").unwrap_err();
    assert_eq!(errno(&refused), Errno::EINVAL);
    let mut reason = String::new();
    create.read_to_string(&mut reason).unwrap();
    assert!(reason.contains("UUID"), "{reason:?}");
    for last in [dir.join("last_error"), daemon.path("sys/class/mdev_bus/loopback0/last_error")] {
        let text = fs::read_to_string(&last).unwrap();
        assert!(text.contains("UUID"), "{}: {text:?}", last.display());
    }
}

#[test]
fn writers_may_open_create_with_o_creat_and_o_trunc() {
    let daemon = Daemon::start();
    let create = daemon.type_dir("loopback-net").join("create");
    for (creat, trunc) in [(true, true), (false, true), (false, false)] {
        let uuid = new_uuid();
        let file = OpenOptions::new().write(true).create(creat).truncate(trunc).open(&create);
        assert_eq!(file.unwrap().write(uuid.as_bytes()).unwrap(), 36);
        assert!(daemon.instance_dir(&uuid).exists());
    }
    let stranger = OpenOptions::new().write(true).create_new(true).open(create.with_file_name("stranger"));
    assert!(matches!(errno(&stranger.unwrap_err()), Errno::EACCES | Errno::EPERM | Errno::ENOENT));
}

#[test]
fn f39_exactly_one_of_many_threads_gets_the_last_instance() {
    let daemon = Daemon::with(&["--parent", "loopback:loopback0,capacity=1"]);
    let create = daemon.type_dir("loopback-net").join("create");
    for _ in 0..20 {
        let start = Barrier::new(8);
        let race = || {
            let uuid = new_uuid();
            start.wait();
            fs::write(&create, &uuid).map(|()| uuid).map_err(|error| errno(&error))
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let winners: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Errno::ENOSPC))), "{results:?}");
        daemon.remove(winners[0], "1").unwrap();
    }
}

#[test]
fn f39_exactly_one_of_many_processes_creates_a_uuid() {
    let daemon = Daemon::start();
    let dir = daemon.type_dir("loopback-net");
    let line = format!("/usr/bin/printf %s {UUID} > create");
    let spawn = |_| Command::new("sh").args(["-c", &line]).current_dir(&dir).stderr(Stdio::null()).spawn();
    let racers: Vec<Child> = (0..8).map(|number| spawn(number).unwrap()).collect();
    let won = racers.into_iter().filter_map(|mut racer| racer.wait().unwrap().success().then_some(())).count();
    assert_eq!(won, 1);
}
