//! Clients that die.

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
