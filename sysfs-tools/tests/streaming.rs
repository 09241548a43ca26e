//! `watch` and `trace` against a server of the fd socket.

mod common;
#[path = "common/server.rs"]
mod server;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Fixture, IDLE, Run, golden};
use serde_json::json;
use server::{Reply, serve};

const EVENTS: &str = include_str!("golden/events.jsonl");
const IOCTLS: &str = include_str!("golden/ioctls.jsonl");

/// A stream that holds these lines and has ended.
fn ended(lines: &str) -> Reply {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(lines.as_bytes()).expect("fill the pipe");
    Reply::with(reader)
}

fn piped(fixture: &Fixture, args: &[&str]) -> Child {
    fixture.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start umdev")
}

#[test]
fn events_are_decoded_for_people() {
    let fixture = Fixture::new();
    let server = serve(fixture.root(), vec![ended(EVENTS), Reply::hello()]);
    golden("watch.txt", &fixture.run(&["watch"]).ok());
    assert_eq!(server.join().expect("the server"), [json!({"op": "watch"}), json!({"op": "hello"})]);
}

#[test]
fn events_as_json_are_the_daemons_own_lines() {
    let fixture = Fixture::new();
    let server = serve(fixture.root(), vec![ended(EVENTS), Reply::hello()]);
    assert_eq!(fixture.run(&["--json", "watch"]).ok(), EVENTS);
    server.join().expect("the server");
}

#[test]
fn ioctls_are_decoded_for_people() {
    let fixture = Fixture::new();
    let server = serve(fixture.root(), vec![ended(IOCTLS), Reply::hello()]);
    golden("trace.txt", &fixture.run(&["trace", IDLE]).ok());
    assert_eq!(server.join().expect("the server")[0], json!({"op": "trace", "uuid": IDLE}));
}

#[test]
fn ioctls_as_json_are_the_daemons_own_lines() {
    let fixture = Fixture::new();
    let server = serve(fixture.root(), vec![ended(IOCTLS), Reply::hello()]);
    assert_eq!(fixture.run(&["trace", IDLE, "--json"]).ok(), IOCTLS);
    server.join().expect("the server");
}

#[test]
fn a_line_is_printed_when_it_comes() {
    let fixture = Fixture::new();
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let server = serve(fixture.root(), vec![Reply::with(reader), Reply::hello()]);
    let mut child = piped(&fixture, &["--json", "watch"]);
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    for line in EVENTS.lines().take(2) {
        writeln!(writer, "{line}").expect("an event");
        let mut printed = String::new();
        output.read_line(&mut printed).expect("a line");
        assert_eq!(printed.trim_end(), line);
    }
    drop(writer);
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    server.join().expect("the server");
}

#[test]
fn watching_ends_at_once_when_nobody_reads_although_nothing_happens() {
    let fixture = Fixture::new();
    let (reader, quiet) = std::io::pipe().expect("a pipe");
    let server = serve(fixture.root(), vec![Reply::with(reader)]);
    let mut child = piped(&fixture, &["watch"]);
    server.join().expect("the server");
    drop(child.stdout.take());
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = child.try_wait().expect("its state") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("kill it");
            child.wait().expect("its end");
            panic!("umdev watch stays although nobody reads");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    drop(quiet);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_end_of_the_daemon_is_told() {
    let fixture = Fixture::new();
    let server = serve(fixture.root(), vec![ended(EVENTS)]);
    let run = Run::of(&fixture, piped(&fixture, &["--json", "watch"]).wait_with_output().expect("its output"));
    assert_eq!((run.code, run.out.as_str()), (Some(1), EVENTS));
    assert_eq!(run.err, "umdev: the daemon at ROOT/fd.sock has gone\n");
    server.join().expect("the server");
}

#[test]
fn a_daemon_that_never_was_is_told() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.run(&["watch"]).refused(),
        "umdev: the daemon is not running: ROOT/fd.sock: No such file or directory (umdev doctor says more)\n"
    );
}

#[test]
fn a_daemon_that_died_is_told() {
    let fixture = Fixture::new();
    serve(fixture.root(), Vec::new()).join().expect("the server");
    assert_eq!(
        fixture.run(&["trace", IDLE]).refused(),
        "umdev: the daemon is not running: ROOT/fd.sock: Connection refused (it died; start umdevd again)\n"
    );
}

#[test]
fn a_refusal_is_told_in_the_daemons_words() {
    let fixture = Fixture::new();
    let refusal = r#"{"ok":false,"errno":1,"error":"only root may \u001b[31mtrace"}"#;
    let server = serve(fixture.root(), vec![Reply::new(refusal)]);
    assert_eq!(
        fixture.run(&["trace", IDLE]).refused(),
        format!("umdev: cannot trace {IDLE}: only root may \\x1b[31mtrace (EPERM)\n")
    );
    server.join().expect("the server");
}

#[test]
fn a_daemon_that_does_not_keep_to_the_protocol_is_told() {
    for (packet, words) in [
        (r#"{"ok":true}"#.to_owned(), "sent no stream"),
        ("{}".to_owned(), "answered without saying whether it is ok"),
        ("not JSON".to_owned(), "did not answer JSON"),
        (String::new(), "closed the connection without an answer"),
        (format!(r#"{{"ok":true,"x":"{}"}}"#, "x".repeat(70_000)), "sent an answer that is too long"),
    ] {
        let fixture = Fixture::new();
        let server = serve(fixture.root(), vec![Reply::new(packet)]);
        let words = format!("umdev: the daemon at ROOT/fd.sock {words}");
        let refused = fixture.run(&["watch"]).refused();
        assert!(refused.starts_with(&words), "{refused}");
        server.join().expect("the server");
    }
}

#[test]
fn a_daemon_that_hangs_is_told() {
    let fixture = Fixture::new();
    let _silent = server::listen_at(fixture.root());
    assert_eq!(fixture.run(&["watch"]).refused(), "umdev: the daemon at ROOT/fd.sock does not answer (5 s)\n");
}
