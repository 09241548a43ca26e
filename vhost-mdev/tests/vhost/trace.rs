//! Lines for those who listen.

use crate::lab::*;
use nix::errno::Errno;
use std::fs::File;
use std::io::{BufRead, BufReader};

#[test]
fn every_call_is_one_line_with_its_arguments_decoded() {
    let lab = Lab::new();
    let mut lines = BufReader::new(File::from(lab.trace.subscribe(0).unwrap())).lines();
    let mut next = || lines.next().unwrap().unwrap();
    let mut expect = |parts: &[&str]| {
        let line = next();
        parts.iter().for_each(|part| assert!(line.contains(part), "{part} in {line}"));
    };
    lab.set_features(virtio_mdev_api::features::REQUIRED).unwrap();
    expect(&["\"call\":\"VHOST_SET_FEATURES\"", "\"file\":\"vhost\"", "\"features\":\"0x300000000\"", "\"result\":0"]);
    assert_eq!(lab.vring(SET_VRING_NUM, 7, 64), Err(Errno::ENOBUFS));
    expect(&[
        "\"call\":\"VHOST_SET_VRING_NUM\"",
        "\"index\":7",
        "\"num\":64",
        "\"result\":-1",
        "\"errno\":\"ENOBUFS\"",
    ]);
    lab.update(0x4000, 0x1000).unwrap();
    expect(&["\"call\":\"IOTLB_UPDATE\"", "\"iova\":16384", "\"size\":4096", "\"tid\":1"]);
    assert_eq!(lab.call(0xafff, &[]), Err(Errno::ENOTTY));
    expect(&["\"call\":\"unknown\"", "\"errno\":\"ENOTTY\""]);
}
