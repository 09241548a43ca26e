//! What the fd socket offers: greetings, events, traces, figures.

use crate::drivers::Traces;
use devnode::{Broadcast, Peer, Server, SocketReply, SocketService};
use nix::errno::Errno;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Weak};
use uuid::Uuid;
use vhost_net::VhostNet;
use virtio_mdev_api::{Refusal, executor};

/// The service behind `fd.sock`.
pub(crate) struct Service {
    traces: Arc<Traces>,
    events: Arc<Broadcast>,
    vhost_net: Arc<VhostNet>,
    server: Weak<Server>,
}

impl Service {
    pub fn new(traces: Arc<Traces>, events: Arc<Broadcast>, vhost_net: Arc<VhostNet>, server: Weak<Server>) -> Self {
        Self { traces, events, vhost_net, server }
    }

    fn trace(&self, peer: &Peer, args: &Value) -> Result<SocketReply, Refusal> {
        privileged(peer)?;
        let uuid = args.get("uuid").and_then(Value::as_str).and_then(|uuid| Uuid::try_parse(uuid).ok());
        let uuid = uuid.ok_or_else(|| Refusal::new(Errno::EINVAL, "trace needs the uuid of an instance"))?;
        let trace = self.traces.lock().get(&uuid).cloned();
        let trace = trace.ok_or_else(|| Refusal::new(Errno::ENODEV, format!("there is no bound instance {uuid}")))?;
        listen(peer, &trace)
    }
}

/// A trace shows what another's client does.
fn privileged(peer: &Peer) -> Result<(), Refusal> {
    if peer.uid == 0 { Ok(()) } else { Err(Refusal::new(Errno::EPERM, "only root may trace")) }
}

fn listen(peer: &Peer, to: &Broadcast) -> Result<SocketReply, Refusal> {
    let pipe = to.subscribe(peer.uid).map_err(|error| Refusal::new(Errno::ENFILE, error.to_string()))?;
    Ok(SocketReply { json: Map::new(), fds: vec![pipe] })
}

impl SocketService for Service {
    fn call(&self, peer: &Peer, op: &str, args: &Value) -> Result<SocketReply, Refusal> {
        match op {
            "hello" => {
                let version = ("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
                let pid = ("pid".to_owned(), json!(std::process::id()));
                Ok(SocketReply { json: Map::from_iter([version, pid]), fds: Vec::new() })
            }
            "watch" => listen(peer, &self.events),
            "trace" => self.trace(peer, args),
            "stats" => {
                let stats = self.server.upgrade().map(|server| server.stats()).unwrap_or_default();
                let Value::Object(mut json) = serde_json::to_value(stats).unwrap_or_default() else {
                    return Err(Refusal::new(Errno::EIO, "the figures cannot be told"));
                };
                json.insert("vhost_net_devices".to_owned(), json!(self.vhost_net.devices()));
                json.insert("stuck_vendor_calls".to_owned(), json!(executor::stuck_calls()));
                Ok(SocketReply { json, fds: Vec::new() })
            }
            _ => Err(Refusal::new(Errno::EOPNOTSUPP, format!("there is no operation {op}"))),
        }
    }
}
