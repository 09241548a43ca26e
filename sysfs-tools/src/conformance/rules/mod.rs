//! The rules, by family. Within the list a rule stands before those that need what it looks at.

mod asid;
mod config;
mod control;
mod data;
mod eventfds;
mod features;
mod iotlb;
mod log;
mod reset;
mod rings;
mod status;
mod suspend;

use super::Rule;

/// All rules, in the order they are tried in.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    [
        control::RULES,
        config::RULES,
        features::RULES,
        status::RULES,
        iotlb::RULES,
        asid::RULES,
        rings::RULES,
        eventfds::RULES,
        data::RULES,
        log::RULES,
        suspend::RULES,
        reset::RULES,
    ]
    .into_iter()
    .flatten()
}
