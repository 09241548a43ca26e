//! Memory that is reached through its client.
#![allow(missing_docs)]

use devnode::{Caller, MapAccess};
use std::sync::Arc;
use virtio_mdev_api::dirty::{DirtyRecord, Log, LogSetup};
use virtio_mdev_api::dma::{Permissions, Region};
use virtio_mdev_api::notify::CallSlot;

const SIZE: usize = 4096;

#[test]
fn devices_that_share_a_dirty_log_in_private_memory_lose_no_bit_of_each_other() {
    const DEVICES: u64 = 4;
    let caller = Caller::current();
    let bytes = vec![0u8; SIZE];
    let (addr, len) = (bytes.as_ptr().expose_provenance() as u64, SIZE as u64);
    let record = || {
        let pieces = caller.map(addr, len, MapAccess { read: true, write: true }).unwrap();
        let [piece] = pieces.try_into().unwrap();
        let (permissions, backing) = (Permissions::READ | Permissions::WRITE, piece.backing);
        let bitmap = vec![Region { iova: 0, len, permissions, backing }];
        let notify = Arc::new(CallSlot::default());
        let record = DirtyRecord::new();
        let log = Log::new(LogSetup { bitmap, rings: Vec::new(), notify }).unwrap();
        let guard = record.add_sink(log);
        (record, guard)
    };
    // As many files of one client, for each of which it sets the same log.
    let devices: Vec<_> = (0..DEVICES).map(|_| record()).collect();
    std::thread::scope(|scope| {
        for (page, (record, _)) in (0..).zip(&devices) {
            scope.spawn(move || (0..len).for_each(|byte| record.mark((byte * 8 + page) * 4096, 1)));
        }
    });
    devices.iter().for_each(|(record, _)| record.flush().unwrap());
    let mut found = vec![0; SIZE];
    caller.read(addr, &mut found).unwrap();
    let lost = found.iter().map(|byte| (!byte & 0b1111).count_ones()).sum::<u32>();
    assert_eq!(lost, 0, "pages that nobody would copy");
}
