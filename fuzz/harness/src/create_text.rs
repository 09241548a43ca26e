//! What operators write: into `create` and `remove`, and as words of the command line.

use crate::assert_errno;
use loopback::Loopback;
use mdev_parent::{CreateText, RemoveText};
use std::fmt::Write as _;
use umdevd::config::ParentSpec;
use virtio_mdev_api::{CreateRequest, DeviceLink, Parent};
use virtio_net::Mac;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let _ = RemoveText::parse(bytes);
    if let Ok(text) = CreateText::parse(bytes) {
        let mut again = text.uuid.to_string();
        for (key, value) in &text.parameters {
            write!(again, " {key}={value}").expect("a string takes everything");
        }
        if let Some(owner) = &text.owner {
            write!(again, " owner={}:{}", owner.uid, owner.gid).expect("a string takes everything");
        }
        assert_eq!(CreateText::parse(again.as_bytes()).as_ref(), Ok(&text), "{again:?}");
        let (type_name, link) = ("net".to_owned(), DeviceLink::new("fuzzed"));
        let request = CreateRequest { uuid: text.uuid, type_name, parameters: text.parameters, link };
        if let Err(refusal) = Loopback::new("loopback0", 1).create(request) {
            assert_errno(refusal.errno(), &again);
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(mac) = text.parse::<Mac>() {
        assert_eq!(mac.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(spec) = ParentSpec::parse(text) {
        let mut again = format!("{}:{}", spec.kind, spec.name);
        for (key, value) in &spec.options {
            write!(again, ",{key}={value}").expect("a string takes everything");
        }
        assert_eq!(ParentSpec::parse(&again).ok().as_ref(), Some(&spec), "{again:?}");
    }
}
