//! The life of instances and of the daemon, as a shell and as clients see it.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use umdev_tests::driver::{Client, Daemon, Options, Vhost, eventually, new_uuid};

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// Runs a line of shell in a directory; what it wrote to both outputs.
fn sh(dir: &Path, line: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", line]).current_dir(dir).output().expect("sh");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// The line of shell succeeds.
fn runs(dir: &Path, line: &str) -> String {
    let (fine, said) = sh(dir, line);
    assert!(fine, "{line}: {said}");
    said
}

/// The line of shell fails, with the words of this errno from a program of coreutils.
fn fails(dir: &Path, line: &str, errno: Errno) {
    let (fine, said) = sh(dir, line);
    let error = std::io::Error::from(errno).to_string();
    let words = error.split(" (os error").next().expect("words");
    assert!(!fine && said.contains(words), "{line}: wanted {errno}, got: {said}");
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().expect("an errno"))
}

mod create {
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
    fn a_uuid_is_taken_under_whatever_parent_and_type() {
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
    fn parameters_are_applied_whole_or_not_at_all() {
        let daemon = Daemon::start();
        let dir = daemon.type_dir("loopback-net");
        for bad in ["mtu=1500 speed=1", "mtu=x", "mac=1", "mtu", "owner=nobody-has-this-name"] {
            fails(&dir, &format!("/usr/bin/printf '{UUID} {bad}' > create"), Errno::EINVAL);
            assert!(!daemon.instance_dir(UUID).exists());
        }
        runs(&dir, &format!("echo {UUID} mac=02:00:00:00:00:07 mtu=9000 > create"));
        let config = Vhost::open(daemon.root(), UUID).unwrap().config(0, 12).unwrap();
        assert_eq!(config[..6], [2, 0, 0, 0, 0, 7]);
        assert_eq!(config[10..], 9000_u16.to_le_bytes());
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
    fn exactly_one_of_many_threads_gets_the_last_instance() {
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
    fn exactly_one_of_many_processes_creates_a_uuid() {
        let daemon = Daemon::start();
        let dir = daemon.type_dir("loopback-net");
        let line = format!("/usr/bin/printf %s {UUID} > create");
        let spawn = |_| Command::new("sh").args(["-c", &line]).current_dir(&dir).stderr(Stdio::null()).spawn();
        let racers: Vec<Child> = (0..8).map(|number| spawn(number).unwrap()).collect();
        let won = racers.into_iter().filter_map(|mut racer| racer.wait().unwrap().success().then_some(())).count();
        assert_eq!(won, 1);
    }
}

mod tree {
    use super::*;

    #[test]
    fn a_type_lists_and_reads_as_sysfs_does() {
        let daemon = Daemon::start();
        let dir = daemon.type_dir("loopback-net");
        let listing = runs(&dir, "ls -l");
        let mode = |name: &str| {
            let line = listing.lines().find(|line| line.ends_with(&format!(" {name}"))).expect("listed");
            line.split(' ').next().expect("a mode").to_owned()
        };
        assert_eq!(mode("create"), "--w-------", "{listing}");
        for name in ["name", "description", "device_api", "available_instances", "dma_model", "last_error"] {
            assert_eq!(mode(name), "-r--r--r--", "{listing}");
            let text = runs(&dir, &format!("cat {name}"));
            assert!(text.ends_with('\n'), "{name}: {text:?}");
        }
        assert_eq!(runs(&dir, "cat device_api"), "virtio-mdev\n");
        assert_eq!(runs(&dir, "cat dma_model"), "vfio\n");
    }

    #[test]
    fn every_link_of_the_tree_leads_somewhere() {
        let daemon = Daemon::start();
        daemon.create();
        let broken = runs(daemon.root(), "find . -xtype l");
        assert_eq!(broken, "");
        let links = runs(daemon.root(), "find . -type l | wc -l");
        assert!(links.trim().parse::<u32>().unwrap() >= 7, "{links}");
    }

    #[test]
    fn an_instance_is_where_tools_look_for_it() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let dir = daemon.instance_dir(&uuid);
        let leads_to = |name: &str, end: &str| {
            let path = dir.join(name).canonicalize().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(path.ends_with(end), "{}", path.display());
        };
        leads_to("mdev_type", "loopback0/mdev_supported_types/loopback-net");
        leads_to("driver", "sys/bus/mdev/drivers/vhost_mdev");
        leads_to("subsystem", "sys/bus/mdev");
        let group = fs::read_link(dir.join("iommu_group")).unwrap();
        let number: u32 = group.file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert!(number >= 1 << 20);
        assert!(daemon.path(format!("dev/vfio/{number}")).exists());
        assert!(daemon.path(format!("sys/kernel/iommu_groups/{number}/devices/{uuid}")).exists());
        assert!(daemon.path(format!("sys/bus/mdev/drivers/vhost_mdev/{uuid}")).exists());
        assert!(dir.canonicalize().unwrap().ends_with(format!("sys/devices/virtual/mdev/loopback0/{uuid}")));
    }

    #[test]
    fn modes_and_owners_of_nodes_are_kept() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let node = daemon.vhost_path(&uuid);
        assert_eq!(fs::metadata(&node).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&node, fs::Permissions::from_mode(0o660)).unwrap();
        chown(&node, Some(1234), Some(5678)).unwrap();
        for _ in 0..2 {
            let now = fs::metadata(&node).unwrap();
            assert_eq!((now.mode() & 0o777, now.uid(), now.gid()), (0o660, 1234, 5678));
            drop(File::open(&node).unwrap());
        }
    }

    #[test]
    fn owner_hands_every_node_of_an_instance_to_a_user() {
        let daemon = Daemon::start();
        let dir = daemon.type_dir("loopback-net");
        runs(&dir, &format!("echo {UUID} owner=1234:5678 > create"));
        let group = umdev_tests::driver::group_number(daemon.root(), UUID).unwrap();
        for node in [daemon.vhost_path(UUID), daemon.path(format!("dev/vfio/{group}"))] {
            let of = fs::metadata(&node).unwrap();
            assert_eq!((of.uid(), of.gid()), (1234, 5678), "{}", node.display());
        }
        assert_eq!(daemon.attribute(UUID, "owner"), "1234:5678");
    }
}

mod owner {
    use super::*;
    use std::os::unix::process::CommandExt;

