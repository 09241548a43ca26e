//! Limits that many instances or clients run into.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::Check;

/// The kernel's default. Each file that a client's memory comes from takes one mapping or a few.
const MIN_MAPPINGS: u64 = 65_530;
/// An instance takes about ten descriptors: eventfds, the client's memory files, its sockets.
const MIN_DESCRIPTORS: u64 = 65_536;

pub(super) fn checks() -> [Check; 3] {
    let hard = |resource| getrlimit(resource).map_or(0, |(_, hard)| hard);
    let may_lock = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    [
        max_map_count(fs::read_to_string("/proc/sys/vm/max_map_count").ok().as_deref()),
        nofile(hard(Resource::RLIMIT_NOFILE)),
        memlock(hard(Resource::RLIMIT_MEMLOCK), may_lock),
    ]
}

fn max_map_count(text: Option<&str>) -> Check {
    const NAME: &str = "vm.max_map_count";
    const REMEDY: &str = "sysctl -w vm.max_map_count=1048576";
    match text.and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(count) if count >= MIN_MAPPINGS => Check::ok(NAME, count.to_string()),
        Some(count) => Check::warn(NAME, format!("{count}: few clients' memory fits"), REMEDY),
        None => Check::warn(NAME, "cannot be read", REMEDY),
    }
}

fn nofile(hard: u64) -> Check {
    const NAME: &str = "RLIMIT_NOFILE";
    if hard >= MIN_DESCRIPTORS {
        Check::ok(NAME, amount(hard))
    } else {
        Check::warn(
            NAME,
            format!("{hard}: enough for about {} instances", hard / 10),
            "ulimit -Hn 1048576, or LimitNOFILE=1048576 in the unit",
        )
    }
}

fn memlock(hard: u64, may_lock: bool) -> Check {
    const NAME: &str = "RLIMIT_MEMLOCK";
    if may_lock {
        Check::ok(NAME, "overridden by CAP_IPC_LOCK")
    } else if hard == RLIM_INFINITY {
        Check::ok(NAME, amount(hard))
    } else {
        Check::warn(
            NAME,
            format!("{hard} bytes: a parent on real hardware cannot pin a guest's memory"),
            "ulimit -Hl unlimited, or LimitMEMLOCK=infinity in the unit",
        )
    }
}

fn amount(limit: u64) -> String {
    if limit == RLIM_INFINITY { "unlimited".into() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::RLIM_INFINITY;

    use super::super::Status;
    use super::{max_map_count, memlock, nofile};

    #[test]
    fn the_kernels_default_of_mappings_will_do() {
        assert_eq!(max_map_count(Some("65530\n")).status, Status::Ok);
        assert_eq!(max_map_count(Some("1024\n")).status, Status::Warn);
        assert_eq!(max_map_count(None).status, Status::Warn);
    }

    #[test]
    fn few_descriptors_are_told_in_instances() {
        assert_eq!(nofile(4096).found, "4096: enough for about 409 instances");
        assert_eq!(nofile(RLIM_INFINITY).found, "unlimited");
    }

    #[test]
    fn locked_memory_matters_without_the_capability_only() {
        assert_eq!(memlock(65_536, true).status, Status::Ok);
        assert_eq!(memlock(65_536, false).status, Status::Warn);
        assert_eq!(memlock(RLIM_INFINITY, false).status, Status::Ok);
    }
}
