//! A daemon that lacks something, descriptors, memory, disk or the time of day: it says so to whoever asks for more, and
//! everybody else goes on.

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use umdev_tests::driver::{Client, Daemon, Memory, Options};

const FRAME: [u8; 200] = [0x42; 200];
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

fn client(daemon: &Daemon) -> Client {
    let mut client = Client::start(daemon.root(), &daemon.create(), Options::default()).unwrap();
    client.exchange(&FRAME).unwrap();
    client
}

fn prlimit(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = Command::new("prlimit").args(["--pid", &daemon.pid().to_string()]).args(arguments).output().unwrap();
    assert!(output.status.success(), "prlimit {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Sets a limit of the daemon, and says what it was.
fn limit(daemon: &Daemon, what: &str, value: &str) -> String {
    let before = prlimit(daemon, &[&format!("--{what}"), "--noheadings", "--raw", "--output", "SOFT"]);
    prlimit(daemon, &[&format!("--{what}={value}:")]);
    before
}

/// A small disk of its own for what the daemon keeps beside its mount.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Ends the daemon and starts it again on the disk.
    fn under(daemon: &mut Daemon) -> Self {
        daemon.end(Signal::SIGTERM);
        let at = PathBuf::from(format!("{}.state", daemon.root().display()));
        mount(Some("disk"), &at, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        daemon.start_again();
        Self { at }
    }

    fn fill(&self) {
        let mut file = File::create(self.at.join("filling")).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&[0; 512]) {
                break error;
            }
        };
        assert_eq!(full.raw_os_error(), Some(Errno::ENOSPC as i32));
    }

    fn empty(&self) {
        fs::remove_file(self.at.join("filling")).unwrap();
    }

    fn make_read_only(&self, yes: bool) {
        let flags = MsFlags::MS_REMOUNT | if yes { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        mount(None::<&str>, &self.at, None::<&str>, flags, None::<&str>).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

fn exist(daemon: &Daemon, uuids: &[&String]) -> bool {
    uuids.iter().all(|uuid| daemon.instance_dir(uuid).exists())
}

#[test]
fn f42_a_full_disk_stops_no_create_and_what_it_did_not_take_is_kept_when_there_is_room_again() {
    let mut daemon = Daemon::start();
    let disk = Disk::under(&mut daemon);
    let before = daemon.create();
    disk.fill();
    // A line of the journal may fit into what is left of a block.
    let meanwhile: Vec<String> = (0..40).map(|_| daemon.create()).collect();
    assert!(daemon.log().contains("a restart may not know of this change"), "the disk was not full");
    disk.empty();
    let after = daemon.create();
    daemon.end(Signal::SIGKILL);
    daemon.start_again();
    assert!(exist(&daemon, &[&before, &after]) && exist(&daemon, &meanwhile.iter().collect::<Vec<_>>()));
    client(&daemon);
}

#[test]
fn f42_a_daemon_serves_on_a_disk_that_became_read_only() {
    let mut daemon = Daemon::start();
    let disk = Disk::under(&mut daemon);
    let before = daemon.create();
    daemon.end(Signal::SIGKILL);
    disk.make_read_only(true);
    daemon.start_again();
    assert!(exist(&daemon, &[&before]));
    let mut meanwhile = client(&daemon);
    disk.make_read_only(false);
    let after = daemon.create();
    meanwhile.exchange(&FRAME).unwrap();
    drop(meanwhile);
    daemon.end(Signal::SIGKILL);
    daemon.start_again();
    assert!(exist(&daemon, &[&before, &after]));
    let kept = fs::read_dir(daemon.path("sys/bus/mdev/devices")).unwrap().count();
    assert_eq!(kept, 3, "that of the client too");
}

#[test]
fn f42_a_daemon_without_descriptors_refuses_newcomers_and_serves_who_is_there() {
    let daemon = Daemon::start();
    let mut neighbour = client(&daemon);
    let uuid = daemon.create();
    let before = daemon.open_fds();
    let plenty = limit(&daemon, "nofile", &(before + 2).to_string());
    for _ in 0..20 {
        let refused = Client::start(daemon.root(), &uuid, Options::default()).unwrap_err();
        assert!(matches!(refused.errno(), Some(Errno::EMFILE | Errno::ENFILE)), "{refused}");
        neighbour.exchange(&FRAME).unwrap();
    }
    limit(&daemon, "nofile", &plenty);
    let mut newcomer = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    newcomer.exchange(&FRAME).unwrap();
    drop(newcomer);
    let left = umdev_tests::driver::eventually(Duration::from_secs(10), || daemon.open_fds() <= before);
    assert!(left, "{} descriptors, {before} before", daemon.open_fds());
}

#[test]
fn f42_a_daemon_without_address_space_reaches_memory_through_its_client() {
    let daemon = Daemon::start();
    let mut neighbour = client(&daemon);
    let now = daemon.figure("VmSize") << 10;
    limit(&daemon, "as", &(now + (1 << 30)).to_string());
    let uuid = daemon.create();
    for _ in 0..5 {
        let large = Memory::of_size(8 << 30).unwrap();
        let mut hungry = Client::open_unmapped(daemon.root(), &uuid, Options::default(), large).unwrap();
        hungry.map_memory().unwrap();
        hungry.run().unwrap();
        hungry.exchange(&FRAME).unwrap();
        neighbour.exchange(&FRAME).unwrap();
    }
    assert!(daemon.log().contains("ENOMEM"), "there was room for it");
}

#[test]
fn f42_a_clock_that_jumps_changes_neither_patience_nor_traffic() {
    let dir = tempfile::tempdir().unwrap();
    let (program, offset) = (dir.path().join("umdevd"), dir.path().join("offset"));
    fs::write(&offset, "+0").unwrap();
    let beside = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("umdevd");
    let script = format!(
        "#!/bin/sh\nexport LD_PRELOAD={FAKETIME} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1\nexec {} \"$@\"\n",
        offset.display(),
        beside.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::of(&program, &["--parent", "loopback:loopback0"]);
    let mut events = daemon.watch();
    let mut client = client(&daemon);
    let mut times = Vec::new();
    for jump in ["+3650d", "-3650d", "+0"] {
        fs::write(&offset, jump).unwrap();
        client.exchange(&FRAME).unwrap();
        let held = client_uuid(&daemon);
        let begun = Instant::now();
        let refused = daemon.remove(&held, "1").unwrap_err();
        let took = begun.elapsed();
        assert_eq!(refused.raw_os_error(), Some(Errno::EBUSY as i32));
        // The daemon of a test waits half a second for a holder.
        assert!((Duration::from_millis(400)..Duration::from_secs(5)).contains(&took), "{took:?} at {jump}");
        times.push(time_of_request(&mut events));
    }
    assert!(times[0] - times[2] > 3e8 && times[2] - times[1] > 3e8, "the clock did not jump: {times:?}");
}

/// The one instance there is.
fn client_uuid(daemon: &Daemon) -> String {
    let mut uuids = fs::read_dir(daemon.path("sys/bus/mdev/devices")).unwrap();
    uuids.next().unwrap().unwrap().file_name().into_string().unwrap()
}

/// When the next request to let go of an instance was made.
fn time_of_request(events: &mut impl BufRead) -> f64 {
    loop {
        let mut line = String::new();
        events.read_line(&mut line).unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "remove_request" {
            return event["time"].as_f64().unwrap();
        }
    }
}
