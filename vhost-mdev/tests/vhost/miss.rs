//! MISS messages: who is asked for what is not mapped, and what is read.

use crate::lab::*;
use devnode::{PollEvents, Read};
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::testing::FakeClient;
use virtio_mdev_api::dma::{Lookup, Permissions};

const NOW: Read = Read { offset: 0, len: 72, nonblock: true };
const WAIT: Read = Read { nonblock: false, ..NOW };
const READ: Permissions = Permissions::READ;
const WRITE: Permissions = Permissions::WRITE;

impl Lab {
    fn read(&self, read: &Read) -> Result<Vec<u8>, Errno> {
        self.file.serve_read(&self.client, read)
    }

    /// What a queue finds that needs `access` to one byte at `iova`.
    fn needs(&self, iova: u64, access: Permissions) -> &'static str {
        let mut reader = self.queue_space().reader("test", Arc::new(|_: &str| {}));
        match reader.enter().view().lookup(iova, 1, access) {
            Lookup::Hit(_) => "hit",
            Lookup::Fault => "fault",
            Lookup::Pending => "pending",
        }
    }
}

/// A running device whose client answers misses.
fn asking() -> Lab {
    let lab = Lab::new();
    assert_eq!(lab.read(&NOW), Err(Errno::EAGAIN));
    lab.start().unwrap();
    lab
}

#[test]
fn a_client_that_never_reads_is_not_asked() {
    let lab = Lab::new();
    lab.start().unwrap();
    assert_eq!(lab.needs(0x5000, READ), "fault");
    let nothing = lab.file.serve_poll(&lab.client, PollEvents::OUT);
    assert_eq!(nothing, PollEvents::OUT);
    assert_eq!(lab.needs(0x5000, READ), "fault", "who polls for output does not read");
}

#[test]
fn the_first_read_or_poll_for_input_begins_it() {
    let reads = Lab::new();
    assert_eq!(reads.read(&NOW), Err(Errno::EAGAIN));
    let polls = Lab::new();
    assert_eq!(polls.file.serve_poll(&polls.client, PollEvents::IN), PollEvents::OUT);
    for lab in [reads, polls] {
        lab.start().unwrap();
        assert_eq!(lab.needs(0x5432, READ), "pending");
        assert_eq!(lab.file.serve_poll(&lab.client, PollEvents::IN), PollEvents::IN | PollEvents::OUT);
        assert_eq!(lab.read(&NOW).unwrap(), message(1, 0, [0x5432, 0, 0], 1, 1));
        assert_eq!(lab.read(&NOW), Err(Errno::EAGAIN));
    }
}

#[test]
fn a_miss_is_told_once_until_it_is_answered() {
    let lab = asking();
    for _ in 0..3 {
        assert_eq!(lab.needs(0x5000, WRITE), "pending");
    }
    lab.read(&NOW).unwrap();
    assert_eq!(lab.needs(0x5fff, WRITE), "pending");
    assert_eq!(lab.read(&NOW), Err(Errno::EAGAIN));
    lab.update(0x5000, 0x1000).unwrap();
    assert_eq!(lab.needs(0x5fff, WRITE), "hit");
    lab.write(3, 0x5000, 0x1000, 0).unwrap();
    assert_eq!(lab.needs(0x5fff, WRITE), "pending");
    assert_eq!(lab.read(&NOW).unwrap(), message(1, 0, [0x5fff, 0, 0], 2, 1));
}

#[test]
fn messages_are_of_the_version_that_was_acknowledged_and_name_the_address_space() {
    let lab = asking();
    lab.call(SET_BACKEND_FEATURES, &2u64.to_ne_bytes()).unwrap();
    assert_eq!(lab.needs(0x5000, READ), "pending");
    assert_eq!(lab.read(&NOW).unwrap(), message(2, 0, [0x5000, 0, 0], 1, 1));
}

