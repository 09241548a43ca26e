//! Nothing is left of an instance. Alone in its file, because it counts what the whole process has.

use loopback::Loopback;
use uuid::Uuid;
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent};
use virtio_net::testing::{Guest, RX, TX};

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn after_a_thousand_instances_descriptors_and_threads_are_where_they_were() {
    let parent = Loopback::new("loopback0", 1);
    let cycle = |n: u128| {
        let request = CreateRequest {
            uuid: Uuid::from_u128(n),
            type_name: "net".to_owned(),
            parameters: std::collections::BTreeMap::new(),
            doorbell_pages: false,
            owner: None,
            link: DeviceLink::new(format!("leak-{n}")),
        };
        let Ok(Device::Virtio(device)) = parent.create(request) else { panic!("no device") };
        let mut guest = Guest::new(device, REQUIRED, 16);
        guest.start();
        guest.post(1);
        assert!(guest.send(&[1; 60]));
        match n % 4 {
            0 => assert_eq!(guest.wait().1, [1; 60]),
            1 => guest.stop(),
            2 => {
                // A loop, then no stop at all: dropping the device is enough.
                guest.tx.set_desc(1, virtqueue::testing::Desc { addr: 0, len: 1, flags: 1, next: 1 });
                guest.tx.push(1);
                guest.tx.publish();
                guest.kick(TX);
            }
            _ => guest.device.set_kick(RX, None),
        }
    };
    (0..8).for_each(cycle);
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    (0..1000).for_each(cycle);
    assert_eq!((count("/proc/self/fd"), count("/proc/self/task")), before);
    assert_eq!(parent.available("net"), 1);
}