    const USER: u32 = 12_345;

    /// The exchange program, run by a user who owns nothing else.
    fn exchange(daemon: &Daemon, uuid: &str) -> String {
        // The test's directory, and the program in it, are to be reached by everybody.
        let dir = daemon.root().parent().expect("a directory");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let program = dir.join("umdev-exchange");
        fs::copy(env!("CARGO_BIN_EXE_umdev-exchange"), &program).unwrap();
        let output = Command::new(&program).arg(daemon.root()).arg(uuid).uid(USER).gid(USER).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn an_owner_without_privileges_drives_its_instance() {
        let daemon = Daemon::start();
        let dir = daemon.type_dir("loopback-net");
        runs(&dir, &format!("echo {UUID} owner={USER}:{USER} > create"));
        let said = exchange(&daemon, UUID);
        assert!(said.ends_with("exchange: PASS\n"), "{said}");
    }

    #[test]
    fn somebody_else_does_not() {
        let daemon = Daemon::start();
        let said = exchange(&daemon, &daemon.create());
        assert!(said.starts_with("exchange: FAIL") && said.contains("EACCES"), "{said}");
    }
}

mod remove {
    use super::*;

    #[test]
    fn zero_does_nothing_and_words_are_einval() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let dir = daemon.instance_dir(&uuid);
        runs(&dir, "echo 0 > remove");
        for text in ["x", "-1", "1x", "\\n"] {
            fails(&dir, &format!("/usr/bin/printf '{text}' > remove"), Errno::EINVAL);
        }
        assert!(dir.exists());
        runs(&dir, "echo 0x10 > remove");
        assert!(!dir.exists());
    }

    #[test]
    fn an_open_instance_is_ebusy_once_patience_is_over() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let holder = Vhost::open(daemon.root(), &uuid).unwrap();
        let begun = Instant::now();
        fails(&daemon.instance_dir(&uuid), "/usr/bin/printf 1 > remove", Errno::EBUSY);
        let took = begun.elapsed();
        assert!((Duration::from_millis(450)..Duration::from_secs(5)).contains(&took), "{took:?}");
        let reason = daemon.attribute(&uuid, "last_error");
        assert!(reason.contains(&std::process::id().to_string()), "{reason}");
        holder.features().expect("the holder keeps its instance");
        drop(holder);
        daemon.remove(&uuid, "1").unwrap();
    }

