use super::*;
use crossbeam_channel::Receiver;
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use uuid::Uuid;
use virtio_mdev_api::dma::Limits;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{
    Capabilities, CreateRequest, Device, DeviceInfo, DmaModel, HasErrno, Parent, QueueStart, QueueState, Refusal,
    TypeInfo, VirtioMdev,
};

const SHORT: Duration = Duration::from_millis(500);

/// A parent with `left` instances; its types are named after what their creation does.
struct Vendor {
    left: Arc<AtomicU32>,
    max: Option<u32>,
}

struct Nothing {
    left: Arc<AtomicU32>,
}

impl Drop for Nothing {
    fn drop(&mut self) {
        self.left.fetch_add(1, Ordering::AcqRel);
    }
}

impl Parent for Vendor {
    fn driver_name(&self) -> &str {
        "test"
    }

    fn types(&self) -> Vec<TypeInfo> {
        let of = |name: &str| TypeInfo {
            name: name.to_owned(),
            pretty_name: name.to_owned(),
            description: String::new(),
            device_api: "virtio-mdev",
            dma_model: DmaModel::Vfio,
            parameters: Vec::new(),
        };
        ["good", "hangs", "panics"].map(of).into()
    }

    fn available(&self, _type_name: &str) -> u32 {
        self.left.load(Ordering::Acquire)
    }

    fn max_instances(&self) -> Option<u32> {
        self.max
    }

    fn create(&self, request: CreateRequest) -> Result<Device, Refusal> {
        match request.type_name.as_str() {
            "hangs" => std::thread::sleep(SHORT * 5),
            "panics" => panic!("no such board"),
            _ => {}
        }
        let taken = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        taken.map_err(|_| Refusal::new(Errno::ENOSPC, "nothing left"))?;
        Ok(Device::Virtio(Box::new(Nothing { left: Arc::clone(&self.left) })))
    }
}

