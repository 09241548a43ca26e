//! The stock parents, by kind.

use crate::DaemonError;
use crate::config::ParentSpec;
use loopback::PoolOptions;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use switch::{Switch, SwitchOptions};
use virtio_mdev_api::Parent;

/// Instances a stock parent has room for, where `capacity=` does not say.
const CAPACITY: u32 = 1024;
/// Most threads of a parent.
const MAX_THREADS: u32 = 256;
/// Most microseconds a thread looks for work before it sleeps.
const MAX_POLL_US: u32 = 1_000_000;

type Options = BTreeMap<String, String>;

/// Makes a parent of a name, with room for so many instances, from options of its own; or says why not.
type Make = fn(&str, u32, Options) -> Result<Arc<dyn Parent>, String>;

/// The kinds, what `capacity=` is where it does not say, and the options they have besides.
const KINDS: [(&str, u32, &[&str], Make); 5] = [
    ("loopback", CAPACITY, &["threads", "cpus", "poll-us"], |name, capacity, options| {
        Ok(Arc::new(loopback::Loopback::with_pool(name, capacity, take_pool(options)?)))
    }),
    ("tap", CAPACITY, &["threads", "cpus", "poll-us"], |name, capacity, options| {
        tap::Tap::permitted().map_err(|refusal| refusal.to_string())?;
        Ok(Arc::new(tap::Tap::new(name, tap::TapOptions { capacity, pool: take_pool(options)? })))
    }),
    ("switch", CAPACITY, &["uplink", "ageing", "fdb", "threads", "cpus", "poll-us"], make_switch),
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
    let options = SwitchOptions { capacity, fdb, ageing, uplink, pool: take_pool(options)? };
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

/// Who serves the queues of a parent: `threads=`, `cpus=`, `poll-us=`.
fn take_pool(mut options: Options) -> Result<PoolOptions, String> {
    let options = &mut options;
    let default = PoolOptions::default();
    let threads = take_number(options, "threads", u32::try_from(default.threads).unwrap_or(u32::MAX))?;
    if !(1..=MAX_THREADS).contains(&threads) {
        return Err(format!("threads={threads}: 1 to {MAX_THREADS}"));
    }
    let poll = take_number(options, "poll-us", u32::try_from(default.poll.as_micros()).unwrap_or(u32::MAX))?;
    if poll > MAX_POLL_US {
        return Err(format!("poll-us={poll}: no more than {MAX_POLL_US}"));
    }
    let cpus = options.remove("cpus").map_or_else(|| Ok(default.cpus), |list| parse_cpus(&list))?;
    let pool = PoolOptions {
        threads: usize::try_from(threads).unwrap_or(usize::MAX),
        cpus,
        poll: Duration::from_micros(poll.into()),
    };
    match pool.unusable_cpu() {
        Ok(None) => Ok(pool),
        Ok(Some(cpu)) => Err(format!("cpus=: the daemon may not run on processor {cpu}")),
        Err(errno) => Err(format!("cpus=: {}", errno.desc())),
    }
}

/// Numbers and ranges: `2-3+6`. A comma would end the option.
fn parse_cpus(list: &str) -> Result<Vec<usize>, String> {
    let number = |text: &str| text.parse::<u16>().ok().map(usize::from);
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(number(first)?..=number(last)?),
        None => Some(number(part)?..=number(part)?),
    };
    let ranges: Option<Vec<_>> = list.split('+').map(range).collect();
    let ranges = ranges.filter(|ranges| ranges.iter().all(|range| !range.is_empty()));
    let ranges = ranges.ok_or_else(|| format!("cpus={list}: not processors such as 2-3+6"))?;
    Ok(ranges.into_iter().flatten().collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(word: &str) -> String {
        let spec = ParentSpec::parse(word).unwrap();
        make_parent(&spec).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn processors_are_numbers_and_ranges() {
        assert_eq!(parse_cpus("2-3+6"), Ok(vec![2, 3, 6]));
        assert_eq!(parse_cpus("0"), Ok(vec![0]));
        for bad in ["", "+", "3-2", "1-", "-1", "a", "70000"] {
            assert!(parse_cpus(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_parent_says_which_options_it_knows() {
        assert!(refused("loopback,speed=1").contains("knows capacity=, threads=, cpus=, poll-us="));
        assert!(refused("mtty,threads=1").contains("knows capacity="));
        assert!(refused("loopback,threads=0").contains("1 to 256"));
        assert!(refused("loopback,poll-us=1000001").contains("no more than"));
        assert!(refused("loopback,cpus=65535").contains("may not run on processor 65535"));
        make_parent(&ParentSpec::parse("loopback,threads=2,cpus=0,poll-us=0").unwrap()).unwrap();
    }
}
