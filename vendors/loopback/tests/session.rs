//! Instances of the loopback parent under the rules every front end drives them by.

use loopback::Loopback;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;
use virtio_mdev_api::dma::{AddressSpace, Limits};
use virtio_mdev_api::executor::DEFAULT_DEADLINE;
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{CreateRequest, Device, DeviceLink, Parent, Session, Status};
use virtqueue::testing::{Desc, Driver, Ram, map};

const INBOX: u64 = 0x10_0000;
const OUTBOX: u64 = 0x20_0000;

struct Client {
    session: Session,
    rx: Driver,
    tx: Driver,
    kicks: [EventFd; 2],
    call: EventFd,
}

impl Client {
    fn new(kind: &str) -> Self {
        let link = DeviceLink::new(kind);
        let request = CreateRequest {
            uuid: Uuid::from_u128(1),
            type_name: kind.to_owned(),
            parameters: std::collections::BTreeMap::new(),
            doorbell_pages: false,
            owner: None,
            link: link.clone(),
        };
        let Ok(Device::Virtio(device)) = Loopback::new("loopback0", 1).create(request) else { panic!("no device") };
        let info = device.info();
        let session = Session::new(device, info, link, DEFAULT_DEADLINE);
        let (ram, space) = (Ram::shared(4 << 20), AddressSpace::new(Limits::default()));
        map(&space, &ram);
        session.set_space(0, Some(space)).unwrap();
        let (rx, tx) = (Driver::new(&ram, 0x1000, 64), Driver::new(&ram, 0x8000, 64));
        let fd = || EventFd::new().unwrap();
        Self { session, rx, tx, kicks: [fd(), fd()], call: fd() }
    }

    /// As QEMU does it.
    fn start(&self) {
        let session = &self.session;
        for status in [0, 1, 3] {
            session.set_status(status).unwrap();
        }
        session.set_features(REQUIRED).unwrap();
        session.set_status(0xb).unwrap();
        for (index, ring) in [(0, &self.rx), (1, &self.tx)] {
            session.set_queue_size(index, u32::from(ring.size)).unwrap();
            session.set_queue_base(index, 0).unwrap();
            session.set_queue_addresses(index, ring.desc, ring.avail, ring.used).unwrap();
            session.set_kick(index, Some(self.kicks[index as usize].clone())).unwrap();
            session.set_call(index, Some(self.call.clone())).unwrap();
            session.set_queue_enabled(index, true).unwrap();
        }
        session.set_status(0xf).unwrap();
    }

