//! Lines of the event stream and of a trace, decoded for people.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::text::printable;

/// Integers from here on are addresses, masks and lengths: they read better in hexadecimal.
const HEXADECIMAL_FROM: u64 = 1 << 16;

/// `08:40:12.345Z create UUID loopback0/loopback-net driver=vhost_mdev`
pub(crate) fn event(line: &str) -> String {
    let Some(fields) = parse(line) else { return printable(line) };
    if let Some(lost) = lost(&fields) {
        return lost;
    }
    let mut words = vec![time(&fields), format!("{:<14}", word(&fields, "event").unwrap_or_else(|| "?".into()))];
    words.extend(word(&fields, "uuid"));
    words.extend(match (word(&fields, "parent"), word(&fields, "type")) {
        (Some(parent), Some(name)) => Some(format!("{parent}/{name}")),
        (parent, name) => parent.or(name),
    });
    let known = ["event", "time", "uuid", "parent", "type"];
    words.extend(fields.iter().filter(|(name, _)| !known.contains(&name.as_str())).map(assignment));
    words.join(" ").trim_end().to_owned()
}

/// `08:40:12.345Z [4711] vhost VHOST_SET_VRING_NUM(index=0, num=256) = 0`
pub(crate) fn ioctl(line: &str) -> String {
    let Some(fields) = parse(line) else { return printable(line) };
    if let Some(lost) = lost(&fields) {
        return lost;
    }
    let args = match fields.get("args") {
        Some(Value::Object(args)) => args.iter().map(assignment).collect::<Vec<_>>().join(", "),
        Some(Value::Null) | None => String::new(),
        Some(other) => value(other),
    };
    let result = match word(&fields, "errno") {
        Some(errno) => format!("-1 {}", error_name(&errno)),
        None => fields.get("result").map_or_else(|| "?".into(), decimal),
    };
    format!(
        "{} [{}] {} {}({args}) = {result}",
        time(&fields),
        fields.get("tid").map_or_else(|| "?".into(), decimal),
        word(&fields, "file").unwrap_or_else(|| "?".into()),
        word(&fields, "call").unwrap_or_else(|| "?".into()),
    )
}

fn parse(line: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(line).ok()
}

fn lost(fields: &Map<String, Value>) -> Option<String> {
    (fields.get("event")?.as_str()? == "lost")
        .then(|| format!("-- {} lines lost: read faster --", fields.get("count").map_or_else(|| "?".into(), decimal)))
}

/// The time of day in UTC, to the nearest millisecond.
fn time(fields: &Map<String, Value>) -> String {
    let seconds = fields.get("time").and_then(Value::as_f64);
    let Some(since) = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds + 0.0005).ok()) else {
        return "--:--:--.---Z".into();
    };
    let of_day = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}Z", of_day / 3600, of_day / 60 % 60, of_day % 60, since.subsec_millis())
}

fn word(fields: &Map<String, Value>, name: &str) -> Option<String> {
    fields.get(name).and_then(Value::as_str).map(printable)
}

fn assignment((name, field): (&String, &Value)) -> String {
    format!("{}={}", printable(name), value(field))
}

fn value(field: &Value) -> String {
    match field {
        Value::String(text) => printable(text),
        Value::Number(number) => match number.as_u64() {
            Some(number) if number >= HEXADECIMAL_FROM => format!("{number:#x}"),
            _ => number.to_string(),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(value).collect::<Vec<_>>().join(", ")),
        Value::Object(inner) => format!("{{{}}}", inner.iter().map(assignment).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn decimal(field: &Value) -> String {
    printable(&field.to_string())
}

/// `EBUSY (Device or resource busy)`.
fn error_name(name: &str) -> String {
    // There is no parser for errno names; each number knows its own.
    (1..=133)
        .map(nix::errno::Errno::from_raw)
        .find(|errno| format!("{errno:?}") == name)
        .map_or_else(|| name.to_owned(), |errno| format!("{name} ({})", errno.desc()))
}

#[cfg(test)]
mod tests {
    use super::{event, ioctl};

    #[test]
    fn an_ioctl_reads_as_strace_writes_it() {
        let line = r#"{"time":1763713212.345,"tid":4711,"file":"vhost","call":"VHOST_SET_VRING_NUM","args":{"index":0,"num":256},"result":0}"#;
        assert_eq!(ioctl(line), "08:20:12.345Z [4711] vhost VHOST_SET_VRING_NUM(index=0, num=256) = 0");
    }

    #[test]
    fn a_failed_ioctl_says_its_errno_in_words_and_masks_are_hexadecimal() {
        let line = r#"{"time":0,"tid":1,"file":"vhost","call":"VHOST_SET_FEATURES","args":{"features":12884901888},"result":-1,"errno":"EBUSY"}"#;
        assert_eq!(
            ioctl(line),
            "00:00:00.000Z [1] vhost VHOST_SET_FEATURES(features=0x300000000) = -1 EBUSY (Device or resource busy)"
        );
    }

    #[test]
    fn an_event_names_what_happened_to_what() {
        let line = r#"{"event":"state","time":86399.9989,"parent":"p","type":"p-net","uuid":"u","state":"running"}"#;
        assert_eq!(event(line), "23:59:59.999Z state          u p/p-net state=running");
    }

    #[test]
    fn an_event_of_a_parent_has_no_instance() {
        assert_eq!(event(r#"{"event":"parent_add","time":1,"parent":"p"}"#), "00:00:01.000Z parent_add     p");
    }

    #[test]
    fn lost_lines_are_told() {
        assert_eq!(event(r#"{"event":"lost","count":3}"#), "-- 3 lines lost: read faster --");
        assert_eq!(ioctl(r#"{"event":"lost","count":3}"#), "-- 3 lines lost: read faster --");
    }

    #[test]
    fn hostile_lines_cannot_control_the_terminal() {
        for rendered in [
            event("\u{1b}[2J"),
            ioctl("\u{1b}[2J"),
            event(r#"{"event":"\u001b[2J","time":-1,"x\u001b":"\u001b"}"#),
            ioctl(r#"{"time":-1,"call":"\u001b","errno":"\u001b","args":{"\u001b":["\u001b"]},"tid":"\u001b"}"#),
        ] {
            assert!(!rendered.contains('\u{1b}'), "{rendered:?}");
        }
    }
}
