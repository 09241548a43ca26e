//! Vendors whose code hangs, panics, says what cannot be, or leaves.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin};
use std::time::{Duration, Instant};
use umdev_tests::driver::new_uuid;

const CALLBACKS: [&str; 8] =
    ["set_features", "read_config", "write_config", "start_queue", "stop_queue", "set_kick", "status_changed", "reset"];
/// How long vendor code may take here.
const DEADLINE: Duration = Duration::from_millis(500);

const PARENTS: [&str; 4] = ["--parent", "loopback:loopback0", "--parent", "faulty:faulty0"];

/// A daemon that gives up soon.
fn impatient() -> Daemon {
    Daemon::configured(&PARENTS, "vendor_deadline = 0.5")
}

fn create_faulty(daemon: &Daemon) -> String {
    let uuid = new_uuid();
    let kind = daemon.path("sys/class/mdev_bus/faulty0/mdev_supported_types/faulty-net/create");
    fs::write(kind, &uuid).unwrap();
    uuid
}

fn set(daemon: &Daemon, uuid: &str, fault: &str, value: &str) {
    fs::write(daemon.instance_dir(uuid).join("faults").join(fault), value).unwrap();
}

/// Every callback is called in here. The first call that fails, and how.
fn provoke(client: &mut Client) -> DriverError {
    let steps: [fn(&mut Client) -> CallResult<()>; 4] = [
        |client| client.vhost.config(0, 8).map(drop),
        |client| client.vhost.set_config(0, &[2, 0, 0, 0, 0, 1]),
        |client| client.vhost.set_vring_fd(VHOST_SET_VRING_KICK, 1, &client.tx.kick),
        Client::restart,
    ];
    let failed = steps.into_iter().find_map(|step| {
        let begun = Instant::now();
        let result = step(client);
        assert!(begun.elapsed() < DEADLINE * 6, "the caller waited {:?}", begun.elapsed());
        result.err()
    });
    failed.expect("one of the calls to fail")
}

/// A device whose callback does `what` breaks, is removed, and makes room for another; its neighbours notice nothing.
#[track_caller]
fn is_alone_with_its_fault(daemon: &mut Daemon, what: &str, callback: &str, expected: Errno) {
    let (_, mut neighbour) = client(daemon);
    let sibling = create_faulty(daemon);
    let mut sibling = Client::start(daemon.root(), &sibling, Options::default()).unwrap();
    let uuid = create_faulty(daemon);
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    client.exchange(&FRAME).unwrap();
    set(daemon, &uuid, what, callback);
    let error = provoke(&mut client);
    assert_eq!(error.errno(), Some(expected), "{callback}: {error}");
    assert_eq!(daemon.attribute(&uuid, "state"), "broken", "{callback}");
    // At once, and not after another deadline.
    let begun = Instant::now();
    assert!(client.vhost.status().is_err());
    assert!(begun.elapsed() < DEADLINE, "{callback}");
    neighbour.exchange(&FRAME).unwrap();
    sibling.exchange(&FRAME).unwrap();
    drop(client);
    daemon.remove(&uuid, "force").unwrap();
    assert!(!daemon.instance_dir(&uuid).exists(), "{callback}");
    let again = create_faulty(daemon);
    Client::start(daemon.root(), &again, Options::default()).unwrap().exchange(&FRAME).unwrap();
    assert!(daemon.is_alive());
}

#[test]
fn f37_a_callback_that_panics_breaks_its_device_alone() {
    // To print where it panicked takes a while, the first time.
    let mut daemon = Daemon::with(&PARENTS);
    for callback in CALLBACKS {
        is_alone_with_its_fault(&mut daemon, "panic", callback, Errno::EIO);
    }
}

#[test]
fn f37_a_callback_that_hangs_is_given_up_and_breaks_its_device_alone() {
    let mut daemon = impatient();
    for callback in CALLBACKS {
        is_alone_with_its_fault(&mut daemon, "hang", callback, Errno::ETIMEDOUT);
    }
}