#[test]
fn what_is_mapped_or_invalidated_before_it_was_read_is_not_read() {
    let lab = asking();
    lab.needs(0x5000, READ);
    lab.needs(0x9000, READ);
    lab.update(0x5000, 0x1000).unwrap();
    lab.write(3, 0x9000, 0x1000, 0).unwrap();
    assert_eq!(lab.read(&NOW), Err(Errno::EAGAIN));
    // Who still needs it asks again.
    assert_eq!(lab.needs(0x9000, READ), "pending");
    assert_eq!(lab.read(&NOW).unwrap()[8..16], 0x9000u64.to_ne_bytes());
}

#[test]
fn memory_that_forbids_an_access_is_no_miss() {
    let lab = asking();
    lab.write_as(&lab.client, &message(2, 0, [0x5000, 0x1000, RAM], 1, 2)).unwrap();
    assert_eq!(lab.needs(0x5000, WRITE), "fault");
    assert_eq!(lab.read(&NOW), Err(Errno::EAGAIN));
}

#[test]
fn a_client_that_does_not_read_takes_no_more_than_so_much_memory_and_misses_nothing() {
    let lab = asking();
    for page in 0..5000 {
        assert_eq!(lab.needs(page << 12, READ), "pending");
    }
    let mut read = 0;
    while lab.read(&NOW).is_ok() {
        read += 1;
    }
    assert_eq!(read, 1024);
    assert_eq!(lab.needs(4999 << 12, READ), "pending");
    assert_eq!(lab.read(&NOW).unwrap()[8..16], (4999u64 << 12).to_ne_bytes());
}

#[test]
fn a_reset_forgets_what_was_asked_and_the_next_driver_is_asked_anew() {
    let lab = asking();
    lab.needs(0x5000, READ);
    lab.read(&NOW).unwrap();
    lab.needs(0x6000, READ);
    lab.set_status(0).unwrap();
    assert_eq!(lab.read(&NOW), Err(Errno::EAGAIN));
    lab.start().unwrap();
    assert_eq!(lab.needs(0x5000, READ), "pending");
    assert_eq!(lab.read(&NOW).unwrap()[8..16], 0x5000u64.to_ne_bytes());
}

#[test]
fn only_the_owner_reads_and_a_short_buffer_gets_nothing() {
    let lab = asking();
    lab.needs(0x5000, READ);
    assert_eq!(lab.file.serve_read(&FakeClient::new(2), &NOW), Err(Errno::EPERM));
    assert!(lab.read(&Read { len: 71, ..NOW }).unwrap().is_empty());
    assert_eq!(lab.read(&NOW).unwrap().len(), 72);
    let other = Lab::new();
    other.file.serve_poll(&FakeClient::new(2), PollEvents::IN);
    other.start().unwrap();
    assert_eq!(other.needs(0x5000, READ), "fault", "a stranger's poll changed who is asked");
}

#[test]
fn a_device_that_uses_no_iotlb_will_never_ask() {
    let lab = Lab::new();
    let _held = lab.attach();
    lab.start().unwrap();
    assert_eq!(lab.read(&NOW), Err(Errno::EAGAIN));
    assert_eq!(lab.read(&WAIT), Err(Errno::EBADFD));
    let lab = Lab::grouped();
    let _held = lab.attach();
    lab.start().unwrap();
    assert_eq!(lab.read(&WAIT), Err(Errno::EAGAIN), "the container is one of two address spaces");
    assert_eq!(Lab::own_iommu().read(&WAIT), Err(Errno::EBADFD));
}

#[test]
fn a_reader_of_a_file_that_is_taken_away_is_told() {
    let lab = asking();
    assert_eq!(lab.read(&WAIT), Err(Errno::EAGAIN));
    lab.node.revoke();
    assert_eq!(lab.read(&WAIT), Err(Errno::ENODEV));
    assert_eq!(lab.file.serve_poll(&lab.client, PollEvents::IN), PollEvents::HUP | PollEvents::ERR);
}
