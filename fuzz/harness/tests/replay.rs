//! The corpus of every target, with the compiler that everybody has.

use fuzz_harness::TARGETS;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What panicked, on whatever thread: servers catch the panics of what they serve.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target)
}

fn replay(target: &str) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
        usual(panic);
    }));
    let (_, run) = TARGETS.into_iter().find(|(name, _)| *name == target).expect("a target of that name");
    let mut files: Vec<_> = fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus of {target} is empty");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let outcome = std::panic::catch_unwind(|| run(&bytes));
        let panics = std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
        assert!(outcome.is_ok() && panics.is_empty(), "{}: {panics:#?}", file.display());
    }
}

#[test]
fn the_corpus_of_vhost_ioctls_breaks_no_promise() {
    replay("vhost_ioctl");
}

#[test]
fn the_corpus_of_vhost_net_ioctls_breaks_no_promise() {
    replay("vhost_net_ioctl");
}

#[test]
fn the_corpus_of_iotlb_messages_breaks_no_promise() {
    replay("iotlb_message");
}

#[test]
fn the_corpus_of_fuse_requests_breaks_no_promise() {
    replay("fuse_request");
}

#[test]
fn the_corpus_of_vfio_ioctls_breaks_no_promise() {
    replay("vfio_ioctl");
}

#[test]
fn the_corpus_of_vfio_devices_breaks_no_promise() {
    replay("vfio_device");
}

#[test]
fn the_corpus_of_migration_streams_breaks_no_promise() {
    replay("migration_stream");
}

#[test]
fn the_corpus_of_iommufd_breaks_no_promise() {
    replay("iommufd");
}

#[test]
fn the_corpus_of_rings_breaks_no_promise() {
    replay("rings");
}

#[test]
fn the_corpus_of_network_cards_breaks_no_promise() {
    replay("net_card");
}

#[test]
fn the_corpus_of_what_operators_write_breaks_no_promise() {
    replay("create_text");
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let mut found: Vec<_> =
        fs::read_dir(corpus("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut targets = TARGETS.map(|(name, _)| name.to_owned());
    found.sort();
    targets.sort();
    assert_eq!(found, targets);
}
