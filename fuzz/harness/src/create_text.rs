//! What operators write: into `create` and `remove`, and as words of the command line.

use crate::assert_errno;
use loopback::Loopback;
use mdev_parent::{CreateText, RemoveText};
use std::fmt::Write as _;
use umdevd::config::ParentSpec;
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent};
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
        create(&text);
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

/// Each type takes the parameters as a whole, and shows what it took.
fn create(text: &CreateText) {
    let parent = Loopback::new("loopback0", 1);
    for kind in parent.types() {
        let (link, parameters) = (DeviceLink::new("fuzzed"), text.parameters.clone());
        let request = CreateRequest {
            uuid: text.uuid,
            type_name: kind.name,
            parameters,
            doorbell_pages: true,
            owner: None,
            link,
        };
        let mut device = match parent.create(request) {
            Ok(Device::Virtio(device)) => device,
            Ok(_) => panic!("no virtio device"),
            Err(refusal) => {
                assert_errno(refusal.errno(), text);
                continue;
            }
        };
        let mut config = vec![0; device.info().config_size as usize];
        device.read_config(0, &mut config);
        let mut shown = |name| device.show_attribute(name).expect("what is there can be shown");
        for (key, value) in &text.parameters {
            match (key.as_str(), value.parse::<u64>()) {
                ("mac", _) => assert_eq!(shown("mac"), value.to_ascii_lowercase()),
                ("mtu" | "pairs" | "queue-size", Ok(number)) => assert_eq!(shown(key), number.to_string()),
                _ => {}
            }
        }
        for attribute in device.attributes() {
            device.show_attribute(&attribute.name).expect("what is there can be shown");
        }
    }
}
