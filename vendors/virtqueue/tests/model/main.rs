//! The engine against a model of what must come of it: a driver that knows what it posted and a device that does anything
//! the engine allows, over every combination of what can be negotiated and every kind of memory.
//!
//! Compared are the chains that come out and their order, what is read and written, lengths, where the ring stands, every
//! byte of memory that changed, what was reported as written, and notifications both ways: none may be missing, and none
//! may come that nobody asked for. More cases: `PROPTEST_CASES=100000`, of which each setting gets its part.

mod device;
mod guest;
mod memory;
mod run;
mod script;

use crate::device::Wrong;
use crate::run::Run;
use crate::script::{Setting, steps};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRng, TestRunner};
use virtio_mdev_api::features::VIRTIO_F_RING_PACKED;

/// Runs scripts in a setting until one finds something.
fn search(setting: Setting, wrong: Option<Wrong>, cases: u32) -> Option<String> {
    // A planted error need not be understood.
    let max_shrink_iters = if wrong.is_some() { 0 } else { 4000 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters, ..Config::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = if wrong.is_some() { TestRunner::new_with_rng(config, rng) } else { TestRunner::new(config) };
    let run = |script: Vec<_>| Run::new(setting, wrong).steps(&script).map_err(TestCaseError::fail);
    match runner.run(&steps(), run) {
        Ok(()) => None,
        Err(TestError::Fail(why, script)) => Some(format!("{setting:?}\n{script:?}\n{why}")),
        Err(TestError::Abort(why)) => Some(why.to_string()),
    }
}

fn agree(settings: &[Setting]) {
    // The default is 256.
    let cases = (Config::default().cases / 64).max(1);
    // A checker of memory is slow; it gets some of every kind with small rings.
    let settings = settings.iter().filter(|setting| !cfg!(miri) || setting.size <= 8);
    for setting in settings.step_by(if cfg!(miri) { 13 } else { 1 }) {
        if let Some(found) = search(*setting, None, cases) {
            panic!("{found}");
        }
    }
}

fn settings(packed: bool, elsewhere: bool) -> Vec<Setting> {
    Setting::all(packed).into_iter().filter(|setting| setting.elsewhere == elsewhere).collect()
}

#[test]
fn a_split_ring_is_as_its_model_says() {
    agree(&settings(false, false));
}

#[test]
fn a_split_ring_elsewhere_is_as_its_model_says() {
    agree(&settings(false, true));
}

#[test]
fn a_packed_ring_is_as_its_model_says() {
    agree(&settings(true, false));
}

#[test]
fn a_packed_ring_elsewhere_is_as_its_model_says() {
    agree(&settings(true, true));
}

#[test]
#[cfg_attr(miri, ignore = "what a device does wrong is no matter of memory")]
fn every_planted_error_is_found_in_every_setting() {
    for packed in [false, true] {
        // The smallest rings hide some.
        for setting in settings(packed, false).iter().filter(|setting| setting.size > 3) {
            let missed: Vec<_> =
                Wrong::ALL.into_iter().filter(|wrong| search(*setting, Some(*wrong), 16).is_none()).collect();
            assert!(missed.is_empty(), "{missed:?} in {setting:?}");
        }
    }
}

#[test]
fn settings_have_the_format_they_are_for() {
    for packed in [false, true] {
        let settings = Setting::all(packed);
        assert_eq!(settings.len(), 256);
        assert!(settings.iter().all(|setting| setting.has(VIRTIO_F_RING_PACKED) == packed));
    }
}