    #[test]
    fn a_holder_that_lets_go_in_time_lets_the_removal_succeed() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let holder = Vhost::open(daemon.root(), &uuid).unwrap();
        let mut events = daemon.watch();
        std::thread::scope(|scope| {
            let removal = scope.spawn(|| daemon.remove(&uuid, "1"));
            let mut line = String::new();
            while !line.contains("remove_request") {
                line.clear();
                events.read_line(&mut line).unwrap();
            }
            assert!(line.contains(&uuid), "{line}");
            drop(holder);
            removal.join().unwrap().unwrap();
        });
        assert!(!daemon.instance_dir(&uuid).exists());
    }

    #[test]
    fn a_removal_while_another_runs_is_eagain() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let _holder = Vhost::open(daemon.root(), &uuid).unwrap();
        // Without O_TRUNC: to a file that was truncated the kernel lets one writer at a time.
        let remove = || {
            let file = OpenOptions::new().write(true).open(daemon.instance_dir(&uuid).join("remove"));
            errno(&file.unwrap().write(b"1").unwrap_err())
        };
        let results = std::thread::scope(|scope| {
            let removals = [(); 2].map(|()| scope.spawn(remove));
            removals.map(|removal| removal.join().unwrap())
        });
        assert!(matches!(results, [Errno::EBUSY, Errno::EAGAIN] | [Errno::EAGAIN, Errno::EBUSY]), "{results:?}");
    }

    #[test]
    fn force_takes_a_running_instance_from_its_holder() {
        let mut daemon = Daemon::start();
        let uuid = daemon.create();
        let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
        client.exchange(&[1; 60]).unwrap();
        runs(&daemon.instance_dir(&uuid), "echo force > remove");
        assert!(!daemon.instance_dir(&uuid).exists());
        assert_eq!(client.vhost.features().unwrap_err().errno(), Some(Errno::ENODEV));
        drop(client);
        assert!(daemon.is_alive());
        let again = daemon.create();
        Client::start(daemon.root(), &again, Options::default()).unwrap().exchange(&[2; 60]).unwrap();
    }

    #[test]
    fn a_thousand_instances_made_and_removed_leave_nothing_behind() {
        let daemon = Daemon::start();
        let cycle = || {
            let uuid = daemon.create();
            drop(Vhost::open(daemon.root(), &uuid).unwrap());
            daemon.remove(&uuid, "1").unwrap();
        };
        // Threads are lent and kept for a while, and the allocator keeps what it once had.
        (0..200).for_each(|_| cycle());
        let before = (daemon.open_fds(), daemon.figure("Threads"), daemon.figure("VmRSS"));
        (0..1000).for_each(|_| cycle());
        let settled = eventually(Duration::from_secs(10), || {
            daemon.open_fds() <= before.0 && daemon.figure("Threads") <= before.1
        });
        let after = (daemon.open_fds(), daemon.figure("Threads"), daemon.figure("VmRSS"));
        println!("descriptors, threads, KiB: {before:?} before, {after:?} after");
        assert!(settled, "descriptors and threads: {before:?} before, {after:?} after");
        // 1 KiB an instance would be 1,000 KiB: a leak of anything shows. Pages move about by less than that.
        assert!(after.2 <= before.2 + 1000, "resident KiB: {before:?} before, {after:?} after");
    }
}

mod drivers {
    use super::*;

    #[test]
    fn an_unbound_instance_has_no_nodes_until_it_is_bound_again() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let driver = daemon.path("sys/bus/mdev/drivers/vhost_mdev");
        runs(&driver, &format!("echo {uuid} > unbind"));
        assert!(!daemon.vhost_path(&uuid).exists());
        assert!(!driver.join(&uuid).exists());
        assert!(daemon.instance_dir(&uuid).exists());
        fails(&driver, &format!("/usr/bin/printf %s {uuid} > unbind"), Errno::ENODEV);
        runs(&driver, &format!("echo {uuid} > bind"));
        Client::start(daemon.root(), &uuid, Options::default()).unwrap().exchange(&[3; 60]).unwrap();
        fails(&driver, &format!("/usr/bin/printf %s {uuid} > bind"), Errno::EBUSY);
    }

    #[test]
    fn driver_override_keeps_other_drivers_away() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let (driver, dir) = (daemon.path("sys/bus/mdev/drivers/vhost_mdev"), daemon.instance_dir(&uuid));
        assert_eq!(runs(&dir, "cat driver_override"), "(null)\n");
        runs(&driver, &format!("echo {uuid} > unbind"));
        runs(&dir, "echo another > driver_override");
        assert_eq!(runs(&dir, "cat driver_override"), "another\n");
        fails(&driver, &format!("/usr/bin/printf %s {uuid} > bind"), Errno::ENODEV);
        runs(&dir, "echo > driver_override");
        runs(&driver, &format!("echo {uuid} > bind"));
    }
}

mod events {
    use super::*;

