//! Removal.

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
fn f37_an_open_instance_is_ebusy_once_patience_is_over() {
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
fn f37_a_holder_that_lets_go_in_time_lets_the_removal_succeed() {
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
fn f37_force_takes_a_running_instance_from_its_holder() {
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
    // Threads are lent and kept for ten seconds, and the allocator keeps what it once had.
    (0..200).for_each(|_| cycle());
    let before = (daemon.open_fds(), daemon.figure("Threads"), daemon.figure("VmRSS"));
    (0..1000).for_each(|_| cycle());
    let settled =
        eventually(Duration::from_secs(30), || daemon.open_fds() <= before.0 && daemon.figure("Threads") <= before.1);
    let after = (daemon.open_fds(), daemon.figure("Threads"), daemon.figure("VmRSS"));
    println!("descriptors, threads, KiB: {before:?} before, {after:?} after");
    assert!(settled, "descriptors and threads: {before:?} before, {after:?} after");
    // 1 KiB an instance would be 1,000 KiB: a leak of anything shows. Pages move about by less than that.
    assert!(after.2 <= before.2 + 1000, "resident KiB: {before:?} before, {after:?} after");
}