impl VirtioMdev for Nothing {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            device_id: 1,
            vendor_id: 0,
            queues: Vec::new(),
            features: 0,
            config_size: 0,
            queue_align: 4096,
            address_spaces: 1,
            limits: Limits::default(),
            capabilities: Capabilities::empty(),
        }
    }

    fn set_features(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn read_config(&mut self, _offset: u32, _out: &mut [u8]) {}

    fn write_config(&mut self, _offset: u32, _data: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn start_queue(&mut self, _index: u16, _queue: QueueStart) -> Result<(), Refusal> {
        Ok(())
    }

    fn stop_queue(&mut self, _index: u16) -> Result<Option<QueueState>, Refusal> {
        Ok(None)
    }

    fn set_kick(&mut self, _index: u16, _kick: Option<EventFd>) {}

    fn reset(&mut self) {}
}

/// A driver whose instances can be held open.
struct Driver {
    name: &'static str,
    holder: Arc<Mutex<Option<String>>>,
}

struct Bind(Arc<Mutex<Option<String>>>);

impl MdevDriver for Driver {
    fn name(&self) -> &str {
        self.name
    }

    fn matches(&self, _instance: &Instance) -> bool {
        self.name != "other"
    }

    fn probe(&self, _instance: &Arc<Instance>) -> Result<Arc<dyn Binding>, Refusal> {
        Ok(Arc::new(Bind(Arc::clone(&self.holder))))
    }
}

impl Binding for Bind {
    fn holder(&self) -> Option<String> {
        self.0.lock().clone()
    }

    fn remove(&self) {
        *self.0.lock() = None;
    }
}

struct Fixture {
    bus: Bus,
    holder: Arc<Mutex<Option<String>>>,
    left: Arc<AtomicU32>,
    events: Receiver<Event>,
}

impl Fixture {
    fn new(left: u32, max: Option<u32>) -> Self {
        Self::patient(left, max, SHORT)
    }

    fn patient(left: u32, max: Option<u32>, vendor_deadline: Duration) -> Self {
        let bus = Bus::new(BusOptions { vendor_deadline, remove_patience: SHORT, doorbell_pages: false });
        let events = bus.subscribe();
        let left = Arc::new(AtomicU32::new(left));
        let holder = Arc::default();
        for name in ["main", "other"] {
            bus.register_driver(Arc::new(Driver { name, holder: Arc::clone(&holder) })).unwrap();
        }
        bus.register_parent("parent0", Arc::new(Vendor { left: Arc::clone(&left), max })).unwrap();
        Self { bus, holder, left, events }
    }

    fn create(&self, of: &str, uuid: Uuid) -> Result<Arc<Instance>, BusError> {
        let text = CreateText::parse(uuid.to_string().as_bytes()).unwrap();
        self.bus.create("parent0", of, text, Restore::default())
    }

    fn available(&self) -> u32 {
        let parent = self.bus.parent("parent0").unwrap();
        parent.available(&parent.types()[0]).unwrap()
    }

    fn event_words(&self) -> Vec<String> {
        let kind = |event: Event| serde_json::to_value(event.kind).unwrap().as_str().unwrap().to_owned();
        self.events.try_iter().map(kind).collect()
    }
}

fn errno<T>(result: Result<T, BusError>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

#[test]
fn an_instance_is_created_bound_and_removed() {
    let fixture = Fixture::new(2, None);
    let instance = fixture.create("test-good", uuid(1)).unwrap();
    assert_eq!(instance.driver().as_deref(), Some("main"));
    assert_eq!(instance.group(), FIRST_GROUP);
    assert_eq!(fixture.available(), 1);
    fixture.bus.remove(uuid(1), false).unwrap();
    assert_eq!(fixture.available(), 2, "the device was dropped before remove returned");
    assert_eq!(fixture.event_words(), ["parent_add", "create", "bind", "unbind", "remove"]);
}

#[test]
fn a_uuid_is_unique_over_all_parents() {
    let fixture = Fixture::new(9, None);
    fixture.bus.register_parent("parent1", Arc::new(Vendor { left: Arc::default(), max: None })).unwrap();
    fixture.create("test-good", uuid(1)).unwrap();
    assert_eq!(errno(fixture.create("test-good", uuid(1))), Some(Errno::EEXIST));
    let text = CreateText::parse(uuid(1).to_string().as_bytes()).unwrap();
    let elsewhere = fixture.bus.create("parent1", "test-good", text, Restore::default());
    assert_eq!(errno(elsewhere), Some(Errno::EEXIST));
}

#[test]
fn a_counter_that_ran_out_is_eusers_and_a_parent_that_refuses_answers_for_itself() {
    let counted = Fixture::new(9, Some(1));
    counted.create("test-good", uuid(1)).unwrap();
    assert_eq!(errno(counted.create("test-good", uuid(2))), Some(Errno::EUSERS));
    let own = Fixture::new(1, None);
    own.create("test-good", uuid(1)).unwrap();
    assert_eq!(errno(own.create("test-good", uuid(2))), Some(Errno::ENOSPC));
    own.bus.remove(uuid(1), false).unwrap();
    own.create("test-good", uuid(2)).unwrap();
}

#[test]
fn f39_of_writers_racing_for_the_last_instance_exactly_one_wins() {
    for max in [None, Some(1)] {
        for _ in 0..50 {
            let fixture = Fixture::new(if max.is_none() { 1 } else { 9 }, max);
            let start = Barrier::new(4);
            let won: usize = std::thread::scope(|scope| {
                let race = |number| {
                    let (fixture, start) = (&fixture, &start);
                    scope.spawn(move || {
                        start.wait();
                        usize::from(fixture.create("test-good", uuid(number)).is_ok())
                    })
                };
                let racers: Vec<_> = (1..=4).map(race).collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).sum()
            });
            assert_eq!(won, 1);
        }
    }
}

#[test]
fn f37_a_creation_that_hangs_or_panics_hurts_nobody_else() {
    let fixture = Fixture::new(9, None);
    let begun = Instant::now();
    assert_eq!(errno(fixture.create("test-hangs", uuid(1))), Some(Errno::ETIMEDOUT));
    assert!(begun.elapsed() < SHORT * 4);
    // To print where it panicked takes a while, the first time.
    let patient = Fixture::patient(9, None, SHORT * 40);
    assert_eq!(errno(patient.create("test-panics", uuid(2))), Some(Errno::EIO));
    patient.create("test-good", uuid(2)).unwrap();
    fixture.create("test-good", uuid(1)).unwrap();
    std::thread::sleep(SHORT * 6);
    assert_eq!(fixture.left.load(Ordering::Acquire), 8, "what the hung creation made in the end was dropped");
}

#[test]
fn f37_a_parent_that_hangs_keeps_a_bounded_number_of_threads() {
    let fixture = Fixture::new(0, None);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |number| {
            let fixture = &fixture;
            scope.spawn(move || errno(fixture.create("test-hangs", uuid(number))))
        };
        let asked: Vec<_> = (1..=100).map(ask).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let count = |errno| answers.iter().filter(|answer| **answer == Some(errno)).count();
    assert!((1..=64).contains(&count(Errno::ETIMEDOUT)), "{answers:?}");
    assert_eq!(count(Errno::EAGAIN), 100 - count(Errno::ETIMEDOUT));
    std::thread::sleep(SHORT * 6);
    assert_eq!(errno(fixture.create("test-good", uuid(1))), Some(Errno::ENOSPC), "it is asked again");
}

#[test]
fn an_instance_in_use_is_asked_for_and_then_refused() {
    let fixture = Fixture::new(1, None);
    fixture.create("test-good", uuid(1)).unwrap();
    *fixture.holder.lock() = Some("pid 7".to_owned());
    let begun = Instant::now();
    let refused = fixture.bus.remove(uuid(1), false).unwrap_err();
    assert_eq!(refused.errno(), Errno::EBUSY);
    assert!(refused.to_string().contains("pid 7"));
    assert!(begun.elapsed() >= SHORT);
    assert!(fixture.event_words().contains(&"remove_request".to_owned()));
    fixture.bus.remove(uuid(1), true).unwrap();
    assert_eq!(fixture.available(), 1);
}

#[test]
fn a_holder_that_lets_go_in_time_makes_the_removal_succeed() {
    let fixture = Fixture::new(1, None);
    fixture.create("test-good", uuid(1)).unwrap();
    *fixture.holder.lock() = Some("pid 7".to_owned());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT / 4);
            *fixture.holder.lock() = None;
        });
        fixture.bus.remove(uuid(1), false).unwrap();
    });
}