#[test]
fn f37_a_hung_callback_neither_keeps_a_device_from_being_removed_nor_the_daemon_from_ending() {
    let mut daemon = impatient();
    let uuid = create_faulty(&daemon);
    let client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    set(&daemon, &uuid, "hang", "reset");
    let begun = Instant::now();
    removes_by_force(&daemon, &uuid);
    assert!(begun.elapsed() < DEADLINE * 10, "took {:?}", begun.elapsed());
    assert_eq!(client.vhost.features().unwrap_err().errno(), Some(Errno::ENODEV));
    drop(client);
    let other = create_faulty(&daemon);
    let _client = Client::start(daemon.root(), &other, Options::default()).unwrap();
    set(&daemon, &other, "hang", "stop_queue");
    let status = daemon.end(nix::sys::signal::Signal::SIGTERM);
    assert!(status.success(), "{status}");
}

fn removes_by_force(daemon: &Daemon, uuid: &str) {
    daemon.remove(uuid, "force").unwrap();
    assert!(!daemon.instance_dir(uuid).exists());
}

#[test]
fn f37_a_device_that_says_garbage_of_its_rings_harms_itself_alone() {
    let mut daemon = Daemon::with(&PARENTS);
    let (_, mut neighbour) = client(&daemon);
    let uuid = create_faulty(&daemon);
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    client.exchange(&FRAME).unwrap();
    for ahead in ["1", "300", "65535"] {
        set(&daemon, &uuid, "wrong_ring_state", ahead);
        // What it says of its stopped queues is where they begin again: not where the driver is.
        client.vhost.suspend().unwrap();
        assert_ne!(client.vhost.vring_base(1).unwrap(), u32::from(client.tx.seen));
        let resumed = client.vhost.resume();
        let _ = client.tx.notify();
        neighbour.exchange(&FRAME).unwrap();
        set(&daemon, &uuid, "wrong_ring_state", "0");
        assert!(client.vhost.status().is_ok(), "{ahead}: {resumed:?}");
        client.restart().unwrap();
        client.exchange(&FRAME).unwrap();
    }
    assert!(daemon.is_alive());
}

/// A daemon that a vendor built, and the line that makes one of its parents leave.
struct Leaver {
    child: Child,
    line: ChildStdin,
    said: BufReader<std::process::ChildStdout>,
    dir: tempfile::TempDir,
}

impl Leaver {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_umdev-leaver"));
        let command = command.arg(dir.path().join("root")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let line = child.stdin.take().unwrap();
        let mut leaver = Self { line, said: BufReader::new(child.stdout.take().unwrap()), child, dir };
        let said = leaver.hear();
        assert!(said.starts_with("umdevd: ready on "), "{said}");
        leaver
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn create(&self, parent: &str) -> std::io::Result<String> {
        let uuid = new_uuid();
        let kind = format!("sys/class/mdev_bus/{parent}/mdev_supported_types/loopback-net/create");
        fs::write(self.root().join(kind), &uuid).map(|()| uuid)
    }
}

impl Drop for Leaver {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

#[test]
fn f37_a_parent_that_leaves_while_its_queues_run_takes_its_devices_along_and_no_others() {
    let mut leaver = Leaver::start();
    let [gone, stays] = ["leaving", "staying"].map(|parent| {
        let uuid = leaver.create(parent).unwrap();
        let client = Client::start(&leaver.root(), &uuid, Options::default()).unwrap();
        (uuid, client)
    });
    let ((uuid, client), (_, mut neighbour)) = (gone, stays);
    // Its queues are at work all the while.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = client;
            let mut passes = || {
                client.queue(&FRAME);
                client.tx.notify()?;
                client.tx.wait(DEADLINE, "the frame to be used")?;
                client.receive(DEADLINE)
            };
            while passes().is_ok() {}
            let after = client.vhost.features();
            done.store(true, Ordering::Relaxed);
            assert_eq!(after.unwrap_err().errno(), Some(Errno::ENODEV));
        });
        (0..20).for_each(|_| neighbour.exchange(&FRAME).unwrap());
        writeln!(leaver.line).unwrap();
        assert_eq!(leaver.hear(), "Ok(())");
        (0..20).for_each(|_| neighbour.exchange(&FRAME).unwrap());
        let root = leaver.root();
        assert!(!root.join("sys/bus/mdev/devices").join(&uuid).exists());
        assert!(!root.join("dev/vhost-mdev").join(&uuid).exists());
        assert!(!root.join("sys/class/mdev_bus/leaving").exists());
    });
    assert!(done.load(Ordering::Relaxed));
    assert_eq!(leaver.create("leaving").unwrap_err().raw_os_error(), Some(Errno::ENOENT as i32));
    leaver.create("staying").unwrap();
    neighbour.exchange(&FRAME).unwrap();
}