    fn exchange(&mut self, n: u8) {
        let inbox = INBOX + 2048 * u64::from(self.rx.next_head());
        self.rx.add(&[(inbox, 2048, true)]);
        self.tx.ram.write(OUTBOX, &[[0; 12], [n; 12]].concat());
        self.tx.ram.write(OUTBOX + 24, &[n; 48]);
        self.tx.add(&[(OUTBOX, 72, false)]);
        self.kicks[1].signal().unwrap();
        wait_for("the frame", || self.rx.outstanding() == 0 || self.rx.used_idx() == self.rx.next_avail());
        assert!(matches!(self.rx.take_used(), Some((_, 72))));
        assert_eq!(self.rx.ram.read(inbox + 12, 60), [n; 60]);
        wait_for("the sent frame", || self.tx.take_used().is_some());
        wait_for("the interrupt", || self.call.drain().unwrap().is_some());
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(5), "{what} did not happen");
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn a_client_starts_a_device_suspends_and_resumes_it() {
    for kind in ["net", "net-fast", "net-iommu"] {
        let mut client = Client::new(kind);
        client.start();
        (0..200).for_each(|n| client.exchange(n));
        client.session.suspend().unwrap();
        assert_eq!((client.session.queue_base(0), client.session.queue_base(1)), (Ok(200), Ok(200)));
        client.session.resume().unwrap();
        (0..10).for_each(|n| client.exchange(n));
        client.session.retire();
    }
}

#[test]
fn f05_a_descriptor_loop_is_needs_reset_until_the_client_resets() {
    let (mut bad, mut good) = (Client::new("net"), Client::new("net"));
    bad.start();
    good.start();
    for _ in 0..3 {
        bad.exchange(1);
        bad.tx.set_desc(bad.tx.next_head(), Desc { addr: OUTBOX, len: 72, flags: 1, next: bad.tx.next_head() });
        bad.tx.push(bad.tx.next_head());
        bad.tx.publish();
        bad.kicks[1].signal().unwrap();
        wait_for("the fault", || bad.session.status().unwrap().contains(Status::NEEDS_RESET));
        good.exchange(2);
        bad.session.set_status(0).unwrap();
        assert_eq!(bad.session.status().unwrap(), Status::empty());
        bad.rx.reset();
        bad.tx.reset();
        bad.start();
    }
    bad.exchange(3);
}

#[test]
fn a_device_whose_rings_are_unmapped_while_it_runs_stops_cleanly_and_starts_again() {
    let mut client = Client::new("net");
    let space = AddressSpace::new(Limits::default());
    map(&space, &client.rx.ram);
    client.session.set_space(0, Some(Arc::clone(&space))).unwrap();
    client.start();
    client.exchange(1);
    space.unmap_all();
    client.kicks[1].signal().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(!client.session.status().unwrap().contains(Status::NEEDS_RESET));
    client.session.set_status(0).unwrap();
    map(&space, &client.rx.ram);
    client.rx.reset();
    client.tx.reset();
    client.start();
    client.exchange(2);
}

#[test]
fn f38_resets_against_kicks_calls_maps_and_suspends_leave_a_device_that_works() {
    /// Where nothing of the driver is.
    const FAR: u64 = 0x4000_0000;
    let mut client = Client::new("net");
    let space = AddressSpace::new(Limits::default());
    map(&space, &client.rx.ram);
    client.session.set_space(0, Some(Arc::clone(&space))).unwrap();
    let (begun, done) = (Instant::now(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (session, kicks, call, ram) = (&client.session, &client.kicks, &client.call, client.rx.ram.clone());
        let until_done = |work: &dyn Fn()| {
            while !done.load(Ordering::Relaxed) {
                work();
            }
        };
        // Refusals depend on the moment; what must not happen is that one hangs.
        scope.spawn(move || {
            until_done(&|| {
                kicks.iter().for_each(|kick| kick.signal().unwrap());
                session.set_kick(1, Some(kicks[1].clone())).unwrap();
                session.set_call(0, Some(call.clone())).unwrap();
                session.set_call(0, None).unwrap();
            });
        });
        scope.spawn(move || {
            until_done(&|| {
                session.suspend().unwrap();
                let _ = session.queue_base(0);
                session.resume().unwrap();
            });
        });
        let space = &space;
        scope.spawn(move || {
            until_done(&|| {
                space.map(ram.region(FAR, 0, 0x1000)).unwrap();
                space.unmap(FAR, FAR);
            });
        });
        for n in 0..25 {
            client.rx.add(&[(INBOX, 2048, true)]);
            client.tx.add(&[(OUTBOX, 72, false)]);
            for (index, ring) in [(0, &client.rx), (1, &client.tx)] {
                session.set_queue_size(index, u32::from(ring.size)).unwrap();
                session.set_queue_addresses(index, ring.desc, ring.avail, ring.used).unwrap();
                session.set_queue_enabled(index, true).unwrap();
            }
            session.set_features(REQUIRED).unwrap();
            session.set_status(0xf).unwrap();
            session.set_status(0).unwrap();
            assert_eq!(session.status(), Ok(Status::empty()), "reset {n}");
            client.rx.reset();
            client.tx.reset();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(space.regions().len(), 1);
    let _ = client.call.drain();
    client.start();
    (0..20).for_each(|n| client.exchange(n));
}

#[test]
fn a_device_continues_in_another_what_it_began() {
    for kind in ["net", "net-fast", "net-cvq", "net-iommu"] {
        let mut client = Client::new(kind);
        client.start();
        (0..20).for_each(|n| client.exchange(n));
        client.session.freeze().unwrap();
        client.session.link().config_changed();
        // Offered while it stands still, and the kick is lost on the way.
        let inbox = INBOX + 2048 * u64::from(client.rx.next_head());
        client.rx.add(&[(inbox, 2048, true)]);
        client.tx.ram.write(OUTBOX, &[[0; 12], [9; 12]].concat());
        client.tx.add(&[(OUTBOX, 72, false)]);
        assert_eq!((client.rx.used_idx(), client.call.drain()), (20, Ok(None)), "{kind} stands still");

        let saved = client.session.save().unwrap();
        let after = Client::new(kind);
        after.session.freeze().unwrap();
        after.session.restore(&saved).unwrap();
        let memory = AddressSpace::new(Limits::default());
        map(&memory, &client.rx.ram);
        after.session.set_space(0, Some(memory)).unwrap();
        for index in [0, 1] {
            after.session.set_call(index, Some(client.call.clone())).unwrap();
            after.session.set_kick(index, Some(client.kicks[index as usize].clone())).unwrap();
        }
        after.session.thaw().unwrap();
        client.session.retire();
        client.session = after.session;
        wait_for("the frame that was offered between the two", || client.rx.used_idx() == 21);
        assert!(client.rx.take_used().is_some());
        wait_for("the sent frame", || client.tx.take_used().is_some());
        wait_for("the interrupt", || client.call.drain().unwrap().is_some());
        (21..40).for_each(|n| client.exchange(n));
    }
}

#[test]
fn f41_a_card_of_another_size_refuses_the_state_and_works_on() {
    let client = Client::new("net");
    client.start();
    client.session.freeze().unwrap();
    let saved = client.session.save().unwrap();
    let mut other = Client::new("net");
    other.start();
    other.exchange(1);
    other.session.freeze().unwrap();
    let before = other.session.save().unwrap();
    let mut wrong = saved.clone();
    wrong.device[2] ^= 1;
    let refused = other.session.restore(&wrong).unwrap_err();
    assert!(refused.to_string().contains("mtu="), "{refused}");
    assert_eq!(other.session.save().unwrap(), before);
    other.session.thaw().unwrap();
    other.exchange(2);
}
