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

/// The kinds, and what `capacity=` is where it does not say.
const KINDS: [(&str, u32, Make); 4] = [
    ("loopback", CAPACITY, |name, capacity| Ok(Arc::new(loopback::Loopback::new(name, capacity)))),
    ("tap", CAPACITY, |name, capacity| {
        tap::Tap::permitted().map_err(|refusal| refusal.to_string())?;
        Ok(Arc::new(tap::Tap::new(name, tap::TapOptions { capacity })))
    }),
    // Its capacity is of ports, which instances of both types share.
    ("mtty", mtty::DEFAULT_PORTS, |name, capacity| Ok(Arc::new(mtty::Mtty::new(name, capacity)))),
    // For tests, and only where it is asked for.
    ("faulty", CAPACITY, |name, capacity| Ok(Arc::new(faulty::Faulty::new(name, capacity)))),
];

/// The kinds of parents there are.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(kind, ..)| *kind)
}

/// Makes the parent `spec` asks for.
pub fn make_parent(spec: &ParentSpec) -> Result<Arc<dyn Parent>, DaemonError> {
    let refused = |reason: String| DaemonError::Parent { name: spec.name.clone(), reason };
    let Some((_, capacity, make)) = KINDS.iter().find(|(kind, ..)| *kind == spec.kind) else {
        let known: Vec<_> = kinds().collect();
        return Err(refused(format!("there is no kind {}; there are {}", spec.kind, known.join(", "))));
    };
    let mut options = spec.options.clone();
    let capacity = take_number(&mut options, "capacity", *capacity).map_err(refused)?;
    if let Some(key) = options.keys().next() {
        return Err(refused(format!("there is no option {key}; {} knows capacity=", spec.kind)));
    }
    make(&spec.name, capacity).map_err(refused)
}

/// What is registered when nobody says what: a loopback, and a tap where one is permitted. Serial cards are left to be asked
/// for, as the kernel leaves its sample of them: nobody needs one to have a network.
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
