//! A control queue in a group of its own, as a hypervisor has it that shadows that queue alone.

use std::sync::Arc;
use std::time::Duration;
use umdev_tests::driver::abi::*;
use umdev_tests::driver::memory::{BUFFERS, IOVA, Memory};
use umdev_tests::driver::{Client, Daemon, Descriptor, Options, Ring, Via};

const CTRL_VQ: u64 = 1 << 17;
const CTRL_RX: u64 = 1 << 18;
const CTRL_MAC_ADDR: u64 = 1 << 23;
/// The queue after receive and transmit.
const CONTROL: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(20);

/// Gives a command and has its answer.
fn command(ring: &mut Ring, memory: &Memory, command: &[u8]) -> u8 {
    let (out, back) = (ring.buffer(0), ring.buffer(1));
    memory.write(out, command);
    memory.write(back, &[0xff]);
    let len = u32::try_from(command.len()).unwrap();
    ring.write_descriptor(0, Descriptor { addr: memory.iova(out), len, flags: VIRTQ_DESC_F_NEXT, next: 1 });
    ring.write_descriptor(1, Descriptor { addr: memory.iova(back), len: 1, flags: VIRTQ_DESC_F_WRITE, next: 0 });
    ring.offer(0);
    ring.notify().unwrap();
    assert_eq!(ring.wait(PATIENCE, "the answer to a command").unwrap().len, 1);
    let mut answer = [0];
    memory.read(back, &mut answer);
    answer[0]
}

/// Both address spaces have the same addresses, and other memory behind them.
#[test]
fn commands_come_from_the_address_space_of_the_control_queue_and_frames_from_theirs() {
    let daemon = Daemon::start();
    for kind in ["loopback-net-cvq", "loopback-net-iommu"] {
        let uuid = umdev_tests::driver::new_uuid();
        let parameters = if kind == "loopback-net-cvq" { "" } else { " pairs=2" };
        let create = daemon.type_dir(kind).join("create");
        std::fs::write(create, format!("{uuid}{parameters}\n")).unwrap();
        let features = CTRL_VQ | CTRL_RX | CTRL_MAC_ADDR;
        let options = Options { via: Via::Iotlb, features, ..Options::default() };
        let mut client = Client::open(daemon.root(), &uuid, options).unwrap();
        let vhost = &client.vhost;
        vhost.set_backend_features(VHOST_BACKEND_F_IOTLB_MSG_V2 | VHOST_BACKEND_F_IOTLB_ASID).unwrap();
        // Multiqueue is not accepted, so that the third queue takes commands, with two pairs too.
        vhost.set_features(VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | features).unwrap();
        let group = |queue| vhost.vring_state("group", VHOST_VDPA_GET_VRING_GROUP, queue, 0).unwrap();
        assert_eq!([0, 1, CONTROL].map(group), [0, 0, 1], "{kind}");
        vhost.vring_state("VHOST_VDPA_SET_GROUP_ASID", VHOST_VDPA_SET_GROUP_ASID, 1, 1).unwrap();
        let memory = Arc::new(Memory::new().unwrap());
        vhost.iotlb_update_in(1, IOVA, memory.size(), memory.address()).unwrap();
        let mut control = Ring::new(Arc::clone(&memory), CONTROL, 64).unwrap();
        client.program(&control).unwrap();
        client.run().unwrap();
        assert_eq!(command(&mut control, &memory, &[1, 1, 2, 0, 0, 0, 0, 9]), 0);
        assert_eq!(client.vhost.config(0, 6).unwrap(), [2, 0, 0, 0, 0, 9]);
        assert_eq!(command(&mut control, &memory, &[4, 0, 1, 0]), 1, "multiqueue was not negotiated");
        for n in 0..20 {
            client.exchange(&[n; 60]).unwrap();
            assert_eq!(command(&mut control, &memory, &[0, 0, n & 1]), 0);
        }
        assert_eq!(daemon.attribute(&uuid, "state"), "running");
    }
}

/// As a hypervisor that shadows all queues at the cost of the rings alone: buffers stay where the guest has them.
#[test]
fn rings_are_in_memory_of_their_own_and_buffers_in_the_drivers() {
    let daemon = Daemon::start();
    let uuid = daemon.create_of("loopback-net-cvq");
    let mut client = Client::open(daemon.root(), &uuid, Options { via: Via::Iotlb, ..Options::default() }).unwrap();
    let vhost = &client.vhost;
    let asids = VHOST_BACKEND_F_IOTLB_ASID | VHOST_BACKEND_F_DESC_ASID;
    vhost.set_backend_features(VHOST_BACKEND_F_IOTLB_MSG_V2 | asids).unwrap();
    let group = |queue| vhost.vring_state("group", VHOST_VDPA_GET_VRING_DESC_GROUP, queue, 0).unwrap();
    assert_eq!([0, 1].map(group), [2, 2]);
    vhost.vring_state("VHOST_VDPA_SET_GROUP_ASID", VHOST_VDPA_SET_GROUP_ASID, 2, 1).unwrap();
    // The first part of memory, where the rings are, is in one address space, and the buffers are in the other.
    let (address, size) = (client.memory.address(), client.memory.size());
    let buffers = u64::try_from(BUFFERS).unwrap();
    vhost.iotlb_invalidate(IOVA, size).unwrap();
    vhost.iotlb_update_in(0, IOVA + buffers, size - buffers, address + buffers).unwrap();
    vhost.iotlb_update_in(1, IOVA, buffers, address).unwrap();
    client.run().unwrap();
    for n in 0..100 {
        client.exchange(&[n; 200]).unwrap();
    }
}