#[test]
fn a_second_removal_is_told_that_one_is_running() {
    let fixture = Fixture::new(1, None);
    fixture.create("test-good", uuid(1)).unwrap();
    *fixture.holder.lock() = Some("pid 7".to_owned());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fixture.bus.remove(uuid(1), false));
        while !fixture.event_words().contains(&"remove_request".to_owned()) {
            std::thread::yield_now();
        }
        assert_eq!(errno(fixture.bus.remove(uuid(1), false)), Some(Errno::EAGAIN));
        assert_eq!(errno(first.join().unwrap()), Some(Errno::EBUSY));
    });
}

#[test]
fn removing_what_is_not_there_is_enodev() {
    let fixture = Fixture::new(1, None);
    assert_eq!(errno(fixture.bus.remove(uuid(1), false)), Some(Errno::ENODEV));
}

#[test]
fn drivers_are_bound_and_unbound_one_at_a_time() {
    let fixture = Fixture::new(1, None);
    let instance = fixture.create("test-good", uuid(1)).unwrap();
    assert_eq!(errno(fixture.bus.bind("main", uuid(1))), Some(Errno::EBUSY));
    assert_eq!(errno(fixture.bus.unbind("other", uuid(1))), Some(Errno::ENODEV));
    fixture.bus.unbind("main", uuid(1)).unwrap();
    assert_eq!(instance.driver(), None);
    assert_eq!(errno(fixture.bus.bind("other", uuid(1))), Some(Errno::ENODEV), "it does not match");
    instance.set_driver_override(Some("other".to_owned()));
    assert_eq!(errno(fixture.bus.bind("main", uuid(1))), Some(Errno::ENODEV), "the override names another");
    instance.set_driver_override(None);
    fixture.bus.bind("main", uuid(1)).unwrap();
}

#[test]
fn f37_a_parent_that_leaves_takes_its_instances_along() {
    let fixture = Fixture::new(3, None);
    fixture.create("test-good", uuid(1)).unwrap();
    fixture.create("test-good", uuid(2)).unwrap();
    *fixture.holder.lock() = Some("pid 7".to_owned());
    fixture.bus.unregister_parent("parent0").unwrap();
    assert_eq!(fixture.bus.instances().len(), 0);
    assert_eq!(fixture.left.load(Ordering::Acquire), 3);
    assert_eq!(errno(fixture.create("test-good", uuid(3))), Some(Errno::ENODEV));
}

