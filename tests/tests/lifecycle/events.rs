//! The event stream and the fd socket.

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
