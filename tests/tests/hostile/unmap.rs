//! Memory that goes while the device works in it.

use super::*;
use std::time::Duration;

/// Frames are received here, apart from the rings.
const FAR: u64 = 1 << 40;
const ROUNDS: usize = 40;
/// How long a device that still had the memory would have to give itself away.
const LONG_ENOUGH: Duration = Duration::from_millis(3);
const MARK: u8 = 0xe7;

/// How the memory that frames are received into is taken away.
#[derive(Clone, Copy)]
enum Taken {
    Alone,
    WithItsNeighbours,
}

/// Lets the device receive into memory of its own, as much as the rings hold, without waiting for it.
fn flood(client: &mut Client) {
    let buffers = client.rx.size;
    for at in 0..buffers {
        let addr = FAR + u64::from(at) * PAGE;
        client.rx.write_descriptor(at, Descriptor { addr, len: 4096, flags: VIRTQ_DESC_F_WRITE, next: 0 });
    }
    for _ in 0..buffers {
        client.queue(&FRAME);
    }
    client.tx.notify().unwrap();
}

/// Whether the device wrote to the memory after the unmap had returned; and how often it had written to it before.
fn unmap_under_traffic(daemon: &Daemon, via: Via, taken: Taken) -> usize {
    let uuid = daemon.create();
    let mut client = Client::start(daemon.root(), &uuid, Options { via, ..Options::default() }).unwrap();
    let target = Memory::new().unwrap();
    let mut caught = 0;
    for round in 0..ROUNDS {
        let size = target.size();
        map(&client, FAR, size, target.address());
        if matches!(taken, Taken::WithItsNeighbours) {
            map(&client, FAR - PAGE, PAGE, client.memory.address());
            map(&client, FAR + size, PAGE, client.memory.address());
        }
        target.write(0, &vec![0; SIZE]);
        flood(&mut client);
        // Somewhere in the middle of it, another place each time.
        std::hint::black_box((0..round * 200).fold(0, |sum: usize, at| sum.wrapping_add(at)));
        match taken {
            Taken::Alone => unmap(&client, FAR, size),
            Taken::WithItsNeighbours => unmap(&client, FAR - PAGE, size + 2 * PAGE),
        }
        let mut bytes = vec![0; SIZE];
        target.read(0, &mut bytes);
        caught += usize::from(bytes.iter().any(|&byte| byte != 0));
        target.write(0, &vec![MARK; SIZE]);
        std::thread::sleep(LONG_ENOUGH);
        target.read(0, &mut bytes);
        assert!(bytes.iter().all(|&byte| byte == MARK), "round {round}: written after the unmap returned");
        client.restart().unwrap();
        client.exchange(&FRAME).unwrap();
    }
    caught
}

fn map(client: &Client, iova: u64, size: u64, address: u64) {
    match &client.vfio {
        Some((_, container)) => container.map(iova, size, address).unwrap(),
        None => client.vhost.iotlb_update(iova, size, address).unwrap(),
    }
}

fn unmap(client: &Client, iova: u64, size: u64) {
    match &client.vfio {
        Some((_, container)) => assert!(container.unmap(iova, size).unwrap() >= size - 2 * PAGE),
        None => client.vhost.iotlb_invalidate(iova, size).unwrap(),
    }
}

#[test]
fn f34_nothing_is_written_to_memory_after_its_unmap_returned() {
    let daemon = Daemon::start();
    let (_, mut neighbour) = client(&daemon);
    for via in [Via::Container, Via::Iotlb] {
        for taken in [Taken::Alone, Taken::WithItsNeighbours] {
            let caught = unmap_under_traffic(&daemon, via, taken);
            assert!(caught > 0, "{via:?}: the device never wrote before it was stopped");
            neighbour.exchange(&FRAME).unwrap();
        }
    }
}

#[test]
fn f32_unmaps_of_nothing_and_of_parts_leave_a_running_queue_alone() {
    let daemon = Daemon::start();
    let (_, mut client) = client(&daemon);
    for _ in 0..50 {
        client.queue(&FRAME);
        client.tx.notify().unwrap();
        let (_, container) = client.vfio.as_ref().unwrap();
        let size = client.memory.size();
        assert_eq!(container.unmap(FAR, PAGE).unwrap(), 0);
        assert_eq!(refused(container.unmap(IOVA, PAGE)), Errno::EINVAL);
        assert_eq!(refused(container.unmap(IOVA + size - PAGE, 2 * PAGE)), Errno::EINVAL);
        let used = client.tx.wait(Duration::from_secs(20), "the frame to be used").unwrap();
        assert_eq!(used.len, 0);
        assert_eq!(client.receive(Duration::from_secs(20)).unwrap(), FRAME);
    }
}

#[test]
fn f32_a_running_queue_whose_ring_is_unmapped_waits_until_it_is_mapped_again() {
    let daemon = Daemon::start();
    let (_, mut neighbour) = client(&daemon);
    let (uuid, mut client) = client(&daemon);
    for _ in 0..20 {
        let (_, container) = client.vfio.as_ref().unwrap();
        let (size, address) = (client.memory.size(), client.memory.address());
        assert_eq!(container.unmap(0, u64::MAX - PAGE + 1).unwrap(), size);
        client.queue(&FRAME);
        client.tx.notify().unwrap();
        neighbour.exchange(&FRAME).unwrap();
        std::thread::sleep(LONG_ENOUGH);
        assert_eq!((client.tx.take(), client.rx.take()), (None, None), "it has the ring still");
        let (_, container) = client.vfio.as_ref().unwrap();
        container.map(IOVA, size, address).unwrap();
        assert_eq!(client.tx.wait(Duration::from_secs(20), "the frame to be used").unwrap().len, 0);
        assert_eq!(client.receive(Duration::from_secs(20)).unwrap(), FRAME);
    }
    assert_eq!(daemon.attribute(&uuid, "state"), "running");
}