#[test]
fn a_restored_instance_gets_its_numbers_back() {
    let fixture = Fixture::new(3, None);
    let text = CreateText::parse(uuid(1).to_string().as_bytes()).unwrap();
    let restore = Restore { index: Some(5), driver_override: Some("none".to_owned()) };
    let instance = fixture.bus.create("parent0", "test-good", text, restore).unwrap();
    assert_eq!((instance.index(), instance.driver()), (5, None));
    assert_eq!(fixture.create("test-good", uuid(2)).unwrap().index(), 0);
}

/// A driver whose probe, and whose letting go, wait until they are told to go on.
struct Gated {
    began: crossbeam_channel::Sender<&'static str>,
    go_on: Receiver<()>,
    bound: Arc<AtomicU32>,
}

struct GatedBind(Arc<Gated>);

impl Gated {
    fn pass(&self, what: &'static str) {
        self.began.send(what).unwrap();
        self.go_on.recv().unwrap();
    }
}

struct GatedDriver(Arc<Gated>);

impl MdevDriver for GatedDriver {
    fn name(&self) -> &str {
        "gated"
    }

    fn matches(&self, _instance: &Instance) -> bool {
        true
    }

    fn probe(&self, _instance: &Arc<Instance>) -> Result<Arc<dyn Binding>, Refusal> {
        self.0.pass("probe");
        self.0.bound.fetch_add(1, Ordering::AcqRel);
        Ok(Arc::new(GatedBind(Arc::clone(&self.0))))
    }
}

impl Binding for GatedBind {
    fn holder(&self) -> Option<String> {
        None
    }

    fn remove(&self) {
        self.0.pass("remove");
        self.0.bound.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A fixture whose instances go to the gated driver: it, what began there, the way to let it go on, and how many
/// instances it has.
fn gated() -> (Fixture, Receiver<&'static str>, crossbeam_channel::Sender<()>, Arc<AtomicU32>) {
    let fixture = Fixture::new(9, None);
    let (began, begins) = crossbeam_channel::unbounded();
    let (let_go_on, go_on) = crossbeam_channel::unbounded();
    let bound = Arc::default();
    let driver = Gated { began, go_on, bound: Arc::clone(&bound) };
    fixture.bus.register_driver(Arc::new(GatedDriver(Arc::new(driver)))).unwrap();
    (fixture, begins, let_go_on, bound)
}

#[test]
fn an_instance_is_not_removed_before_its_creation_is_over() {
    let (fixture, begins, go_on, bound) = gated();
    std::thread::scope(|scope| {
        let creation = scope.spawn(|| fixture.create("test-good", uuid(1)));
        assert_eq!(begins.recv(), Ok("probe"));
        let too_early = fixture.bus.remove(uuid(1), true);
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        creation.join().unwrap().unwrap();
        assert_eq!(errno(too_early), Some(Errno::EAGAIN));
    });
    fixture.bus.remove(uuid(1), true).unwrap();
    assert_eq!(bound.load(Ordering::Acquire), 0);
}

/// Binds every new instance by hand, before its creation does.
struct Hasty(Bus);

impl Listener for Hasty {
    fn created(&self, instance: &Arc<Instance>) {
        self.0.bind("main", instance.uuid()).unwrap();
    }
}

#[test]
fn an_instance_bound_by_hand_during_its_creation_is_created() {
    let fixture = Fixture::new(1, None);
    fixture.bus.listen(Arc::new(Hasty(fixture.bus.clone())));
    fixture.create("test-good", uuid(1)).unwrap();
    assert_eq!(fixture.bus.instances().len(), 1);
}

#[test]
fn an_instance_that_is_being_removed_is_not_bound_again() {
    let (fixture, begins, go_on, bound) = gated();
    std::thread::scope(|scope| {
        go_on.send(()).unwrap();
        fixture.create("test-good", uuid(1)).unwrap();
        assert_eq!(begins.recv(), Ok("probe"));
        let removal = scope.spawn(|| fixture.bus.remove(uuid(1), true));
        assert_eq!(begins.recv(), Ok("remove"));
        let binding = scope.spawn(|| fixture.bus.bind("gated", uuid(1)));
        std::thread::sleep(SHORT / 10);
        // Enough for the removal, and for a probe that must not be.
        (0..2).for_each(|_| go_on.send(()).unwrap());
        removal.join().unwrap().unwrap();
        assert_eq!(errno(binding.join().unwrap()), Some(Errno::ENODEV));
    });
    assert_eq!(bound.load(Ordering::Acquire), 0);
}
