//! The rules, by what they look at. Within the list a rule stands before those that need what it looks at, so that the
//! first to fail is the one to read; a family can therefore be in several places.

mod access;
mod asid;
mod commands;
mod config;
mod control;
mod data;
mod eventfds;
mod features;
mod iotlb;
mod log;
mod reset;
mod rings;
mod spaces;
mod status;
mod suspend;

use super::Rule;

/// All rules, in the order they are tried in.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    [
        control::RULES,
        config::RULES,
        features::OFFER,
        status::RULES,
        features::RULES,
        iotlb::RULES,
        asid::RULES,
        rings::RULES,
        eventfds::RULES,
        access::RULES,
        commands::RULES,
        spaces::RULES,
        data::RULES,
        log::RULES,
        suspend::RULES,
        reset::RULES,
    ]
    .into_iter()
    .flatten()
}