    #[test]
    fn a_watcher_sees_an_instance_come_be_used_and_go() {
        let daemon = Daemon::start();
        let mut events = daemon.watch();
        let uuid = daemon.create();
        drop(Client::start(daemon.root(), &uuid, Options::default()).unwrap());
        daemon.wait_for(&uuid, "state", "idle");
        daemon.remove(&uuid, "1").unwrap();
        let mut seen = Vec::new();
        while seen.last().is_none_or(|event| event != "remove") {
            let mut line = String::new();
            events.read_line(&mut line).unwrap();
            let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(event["uuid"], uuid.as_str(), "{line}");
            assert!(event["time"].is_number(), "{line}");
            seen.push(event["event"].as_str().expect("a word").to_owned());
        }
        let mut at = seen.iter();
        for wanted in ["create", "bind", "open", "state", "close", "unbind", "remove"] {
            assert!(at.any(|event| event == wanted), "{wanted} in {seen:?}");
        }
    }

    #[test]
    fn hello_and_stats_answer_and_nonsense_is_refused() {
        let daemon = Daemon::start();
        let (hello, _) = daemon.ask(&serde_json::json!({ "op": "hello" }));
        assert_eq!(hello["pid"], daemon.pid().as_raw());
        let (stats, _) = daemon.ask(&serde_json::json!({ "op": "stats" }));
        assert_eq!(stats["ok"], true, "{stats}");
        let (refused, _) = daemon.ask(&serde_json::json!({ "op": "dance" }));
        assert_eq!((&refused["ok"], &refused["errno"]), (&false.into(), &95.into()), "{refused}");
    }
}

mod restart {
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
            (
                group,
                fs::read_link(daemon.instance_dir(uuid).join("mdev_type")).unwrap(),
                daemon.attribute(uuid, "owner"),
            )
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
}

mod clients {
    use super::*;

    /// The instance can be opened and used now. By another process: a file this one closes may live on for a moment in
    /// whatever another test forks.
    fn is_free(daemon: &Daemon, uuid: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umdev-exchange"));
        let output = command.arg(daemon.root()).args([uuid, "3"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "free at once: {said}");
    }

    /// A client in a process of its own, its queues running.
    fn exchanging(daemon: &Daemon, uuid: &str) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umdev-exchange"));
        command.arg(daemon.root()).args([uuid, "1000000000"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "exchange: running\n");
        child
    }

    #[test]
    fn a_killed_client_frees_its_instance_at_once_and_leaks_nothing() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let kill_one = || {
            let mut child = exchanging(&daemon, &uuid);
            child.kill().unwrap();
            child.wait().unwrap();
            is_free(&daemon, &uuid);
        };
        (0..5).for_each(|_| kill_one());
        daemon.wait_for(&uuid, "state", "idle");
        let figures = || (daemon.open_fds(), daemon.mappings());
        let before = figures();
        (0..30).for_each(|_| kill_one());
        daemon.wait_for(&uuid, "state", "idle");
        let settled = eventually(Duration::from_secs(10), || daemon.open_fds() <= before.0);
        let after = figures();
        assert!(settled, "descriptors, mappings: {before:?} before, {after:?} after");
        // Stacks of lent threads come and go; thirty leaked mappings would show.
        assert!(after.1 < before.1 + 15, "descriptors, mappings: {before:?} before, {after:?} after");
    }

    #[test]
    fn a_client_killed_in_the_middle_of_its_set_up_frees_its_instance_at_once() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let mut command = Command::new(env!("CARGO_BIN_EXE_umdev-caller"));
        command.arg("kills").arg(daemon.root()).args([&uuid, env!("CARGO_BIN_EXE_umdev-exchange")]);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    }

    #[test]
    fn a_client_killed_in_the_middle_of_a_call_dies_and_frees_its_instance_at_once() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        for _ in 0..10 {
            let mut command = Command::new(env!("CARGO_BIN_EXE_umdev-caller"));
            let mut child = command.arg("hangs").arg(daemon.root()).arg(&uuid).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "calling\n");
            // Time to enter the call; it never ends by itself.
            std::thread::sleep(Duration::from_millis(20));
            assert!(child.try_wait().unwrap().is_none());
            let begun = Instant::now();
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(begun.elapsed() < Duration::from_secs(1), "took {:?} to die", begun.elapsed());
            is_free(&daemon, &uuid);
        }
        let (stats, _) = daemon.ask(&serde_json::json!({ "op": "stats" }));
        println!("{stats}");
    }

    #[test]
    fn the_exchange_program_passes() {
        let daemon = Daemon::start();
        let uuid = daemon.create();
        let output = Command::new(env!("CARGO_BIN_EXE_umdev-exchange")).arg(daemon.root()).arg(&uuid).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.ends_with("exchange: PASS\n"), "{said}");
    }
}
