//! The rules, by family. Within the list a rule stands before those that need what it looks at.

mod config;
mod control;
mod data;
mod features;
mod iotlb;
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
        rings::RULES,
        data::RULES,
        suspend::RULES,
    ]
    .into_iter()
    .flatten()
}
