//! QEMU's monitor: the machine protocol on a socket.

use super::process::wait_until;
use super::{LabError, LabResult};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the socket of a QEMU that was just started.
    pub fn connect(socket: &Path) -> LabResult<Self> {
        let mut stream = None;
        wait_until(&format!("the monitor {}", socket.display()), SOON, || {
            stream = UnixStream::connect(socket).ok();
            stream.is_some()
        })?;
        let stream = stream.ok_or_else(|| LabError::Wrong("no monitor".into()))?;
        stream.set_read_timeout(Some(SOON)).map_err(LabError::io("set a timeout"))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.line()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Runs a command; what it returns. Events that come before are passed over.
    pub fn execute(&mut self, command: &str, arguments: Value) -> LabResult<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").map_err(LabError::io("write to the monitor"))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(LabError::Wrong(format!("{command}: {error}")));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Waits for the end of an outgoing migration; what QEMU says of it.
    pub fn migrated(&mut self, patience: Duration) -> LabResult<Value> {
        let mut state = Value::Null;
        let ended = wait_until("the end of the migration", patience, || {
            state =
                self.execute("query-migrate", json!({})).unwrap_or_else(|error| json!({ "error": error.to_string() }));
            !matches!(state["status"].as_str(), Some("setup" | "active" | "device" | "pre-switchover"))
        });
        if ended.is_err() || state["status"] != "completed" {
            return Err(LabError::Wrong(format!("the guest did not migrate: {state}")));
        }
        Ok(state)
    }

    fn line(&mut self) -> LabResult<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(LabError::io("read from the monitor"))?;
        serde_json::from_str(&line).map_err(|error| LabError::Wrong(format!("the monitor said {line:?}: {error}")))
    }
}
