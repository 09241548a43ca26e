//! The stock parents, by kind.

use crate::DaemonError;
use crate::config::ParentSpec;
use std::collections::BTreeMap;
use std::sync::Arc;
use virtio_mdev_api::Parent;

/// Instances a stock parent has room for, where `capacity=` does not say.
const CAPACITY: u32 = 1024;

/// Makes a parent of a name, with room for so many instances; or says why not.
type Make = fn(&str, u32) -> Result<Arc<dyn Parent>, String>;

const KINDS: [(&str, Make); 3] = [
    ("loopback", |name, capacity| Ok(Arc::new(loopback::Loopback::new(name, capacity)))),
    ("tap", |name, capacity| {
        tap::Tap::permitted().map_err(|refusal| refusal.to_string())?;
        Ok(Arc::new(tap::Tap::new(name, tap::TapOptions { capacity })))
    }),
    // For tests, and only where it is asked for.
    ("faulty", |name, capacity| Ok(Arc::new(faulty::Faulty::new(name, capacity)))),
];

/// The kinds of parents there are.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(kind, _)| *kind)
}

/// Makes the parent `spec` asks for.
pub fn make_parent(spec: &ParentSpec) -> Result<Arc<dyn Parent>, DaemonError> {
    let refused = |reason: String| DaemonError::Parent { name: spec.name.clone(), reason };
    let mut options = spec.options.clone();
    let capacity = take_number(&mut options, "capacity", CAPACITY).map_err(refused)?;
    if let Some(key) = options.keys().next() {
        return Err(refused(format!("there is no option {key}; {} knows capacity=", spec.kind)));
    }
    let Some((_, make)) = KINDS.iter().find(|(kind, _)| *kind == spec.kind) else {
        let known: Vec<_> = kinds().collect();
        return Err(refused(format!("there is no kind {}; there are {}", spec.kind, known.join(", "))));
    };
    make(&spec.name, capacity).map_err(refused)
}

/// What is registered when nobody says what: a loopback, and a tap where one is permitted.
pub fn default_parents() -> Vec<ParentSpec> {
    let spec = |kind: &str| ParentSpec { kind: kind.to_owned(), name: format!("{kind}0"), options: BTreeMap::new() };
    let mut parents = vec![spec("loopback")];
    match tap::Tap::permitted() {
        Ok(()) => parents.push(spec("tap")),
        Err(refusal) => tracing::warn!(%refusal, "no tap parent"),
    }
    parents
}

fn take_number(options: &mut BTreeMap<String, String>, key: &str, default: u32) -> Result<u32, String> {
    let Some(value) = options.remove(key) else { return Ok(default) };
    value.parse().map_err(|_| format!("{key}={value}: not a number"))
}
