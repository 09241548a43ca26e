//! `umdev stats`: what instances count, in sum and by queue.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use uuid::Uuid;

use crate::error::errno_of;
use crate::output::Output;
use crate::tree::{Instance, Tree, base_name};
use crate::{Error, attribute};

/// Counts by name.
pub(crate) type Counters = BTreeMap<String, u64>;

/// The counters of one instance: the files of its directory `statistics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Statistics {
    pub(crate) uuid: Uuid,
    pub(crate) parent: Option<String>,
    #[serde(rename = "type")]
    pub(crate) type_name: Option<String>,
    /// Those of the whole instance: `rx_packets`.
    pub(crate) statistics: Counters,
    /// Those of its queues: `rx_queue_0_packets`.
    pub(crate) queues: Vec<Queue>,
}

/// The counters of one queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Queue {
    /// `rx` or `tx`, as the driver sees it.
    pub(crate) direction: &'static str,
    pub(crate) queue: u32,
    pub(crate) counters: Counters,
}

/// One look at all of them.
#[derive(Debug, Serialize)]
struct Look<'l> {
    /// Seconds since the epoch.
    time: f64,
    instances: &'l [Statistics],
}

/// The instance that the command line means: its UUID, its directory, or one of its device files.
fn resolve(target: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(target).or_else(|_| {
        let path = Path::new(target);
        let real =
            fs::canonicalize(path).map_err(|error| Error::Read { path: path.to_owned(), errno: errno_of(&error) })?;
        Uuid::try_parse(&base_name(&real)).map_err(|_| Error::NotAnInstance(path.to_owned()))
    })
}

/// Those of one instance, or of all that have any.
fn read(tree: &Tree, target: Option<Uuid>) -> Result<Vec<Statistics>, Error> {
    match target {
        Some(uuid) => {
            let counted = Statistics::read(&tree.instance(uuid)?)?;
            Ok(vec![counted.ok_or(Error::NoStatistics(uuid))?])
        }
        None => tree.instances()?.iter().filter_map(|instance| Statistics::read(instance).transpose()).collect(),
    }
}

/// Prints them once, or again and again until nobody reads.
pub(crate) fn stats(
    root: &Path,
    target: Option<&str>,
    every: Option<Duration>,
    output: &mut Output,
) -> Result<(), Error> {
    let tree = Tree::open(root)?;
    let target = target.map(resolve).transpose()?;
    let mut last = read(&tree, target)?;
    let Some(every) = every else { return Ok(output.statistics(&last, target.is_some())?) };
    let mut looked = Instant::now();
    loop {
        if output.json {
            let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let look = Look { time, instances: &last };
            output.line(&serde_json::to_string(&look).map_err(io::Error::from)?)?;
        }
        pause(every)?;
        let (now, at) = (read(&tree, target)?, Instant::now());
        if !output.json {
            let passed = at.duration_since(looked);
            let rates: Vec<_> = now.iter().map(|now| now.rates(find(&last, now.uuid), passed)).collect();
            output.statistics(&rates, target.is_some())?;
            output.line("")?;
        }
        (last, looked) = (now, at);
    }
}

fn find(among: &[Statistics], uuid: Uuid) -> Option<&Statistics> {
    among.iter().find(|counted| counted.uuid == uuid)
}

/// Waits; fails with a broken pipe as soon as nobody reads standard output any more.
fn pause(time: Duration) -> Result<(), Error> {
    let until = Instant::now() + time;
    let stdout = io::stdout();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        // A millisecond more than is left of it, so as not to look again for a fraction.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Err(Error::Output(io::ErrorKind::BrokenPipe.into())),
            Err(errno) => return Err(Error::Output(errno.into())),
        }
    }
}

impl Statistics {
    /// None where the instance has no such directory, or is gone. What is no number is none of these.
    fn read(instance: &Instance) -> Result<Option<Self>, Error> {
        let dir = instance.path.join("statistics");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::read(&dir, &error)),
        };
        let (mut statistics, mut queues) = (Counters::new(), BTreeMap::<_, Counters>::new());
        for entry in entries {
            let path = entry.map_err(|error| Error::read(&dir, &error))?.path();
            let Some(count) = attribute::read_optional(&path).and_then(|text| text.parse().ok()) else { continue };
            let name = base_name(&path);
            match of_queue(&name) {
                Some((direction, queue, counter)) => {
                    queues.entry((direction, queue)).or_default().insert(counter.to_owned(), count);
                }
                None => {
                    statistics.insert(name, count);
                }
            }
        }
        let queues =
            queues.into_iter().map(|((direction, queue), counters)| Queue { direction, queue, counters }).collect();
        Ok(Some(Self {
            uuid: instance.uuid,
            parent: instance.parent.clone(),
            type_name: instance.type_name.clone(),
            statistics,
            queues,
        }))
    }

    /// What was counted a second since `before`.
    fn rates(&self, before: Option<&Self>, passed: Duration) -> Self {
        let mut rates = self.clone();
        per_second(&mut rates.statistics, before.map(|before| &before.statistics), passed);
        for queue in &mut rates.queues {
            let same = |old: &&Queue| (old.direction, old.queue) == (queue.direction, queue.queue);
            let old = before.and_then(|before| before.queues.iter().find(same));
            per_second(&mut queue.counters, old.map(|old| &old.counters), passed);
        }
        rates
    }
}

/// Makes counts what came to them in each second of those that passed since they were `before`.
fn per_second(counters: &mut Counters, before: Option<&Counters>, passed: Duration) {
    for (name, count) in counters {
        let more = count.saturating_sub(before.and_then(|before| before.get(name)).copied().unwrap_or(0));
        let rate = u128::from(more) * 1_000_000_000 / passed.as_nanos().max(1);
        *count = u64::try_from(rate).unwrap_or(u64::MAX);
    }
}

/// `rx_queue_0_packets` is the counter `packets` of receive queue 0.
fn of_queue(name: &str) -> Option<(&'static str, u32, &str)> {
    let (direction, rest) = ["rx", "tx"].iter().find_map(|word| Some((*word, name.strip_prefix(word)?)))?;
    let (number, counter) = rest.strip_prefix("_queue_")?.split_once('_')?;
    Some((direction, number.parse().ok()?, counter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_queues_are_told_from_those_of_the_instance() {
        assert_eq!(of_queue("tx_queue_12_too_long"), Some(("tx", 12, "too_long")));
        for name in ["rx_packets", "rx_queue_packets", "rx_queue_0", "rx_queue_x_packets", "x_queue_0_packets"] {
            assert_eq!(of_queue(name), None, "{name}");
        }
    }

    #[test]
    fn rates_are_what_was_counted_meanwhile_and_never_below_zero() {
        let counters =
            |counts: [u64; 3]| ["a", "b", "c"].map(str::to_owned).into_iter().zip(counts).collect::<Counters>();
        let mut now = counters([30, 5, 7]);
        let mut before = counters([10, 9, 0]);
        before.remove("c");
        per_second(&mut now, Some(&before), Duration::from_secs(2));
        assert_eq!(now, counters([10, 0, 3]));
        per_second(&mut now, None, Duration::ZERO);
        assert_eq!(now["b"], 0);
    }
}
