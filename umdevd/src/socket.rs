//! What the fd socket offers: greetings, events, traces, figures.

use crate::driver::Traces;
use devnode::{Broadcast, Peer, ServerStats, SocketReply, SocketService};
use nix::errno::Errno;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;
use virtio_mdev_api::{Refusal, executor};

type Stats = Box<dyn Fn() -> ServerStats + Send + Sync>;

/// The service behind `fd.sock`.
pub(crate) struct Service {
    traces: Arc<Traces>,
    events: Arc<Broadcast>,
    stats: Stats,
}

impl Service {
    pub fn new(traces: Arc<Traces>, events: Arc<Broadcast>, stats: impl Fn() -> ServerStats + Send + Sync + 'static) -> Self {
        Self { traces, events, stats: Box::new(stats) }
    }

    fn trace(&self, peer: &Peer, args: &Value) -> Result<SocketReply, Refusal> {
        privileged(peer)?;
        let uuid = args.get("uuid").and_then(Value::as_str).and_then(|uuid| Uuid::try_parse(uuid).ok());
        let uuid = uuid.ok_or_else(|| Refusal::new(Errno::EINVAL, "trace needs the uuid of an instance"))?;
        let trace = self.traces.lock().get(&uuid).cloned();
        let trace = trace.ok_or_else(|| Refusal::new(Errno::ENODEV, format!("there is no bound instance {uuid}")))?;
        listen(&trace)
    }
}

/// A trace shows what another's client does.
fn privileged(peer: &Peer) -> Result<(), Refusal> {
    if peer.uid == 0 { Ok(()) } else { Err(Refusal::new(Errno::EPERM, "only root may trace")) }
}

fn listen(to: &Broadcast) -> Result<SocketReply, Refusal> {
    let pipe = to.subscribe().map_err(|error| Refusal::new(Errno::ENFILE, error.to_string()))?;
    Ok(SocketReply { json: json!({}), fds: vec![pipe] })
}

impl SocketService for Service {
    fn call(&self, peer: &Peer, op: &str, args: &Value) -> Result<SocketReply, Refusal> {
        match op {
            "hello" => Ok(SocketReply {
                json: json!({ "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id() }),
                fds: Vec::new(),
            }),
            "watch" => listen(&self.events),
            "trace" => self.trace(peer, args),
            "stats" => {
                let mut json = serde_json::to_value((self.stats)()).unwrap_or_default();
                json["stuck_vendor_calls"] = json!(executor::stuck_calls());
                Ok(SocketReply { json, fds: Vec::new() })
            }
            _ => Err(Refusal::new(Errno::EOPNOTSUPP, format!("there is no operation {op}"))),
        }
    }
}
