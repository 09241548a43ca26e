//! The stock parents, by kind.

use crate::DaemonError;
use crate::config::ParentSpec;
use std::collections::BTreeMap;
use std::sync::Arc;
use switch::{Switch, SwitchOptions};
use virtio_mdev_api::Parent;

/// Instances a stock parent has room for, where `capacity=` does not say.
const CAPACITY: u32 = 1024;

type Options = BTreeMap<String, String>;

/// Makes a parent of a name, with room for so many instances, from options of its own; or says why not.
type Make = fn(&str, u32, Options) -> Result<Arc<dyn Parent>, String>;

/// The kinds, what `capacity=` is where it does not say, and the options they have besides.
const KINDS: [(&str, u32, &[&str], Make); 5] = [
    ("loopback", CAPACITY, &[], |name, capacity, _| Ok(Arc::new(loopback::Loopback::new(name, capacity)))),
    ("tap", CAPACITY, &[], |name, capacity, _| {
        tap::Tap::permitted().map_err(|refusal| refusal.to_string())?;
        Ok(Arc::new(tap::Tap::new(name, tap::TapOptions { capacity })))
    }),
    ("switch", CAPACITY, &["uplink", "ageing", "fdb"], make_switch),
    // Its capacity is of ports, which instances of both types share.
    ("mtty", mtty::DEFAULT_PORTS, &[], |name, capacity, _| Ok(Arc::new(mtty::Mtty::new(name, capacity)))),
    // For tests, and only where it is asked for.
    ("faulty", CAPACITY, &[], |name, capacity, _| Ok(Arc::new(faulty::Faulty::new(name, capacity)))),
];

fn make_switch(name: &str, capacity: u32, mut options: Options) -> Result<Arc<dyn Parent>, String> {
    let default = SwitchOptions::default();
    let ageing = take_number(&mut options, "ageing", default.ageing)?;
    let fdb = take_number(&mut options, "fdb", default.fdb)?;
    let uplink = match options.remove("uplink") {
        None => None,
        Some(text) => match text.strip_prefix("tap:") {
            Some(interface) => Some(interface.to_owned()),
            None => return Err(format!("uplink={text}: not tap:NAME, an interface that is made")),
        },
    };
    let options = SwitchOptions { capacity, fdb, ageing, uplink };
    Ok(Arc::new(Switch::new(name, &options).map_err(|refusal| refusal.to_string())?))
}

/// The kinds of parents there are.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(kind, ..)| *kind)
}

/// Makes the parent `spec` asks for.
pub fn make_parent(spec: &ParentSpec) -> Result<Arc<dyn Parent>, DaemonError> {
    let refused = |reason: String| DaemonError::Parent { name: spec.name.clone(), reason };
    let Some((_, capacity, own, make)) = KINDS.iter().find(|(kind, ..)| *kind == spec.kind) else {
        let known: Vec<_> = kinds().collect();
        return Err(refused(format!("there is no kind {}; there are {}", spec.kind, known.join(", "))));
    };
    let mut options = spec.options.clone();
    let capacity = take_number(&mut options, "capacity", *capacity).map_err(refused)?;
    if let Some(key) = options.keys().find(|key| !own.contains(&key.as_str())) {
        let known: Vec<_> = ["capacity"].iter().chain(*own).map(|key| format!("{key}=")).collect();
        return Err(refused(format!("there is no option {key}; {} knows {}", spec.kind, known.join(", "))));
    }
    make(&spec.name, capacity, options).map_err(refused)
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

fn take_number(options: &mut Options, key: &str, default: u32) -> Result<u32, String> {
    let Some(value) = options.remove(key) else { return Ok(default) };
    value.parse().map_err(|_| format!("{key}={value}: not a number"))
}
