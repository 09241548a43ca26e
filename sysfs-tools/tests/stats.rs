//! `stats`: the counters of instances.

mod common;

use common::{BUSY, Fixture, IDLE, MDEV, NEW, golden};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn counting() -> Fixture {
    let fixture = Fixture::new();
    for (uuid, parent, by) in [(BUSY, "tap0", 1), (IDLE, "loopback0", 0)] {
        for (name, count) in [
            ("rx_packets", 7),
            ("rx_bytes", 700),
            ("rx_dropped", 3),
            ("rx_too_long", 2),
            ("rx_link_down", 1),
            ("tx_packets", 5),
            ("tx_bytes", 500),
            ("tx_dropped", 0),
            ("tx_too_long", 0),
            ("rx_queue_0_packets", 7),
            ("rx_queue_0_bytes", 700),
            ("rx_queue_0_drops", 3),
            ("rx_queue_0_too_long", 2),
            ("rx_queue_10_packets", 0),
            ("rx_queue_2_packets", 0),
            ("tx_queue_0_packets", 5),
        ] {
            let text = format!("{}\n", count * by);
            fixture.file(&format!("{MDEV}/{parent}/{uuid}/statistics/{name}"), &text);
        }
    }
    fixture.file(&format!("{MDEV}/tap0/{BUSY}/statistics/mood"), "\u{1b}[31mred\n");
    fixture
}

#[test]
fn instances_have_a_line_each() {
    golden("stats.txt", &counting().run(&["stats"]).ok());
}

#[test]
fn an_instance_has_a_line_a_queue() {
    golden("stats_queues.txt", &counting().run(&["stats", BUSY]).ok());
}

#[test]
fn statistics_are_stable_json() {
    golden("stats.json", &counting().run(&["--json", "stats", BUSY]).ok());
}

#[test]
fn an_instance_is_named_by_any_file_of_it() {
    let fixture = counting();
    let expected = fixture.run(&["stats", BUSY]).ok();
    let directory = format!("{MDEV}/tap0/{BUSY}");
    for file in ["dev/vhost-vdpa-1", &format!("dev/vhost-mdev/{BUSY}"), &directory] {
        let path = fixture.path(file);
        assert_eq!(fixture.run(&["stats", path.to_str().unwrap()]).ok(), expected, "{file}");
    }
}

#[test]
fn what_counts_nothing_is_refused_in_words_and_not_listed() {
    let fixture = counting();
    std::fs::remove_dir_all(fixture.path(&format!("{MDEV}/loopback0/{IDLE}/statistics"))).expect("unlink");
    assert!(!fixture.run(&["stats"]).ok().contains(IDLE));
    assert_eq!(fixture.run(&["stats", IDLE]).refused(), format!("umdev: instance {IDLE} has no statistics\n"));
    assert!(fixture.run(&["stats", NEW]).refused().starts_with(&format!("umdev: no instance {NEW}")));
    let said = fixture.run(&["stats", fixture.root().to_str().unwrap()]).refused();
    assert_eq!(said, "umdev: ROOT: no instance is called so, and no device file of one\n");
    assert!(fixture.run(&["stats", "/nowhere"]).refused().contains("No such file or directory (ENOENT)"));
}

#[test]
fn a_watcher_sees_counts_change_until_it_stops_reading() {
    let fixture = counting();
    let mut child =
        fixture.command(&["--json", "stats", "--watch=0.01", BUSY]).stdout(Stdio::piped()).spawn().expect("run umdev");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut packets = || {
        let line = lines.next().expect("a line").expect("UTF-8");
        let look: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert!(look["time"].as_f64().expect("a time") > 1e9);
        look["instances"][0]["statistics"]["rx_packets"].as_u64()
    };
    assert_eq!(packets(), Some(7));
    fixture.file(&format!("{MDEV}/tap0/{BUSY}/statistics/rx_packets"), "9\n");
    // A file that is being written is empty for a moment.
    while packets() != Some(9) {}
    drop(lines);
    assert_eq!(child.wait().expect("an end").code(), Some(0));
}

#[test]
fn a_watcher_of_an_instance_that_goes_is_told() {
    let fixture = counting();
    let mut child =
        fixture.command(&["stats", "--watch=0.01", BUSY]).stdout(Stdio::piped()).spawn().expect("run umdev");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert!(lines.next().expect("a table").expect("UTF-8").starts_with("QUEUE"));
    std::fs::remove_file(fixture.path(&format!("sys/bus/mdev/devices/{BUSY}"))).expect("unlink");
    assert!(lines.all(|line| line.is_ok()));
    assert_eq!(child.wait().expect("an end").code(), Some(1));
}
