//! Doorbell pages in hostile hands.

use super::*;
use std::time::{Duration, Instant};

const PAGES: usize = 2;

fn page() -> NonZeroUsize {
    NonZeroUsize::new(4096).unwrap()
}

#[test]
fn m4_a_client_that_scribbles_over_its_doorbells_harms_nobody() {
    let mut daemon = Daemon::start();
    let (_, mut neighbour) = client(&daemon);
    let uuid = daemon.create_with("doorbell=page");
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    client.map_doorbells().unwrap();
    let all = NonZeroUsize::new(PAGES * 4096).unwrap();
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let scribbled = Map::of(&client.vhost, all, prot, MapFlags::MAP_SHARED).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in (0u64..).take_while(|_| !done.load(Ordering::Relaxed)) {
                let bytes = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes();
                for at in (0..PAGES * 4096).step_by(8) {
                    scribbled.write(at, if turn.is_multiple_of(3) { &[0xff; 8] } else { &bytes });
                }
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1500) {
            neighbour.exchange(&FRAME).unwrap();
            client.exchange(&FRAME).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    drop(scribbled);
    client.exchange(&FRAME).unwrap();
    // A ring that breaks the rules stops its device, however much it is rung.
    client.tx.publish(client.tx.avail_idx.wrapping_add(1000));
    client.tx.notify().unwrap();
    daemon.wait_for(&uuid, "state", "needs_reset");
    (0..1000).for_each(|_| client.tx.notify().unwrap());
    neighbour.exchange(&FRAME).unwrap();
    client.restart().unwrap();
    client.exchange(&FRAME).unwrap();
    assert!(daemon.is_alive());
}

#[test]
fn m4_doorbells_are_pages_to_write_to_and_nothing_else() {
    let daemon = Daemon::start();
    let uuid = daemon.create_with("doorbell=page");
    let mut client = Client::start(daemon.root(), &uuid, Options::default()).unwrap();
    client.map_doorbells().unwrap();
    let map = |prot, flags| Map::of(&client.vhost, page(), prot, flags);
    assert_eq!(map(ProtFlags::PROT_EXEC, MapFlags::MAP_SHARED).unwrap_err(), Errno::EPERM);
    let seen = map(ProtFlags::PROT_READ, MapFlags::MAP_SHARED).unwrap();
    let own = map(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE).unwrap();
    own.store(0, 7);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((seen.load(0), own.load(0)), (u16::MAX, 7), "what is private was rung, or read");
    // Neither the file of the tree nor what the kernel shows in its place has a size that can be changed.
    let address = seen.address();
    let link = format!("/proc/self/map_files/{address:x}-{:x}", address + 4096);
    let shown = OpenOptions::new().write(true).open(link);
    for file in shown.into_iter().chain([client.vhost.0.try_clone().unwrap()]) {
        let _ = (file.set_len(0), file.set_len(1 << 30));
    }
    client.exchange(&FRAME).unwrap();
    assert_eq!(client.vhost.status().unwrap() & NEEDS_RESET, 0);
}
