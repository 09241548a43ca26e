//! Lines that tell every call on an instance's files to whoever listens.

use crate::Client;
use devnode::{Broadcast, IoctlReply};
use nix::errno::Errno;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use virtio_mdev_api::HasErrno;

/// One call while it is served. Costs nothing when nobody listens.
pub struct Trace {
    to: Vec<Arc<Broadcast>>,
    args: Option<Map<String, Value>>,
}

impl Trace {
    /// For the listeners of `to`.
    pub fn begin(to: impl IntoIterator<Item = Arc<Broadcast>>) -> Self {
        let to: Vec<_> = to.into_iter().filter(|broadcast| broadcast.is_heard()).collect();
        let args = (!to.is_empty()).then(Map::new);
        Self { to, args }
    }

    /// Notes an argument, decoded.
    pub fn arg(&mut self, name: &str, value: impl Into<Value>) {
        if let Some(args) = &mut self.args {
            args.insert(name.to_owned(), value.into());
        }
    }

    /// The call is over: one line to everybody who listens.
    pub fn end<E: HasErrno>(self, client: &dyn Client, file: &str, call: &str, outcome: Result<i64, &E>) {
        let Some(args) = self.args else { return };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let mut line = json!({ "time": time, "tid": client.tid(), "file": file, "call": call, "args": args });
        match outcome {
            Ok(value) => line["result"] = value.into(),
            Err(error) => {
                line["result"] = (-1).into();
                line["errno"] = errno_name(error.errno()).into();
                line["reason"] = error.to_string().into();
            }
        }
        let line = line.to_string();
        self.to.iter().for_each(|broadcast| broadcast.publish(&line));
    }

    /// [`end`](Self::end), and the answer to the caller.
    pub fn answer<E: HasErrno>(
        self,
        client: &dyn Client,
        file: &str,
        call: &str,
        outcome: Result<IoctlReply, E>,
    ) -> Result<IoctlReply, Errno> {
        self.end(client, file, call, outcome.as_ref().map(|reply| i64::from(reply.value)));
        outcome.map_err(|error| {
            tracing::debug!(tid = client.tid(), file, call, %error, "refused");
            error.errno()
        })
    }
}

/// `EBUSY` and the like.
fn errno_name(errno: Errno) -> String {
    format!("{errno:?}")
}
