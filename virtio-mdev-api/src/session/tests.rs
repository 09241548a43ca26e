use super::*;
use crate::dma::{AddressSpace, Limits, Region};
use crate::executor::shortage;
use crate::features::REQUIRED;
use crate::{Capabilities, HasErrno, QueueInfo, QueueStart};
use nix::errno::Errno;
use parking_lot::Mutex as PlainMutex;

/// A device that writes down what it is asked to do; its queues advance by 10 each time they run.
#[derive(Clone, Default)]
struct Recorder {
    calls: Arc<PlainMutex<Vec<String>>>,
    refuse_start: bool,
    refuse_stop: bool,
    own_iommu: bool,
    refuse_map: Option<u64>,
    running: [Option<u16>; 2],
    /// What it has of its own; no more than four bytes are taken.
    own: Vec<u8>,
    /// Of the queue started last: address space ids of its buffers and of its ring.
    asids: Arc<PlainMutex<(u32, u32)>>,
}

impl Recorder {
    fn note(&self, what: impl Into<String>) {
        self.calls.lock().push(what.into());
    }
}

impl VirtioMdev for Recorder {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            device_id: 1,
            vendor_id: 0,
            queues: vec![
                QueueInfo { max_size: 256, group: 0, desc_group: None },
                QueueInfo { max_size: 256, group: 1, desc_group: Some(2) },
            ],
            features: REQUIRED | 1,
            config_size: 12,
            queue_align: 4096,
            address_spaces: 2,
            limits: Limits::default(),
            capabilities: if self.own_iommu { Capabilities::OWN_IOMMU } else { Capabilities::empty() },
        }
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        self.note(format!("features {features:#x}"));
        Ok(())
    }

    fn read_config(&mut self, offset: u32, out: &mut [u8]) {
        out.fill(u8::try_from(offset).unwrap());
    }

    fn write_config(&mut self, _offset: u32, _data: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn start_queue(&mut self, index: u16, queue: QueueStart) -> Result<(), Refusal> {
        if self.refuse_start && index == 1 {
            return Err(Refusal::new(Errno::ENODEV, "no link"));
        }
        let QueueState::Split { avail } = queue.state else { unreachable!("split rings only") };
        self.note(format!("start {index} at {avail}"));
        *self.asids.lock() = (queue.asid, queue.ring_asid);
        self.running[usize::from(index)] = Some(avail.wrapping_add(10));
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Result<Option<QueueState>, Refusal> {
        self.note(format!("stop {index}"));
        if self.refuse_stop {
            return Err(Refusal::new(Errno::ETIMEDOUT, "the doorbell does not answer"));
        }
        Ok(self.running[usize::from(index)].take().map(|avail| QueueState::Split { avail }))
    }

    fn set_kick(&mut self, index: u16, kick: Option<EventFd>) {
        self.note(format!("kick {index} {}", kick.is_some()));
    }

    fn reset(&mut self) {
        self.note("reset");
    }

    fn save_state(&mut self) -> Result<Vec<u8>, Refusal> {
        Ok(self.own.clone())
    }

    fn restore_state(&mut self, state: &[u8]) -> Result<(), Refusal> {
        if state.len() > 4 {
            return Err(Refusal::new(Errno::EINVAL, "too much"));
        }
        self.own = state.to_vec();
        self.note(format!("own {state:?}"));
        Ok(())
    }

    fn dma_map(&mut self, asid: u32, region: &Region) -> Result<(), Refusal> {
        if self.refuse_map == Some(region.iova) {
            return Err(Refusal::new(Errno::ENOMEM, "no room"));
        }
        self.note(format!("map {asid} {:#x}+{:#x}", region.iova, region.len));
        Ok(())
    }

    fn dma_unmap(&mut self, asid: u32, iova: u64, len: u64) {
        self.note(format!("unmap {asid} {iova:#x}+{len:#x}"));
    }
}

/// Memory that cannot be reached.
#[derive(Debug)]
struct Nowhere;

impl crate::dma::RemoteMemory for Nowhere {
    fn read(&self, _addr: u64, _buf: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn write(&self, _addr: u64, _buf: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn set_bits(&self, _addr: u64, _bits: u8) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn another(self: Arc<Self>) -> Arc<dyn crate::dma::RemoteMemory> {
        self
    }

    fn revoke(&self) {}
}

struct Fixture {
    session: Session,
    calls: Arc<PlainMutex<Vec<String>>>,
}

fn fixture(recorder: Recorder) -> Fixture {
    let calls = Arc::clone(&recorder.calls);
    let info = recorder.info();
    let session = Session::new(Box::new(recorder), info, DeviceLink::new("test"), Duration::from_secs(5));
    session.set_space(0, Some(AddressSpace::new(Limits::default()))).unwrap();
    Fixture { session, calls }
}

impl Fixture {
    fn new() -> Self {
        fixture(Recorder::default())
    }

    fn negotiated() -> Self {
        let fixture = Self::new();
        fixture.session.set_status(3).unwrap();
        fixture.session.set_features(REQUIRED).unwrap();
        fixture.session.set_status(0xb).unwrap();
        fixture
    }

    fn running() -> Self {
        let fixture = Self::negotiated();
        fixture.session.set_queue_enabled(0, true).unwrap();
        fixture.session.set_queue_enabled(1, true).unwrap();
        fixture.session.set_status(0xf).unwrap();
        fixture
    }

    fn queue_calls(&self) -> Vec<String> {
        let calls = std::mem::take(&mut *self.calls.lock());
        calls.into_iter().filter(|call| call.starts_with("st")).collect()
    }
}

fn errno<T>(result: Result<T, SessionError>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}

#[test]
fn queues_enabled_before_driver_ok_start_with_it() {
    let fixture = Fixture::negotiated();
    fixture.session.set_queue_enabled(0, true).unwrap();
    assert_eq!(fixture.queue_calls(), [""; 0]);
    fixture.session.set_status(0xf).unwrap();
    assert_eq!(fixture.queue_calls(), ["start 0 at 0"]);
}

#[test]
fn a_queue_enabled_after_driver_ok_starts_at_once() {
    let fixture = Fixture::negotiated();
    fixture.session.set_status(0xf).unwrap();
    fixture.session.set_queue_enabled(1, true).unwrap();
    assert_eq!(fixture.queue_calls(), ["start 1 at 0"]);
}

#[test]
fn enabling_before_features_is_legal() {
    let fixture = Fixture::new();
    fixture.session.set_queue_enabled(0, true).unwrap();
    fixture.session.set_features(REQUIRED).unwrap();
    fixture.session.set_status(0xf).unwrap();
    assert_eq!(fixture.queue_calls(), ["start 0 at 0"]);
}

#[test]
fn suspend_makes_ring_state_readable_and_settable_and_resume_continues_there() {
    let Fixture { session, calls } = Fixture::running();
    assert_eq!(errno(session.queue_base(0)), Some(Errno::EBUSY));
    session.suspend().unwrap();
    assert_eq!(session.queue_base(0), Ok(10));
    session.set_queue_base(1, 77).unwrap();
    calls.lock().clear();
    session.resume().unwrap();
    assert_eq!(*calls.lock(), ["start 0 at 10", "start 1 at 77"]);
}

#[test]
fn a_resume_that_is_refused_leaves_the_session_suspended() {
    let Fixture { session, calls } = Fixture::running();
    session.suspend().unwrap();
    session.set_queue_addresses(1, u64::MAX - 15, 0, 0).unwrap();
    calls.lock().clear();
    assert_eq!(errno(session.resume()), Some(Errno::EINVAL));
    assert_eq!(*calls.lock(), ["start 0 at 10", "stop 0"]);
    session.set_queue_addresses(1, 0, 0, 0).unwrap();
    session.resume().unwrap();
    assert_eq!(errno(session.queue_base(1)), Some(Errno::EBUSY));
}

#[test]
fn suspend_without_driver_ok_does_nothing() {
    let fixture = Fixture::negotiated();
    fixture.session.suspend().unwrap();
    fixture.session.set_queue_enabled(0, true).unwrap();
    fixture.session.set_status(0xf).unwrap();
    assert_eq!(fixture.queue_calls(), ["start 0 at 0"]);
}

#[test]
fn a_reset_that_finds_no_thread_changes_nothing_and_can_be_repeated() {
    let fixture = Fixture::running();
    fixture.queue_calls();
    shortage::set(true);
    assert_eq!(errno(fixture.session.set_status(0)), Some(Errno::EAGAIN));
    shortage::set(false);
    // The queues run: a driver that saw 0 would take their memory back, or set up rings that they never saw.
    assert_eq!(fixture.session.status().map(|status| status.bits()), Ok(0xf));
    assert_eq!(errno(fixture.session.set_queue_base(0, 0)), Some(Errno::EINVAL));
    assert_eq!(fixture.queue_calls(), [""; 0]);
    fixture.session.set_status(0).unwrap();
    assert_eq!(fixture.queue_calls(), ["stop 0", "stop 1"]);
    assert_eq!(fixture.session.queue_base(0), Ok(0));
}

#[test]
fn reset_stops_queues_and_forgets_all_but_the_memory() {
    let fixture = Fixture::running();
    fixture.queue_calls();
    fixture.session.set_status(0).unwrap();
    assert_eq!(fixture.queue_calls(), ["stop 0", "stop 1"]);
    assert_eq!(fixture.session.queue_base(0), Ok(0));
    assert_eq!(fixture.session.status(), Ok(Status::empty()));
    fixture.session.set_features(REQUIRED).unwrap();
    fixture.session.set_queue_enabled(0, true).unwrap();
    fixture.session.set_status(0xf).unwrap();
    assert_eq!(fixture.queue_calls(), ["start 0 at 0"]);
}

#[test]
fn a_queue_that_cannot_start_leaves_the_status_as_it_was() {
    let Fixture { session, calls } = fixture(Recorder { refuse_start: true, ..Recorder::default() });
    session.set_features(REQUIRED).unwrap();
    session.set_queue_enabled(0, true).unwrap();
    session.set_queue_enabled(1, true).unwrap();
    session.set_status(0xb).unwrap();
    assert_eq!(errno(session.set_status(0xf)), Some(Errno::ENODEV));
    assert_eq!(session.status().unwrap().bits(), 0xb);
    assert_eq!(calls.lock().last().unwrap(), "stop 0");
}

#[test]
fn a_queue_that_cannot_stop_breaks_its_instance() {
    let Fixture { session, .. } = fixture(Recorder { refuse_stop: true, ..Recorder::default() });
    session.set_features(REQUIRED).unwrap();
    session.set_queue_enabled(0, true).unwrap();
    session.set_status(0xf).unwrap();
    assert_eq!(errno(session.suspend()), Some(Errno::ETIMEDOUT));
    assert_eq!(session.condition(), Condition::Broken);
    assert!(session.broken().unwrap().contains("the doorbell does not answer"));
    assert_eq!(errno(session.reset()), Some(Errno::EIO));
}

#[test]
fn f23_ring_set_up_stands_still_while_the_driver_runs() {
    let Fixture { session, .. } = Fixture::running();
    assert_eq!(errno(session.set_queue_addresses(0, 0, 0, 0)), Some(Errno::EINVAL));
    assert_eq!(errno(session.set_queue_base(0, 0)), Some(Errno::EINVAL));
    assert_eq!(errno(session.set_queue_size(0, 64)), Some(Errno::EBUSY));
    assert_eq!(errno(session.set_kick(0, None)), None);
    assert_eq!(errno(session.set_call(0, None)), None);
}

#[test]
fn f23_an_index_beyond_the_queues_is_enobufs() {
    let Fixture { session, .. } = Fixture::new();
    for index in [2, 0xffff, u32::MAX] {
        assert_eq!(errno(session.set_queue_size(index, 64)), Some(Errno::ENOBUFS));
        assert_eq!(errno(session.set_queue_enabled(index, true)), Some(Errno::ENOBUFS));
        assert_eq!(errno(session.queue_base(index)), Some(Errno::ENOBUFS));
    }
}

#[test]
fn f25_features_are_checked_against_the_offer_and_fixed_by_features_ok() {
    let Fixture { session, .. } = Fixture::new();
    assert_eq!(errno(session.set_features(REQUIRED | 2)), Some(Errno::EINVAL));
    assert_eq!(errno(session.set_status(8)), Some(Errno::EINVAL), "nothing was accepted yet");
    session.set_features(REQUIRED).unwrap();
    session.set_status(8).unwrap();
    assert_eq!(errno(session.set_features(REQUIRED)), Some(Errno::EBUSY));
}

#[test]
fn f26_config_access_outside_the_space_is_refused() {
    let Fixture { session, .. } = Fixture::new();
    assert_eq!(session.read_config(4, 8), Ok(vec![4; 8]));
    for (offset, len) in [(0, 0), (4, 9), (12, 1), (13, 0), (u32::MAX, 2), (1, u32::MAX)] {
        assert_eq!(errno(session.read_config(offset, len)), Some(Errno::EINVAL), "{len} at {offset}");
    }
    assert_eq!(errno(session.write_config(10, vec![0; 3])), Some(Errno::EINVAL));
}

#[test]
fn f17_misaligned_and_wrapping_rings_are_refused() {
    let Fixture { session, .. } = Fixture::negotiated();
    for (desc, driver, device) in [(8, 0, 0), (0, 1, 0), (0, 0, 2)] {
        assert_eq!(errno(session.set_queue_addresses(0, desc, driver, device)), Some(Errno::EINVAL));
    }
    session.set_queue_addresses(0, u64::MAX - 15, 0, 0).unwrap();
    session.set_queue_enabled(0, true).unwrap();
    assert_eq!(errno(session.set_status(0xf)), Some(Errno::EINVAL));
}

#[test]
fn f18_ring_sizes_outside_the_range_are_refused() {
    let Fixture { session, .. } = Fixture::new();
    for size in [0, 3, 512, 65_536, u32::MAX] {
        assert_eq!(errno(session.set_queue_size(0, size)), Some(Errno::EINVAL), "{size}");
    }
    session.set_queue_size(0, 256).unwrap();
}

#[test]
fn a_fault_shows_in_the_status_until_reset() {
    let Fixture { session, .. } = Fixture::running();
    session.link().fault(Some(0), "descriptor loop");
    assert_eq!(session.status().unwrap().bits(), 0x4f);
    assert_eq!(session.condition(), Condition::NeedsReset);
    session.set_status(0).unwrap();
    assert_eq!(session.condition(), Condition::Idle);
}

#[test]
fn losing_the_memory_stops_the_device_and_asks_for_a_reset() {
    let fixture = Fixture::running();
    fixture.queue_calls();
    fixture.session.lose_space(0).unwrap();
    assert_eq!(fixture.queue_calls(), ["stop 0", "stop 1"]);
    assert!(fixture.session.link().needs_reset());
}

#[test]
fn a_device_reports_what_it_writes_to_the_memory_it_has_and_to_no_other() {
    struct Nobody;
    impl crate::dirty::DirtySink for Nobody {
        fn mark(&self, _iova: u64, _len: u64) {}
    }
    let Fixture { session, .. } = Fixture::new();
    let memory = AddressSpace::new(Limits::default());
    memory.writers().track(Some(Arc::new(Nobody)));
    session.set_space(1, Some(Arc::clone(&memory))).unwrap();
    assert!(!session.dirty().is_active(), "the record is not about address space 1");
    session.set_space(0, Some(Arc::clone(&memory))).unwrap();
    assert!(session.dirty().is_active());
    session.lose_space(0).unwrap();
    assert!(!session.dirty().is_active());
}

#[test]
fn memory_is_not_exchanged_under_a_running_queue() {
    let Fixture { session, .. } = Fixture::running();
    assert_eq!(errno(session.set_space(0, None)), Some(Errno::EBUSY));
}

#[test]
fn a_new_kick_reaches_a_running_queue_only() {
    let fixture = Fixture::running();
    fixture.calls.lock().clear();
    fixture.session.set_kick(1, Some(EventFd::new().unwrap())).unwrap();
    assert_eq!(*fixture.calls.lock(), ["kick 1 true"]);
    fixture.session.set_status(0).unwrap();
    fixture.calls.lock().clear();
    fixture.session.set_kick(1, None).unwrap();
    assert_eq!(*fixture.calls.lock(), [""; 0]);
}

#[test]
fn f35_groups_and_address_spaces_out_of_range_are_refused() {
    let Fixture { session, .. } = Fixture::new();
    assert_eq!(errno(session.set_group_asid(3, 0)), Some(Errno::EINVAL));
    assert_eq!(errno(session.set_group_asid(0, 2)), Some(Errno::EINVAL));
    assert_eq!(errno(session.set_space(2, None)), Some(Errno::EINVAL));
    session.set_group_asid(2, 1).unwrap();
}

#[test]
fn f35_a_group_is_not_bound_anew_under_a_running_driver() {
    let Fixture { session, .. } = Fixture::running();
    assert_eq!(errno(session.set_group_asid(1, 1)), Some(Errno::EBUSY));
    session.suspend().unwrap();
    assert_eq!(errno(session.set_group_asid(1, 1)), Some(Errno::EBUSY));
    session.set_status(0).unwrap();
    session.set_group_asid(1, 1).unwrap();
}

#[test]
fn a_queue_starts_in_the_address_spaces_of_its_groups_until_a_reset() {
    let recorder = Recorder::default();
    let asids = Arc::clone(&recorder.asids);
    let Fixture { session, .. } = fixture(recorder);
    session.set_space(1, Some(AddressSpace::new(Limits::default()))).unwrap();
    let start = || {
        session.set_features(REQUIRED).unwrap();
        session.set_queue_enabled(1, true).unwrap();
        session.set_status(0xf).unwrap();
        *asids.lock()
    };
    session.set_group_asid(2, 1).unwrap();
    assert_eq!(start(), (0, 0), "a driver that does not know that rings have groups");
    session.set_status(0).unwrap();
    session.use_desc_groups(true).unwrap();
    session.set_group_asid(2, 1).unwrap();
    assert_eq!(start(), (0, 1));
    session.set_status(0).unwrap();
    assert_eq!(start(), (0, 0), "all groups are back");
}

#[test]
fn a_queue_whose_address_space_has_no_memory_does_not_start() {
    let Fixture { session, .. } = Fixture::negotiated();
    session.set_group_asid(1, 1).unwrap();
    session.set_queue_enabled(1, true).unwrap();
    assert_eq!(errno(session.set_status(0xf)), Some(Errno::EFAULT));
    assert_eq!(session.status().unwrap().bits(), 0xb);
}

#[test]
fn a_device_with_its_own_iommu_gets_maps_and_unmaps() {
    let Fixture { session, calls } = fixture(Recorder { own_iommu: true, ..Recorder::default() });
    let space = AddressSpace::new(Limits::default());
    session.set_space(0, Some(Arc::clone(&space))).unwrap();
    let memory = Arc::new(Nowhere);
    let backing = crate::dma::Backing::Remote { memory, addr: 0 };
    let permissions = crate::dma::Permissions::READ;
    space.map(Region { iova: 0x1000, len: 0x2000, permissions, backing }).unwrap();
    space.unmap_all();
    assert_eq!(*calls.lock(), ["map 0 0x1000+0x2000", "unmap 0 0x1000+0x2000"]);
}

#[test]
fn a_device_that_refuses_a_replacement_has_what_it_had() {
    let recorder = Recorder { own_iommu: true, refuse_map: Some(0x3000), ..Recorder::default() };
    let Fixture { session, calls } = fixture(recorder);
    let space = AddressSpace::new(Limits::default());
    session.set_space(0, Some(Arc::clone(&space))).unwrap();
    let region = |iova| {
        let backing = crate::dma::Backing::Remote { memory: Arc::new(Nowhere), addr: 0 };
        Region { iova, len: 0x1000, permissions: crate::dma::Permissions::READ, backing }
    };
    space.map(region(0x1000)).unwrap();
    calls.lock().clear();
    assert_eq!(
        space.replace(&[(0, u64::MAX)], vec![region(0x2000), region(0x3000)]).unwrap_err().errno(),
        Errno::ENOMEM
    );
    let undone = ["unmap 0 0x1000+0x1000", "map 0 0x2000+0x1000", "unmap 0 0x2000+0x1000", "map 0 0x1000+0x1000"];
    assert_eq!(*calls.lock(), undone);
    assert_eq!(space.regions().len(), 1);
}

#[test]
fn a_frozen_session_runs_nothing_and_its_driver_sees_nothing_of_it() {
    let fixture = Fixture::running();
    fixture.queue_calls();
    fixture.session.freeze().unwrap();
    assert_eq!(fixture.queue_calls(), ["stop 0", "stop 1"]);
    assert_eq!(fixture.session.status().unwrap().bits(), 0xf);
    assert_eq!(errno(fixture.session.set_queue_addresses(0, 0, 0, 0)), Some(Errno::EINVAL), "the driver runs");
    fixture.session.suspend().unwrap();
    fixture.session.resume().unwrap();
    fixture.session.set_queue_enabled(0, false).unwrap();
    fixture.session.set_queue_enabled(0, true).unwrap();
    assert_eq!(fixture.queue_calls(), [""; 0]);
    fixture.session.thaw().unwrap();
    assert_eq!(fixture.queue_calls(), ["start 0 at 10", "start 1 at 10"]);
    fixture.session.thaw().unwrap();
    assert_eq!(fixture.queue_calls(), [""; 0]);
}

#[test]
fn f38_a_driver_that_resets_and_starts_a_frozen_device_runs_when_it_thaws() {
    let fixture = Fixture::running();
    fixture.session.freeze().unwrap();
    fixture.session.set_status(0).unwrap();
    fixture.session.set_features(REQUIRED).unwrap();
    fixture.session.set_queue_enabled(0, true).unwrap();
    fixture.queue_calls();
    fixture.session.set_status(0xf).unwrap();
    assert_eq!(fixture.queue_calls(), [""; 0]);
    fixture.session.thaw().unwrap();
    assert_eq!(fixture.queue_calls(), ["start 0 at 0"]);
}

#[test]
fn a_thaw_that_is_refused_leaves_the_session_frozen() {
    let fixture = Fixture::running();
    fixture.session.freeze().unwrap();
    fixture.session.set_space(0, None).unwrap();
    fixture.queue_calls();
    assert_eq!(errno(fixture.session.thaw()), Some(Errno::EFAULT));
    assert_eq!(fixture.queue_calls(), [""; 0]);
    assert!(fixture.session.save().is_ok(), "it is frozen");
    fixture.session.set_space(0, Some(AddressSpace::new(Limits::default()))).unwrap();
    fixture.session.thaw().unwrap();
    assert_eq!(fixture.queue_calls(), ["start 0 at 10", "start 1 at 10"]);
}

#[test]
fn a_frozen_device_interrupts_when_it_thaws() {
    let fixture = Fixture::running();
    let call = EventFd::new().unwrap();
    fixture.session.set_config_call(Some(call.clone()));
    fixture.session.freeze().unwrap();
    fixture.session.link().config_changed();
    fixture.session.link().config_changed();
    assert_eq!(call.drain(), Ok(None));
    fixture.session.thaw().unwrap();
    assert_eq!(call.drain(), Ok(Some(1)));
    fixture.session.freeze().unwrap();
    fixture.session.link().config_changed();
    fixture.session.set_status(0).unwrap();
    fixture.session.thaw().unwrap();
    assert_eq!(call.drain(), Ok(None), "a driver that reset the device knows nothing of before");
}

/// What a running device is, frozen.
fn saved() -> SavedSession {
    let before = fixture(Recorder { own: vec![1, 2], ..Recorder::default() });
    before.session.set_features(REQUIRED).unwrap();
    before.session.set_queue_enabled(0, true).unwrap();
    before.session.set_queue_enabled(1, true).unwrap();
    before.session.set_status(0xf).unwrap();
    before.session.freeze().unwrap();
    before.session.save().unwrap()
}

#[test]
fn a_saved_session_continues_in_a_successor() {
    let json = serde_json::to_string(&saved()).unwrap();
    let after = Fixture::new();
    after.session.freeze().unwrap();
    after.session.set_kick(0, Some(EventFd::new().unwrap())).unwrap();
    after.session.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    after.session.set_kick(1, Some(EventFd::new().unwrap())).unwrap();
    assert_eq!(after.session.status().unwrap().bits(), 0xf);
    assert_eq!(after.session.save().unwrap(), saved());
    assert_eq!(after.queue_calls(), [""; 0]);
    after.session.thaw().unwrap();
    assert_eq!(after.queue_calls(), ["start 0 at 10", "start 1 at 10"]);
}

#[test]
fn a_device_that_needed_a_reset_needs_one_where_it_went() {
    let before = Fixture::running();
    before.session.link().fault(Some(0), "descriptor loop");
    before.session.freeze().unwrap();
    let after = Fixture::new();
    after.session.freeze().unwrap();
    after.session.restore(&before.session.save().unwrap()).unwrap();
    after.session.thaw().unwrap();
    assert_eq!(after.session.status().unwrap().bits(), 0x4f);
    assert_eq!(after.queue_calls(), [""; 0]);
}

#[test]
fn only_a_frozen_session_is_saved_and_restored() {
    let Fixture { session, .. } = Fixture::running();
    assert_eq!(errno(session.save()), Some(Errno::EBUSY));
    assert_eq!(errno(session.restore(&saved())), Some(Errno::EBUSY));
}

#[test]
fn f41_a_state_that_the_device_refuses_leaves_it_as_it_was() {
    let fixture = fixture(Recorder { own: vec![7], ..Recorder::default() });
    fixture.session.set_features(REQUIRED | 1).unwrap();
    fixture.session.set_status(0xb).unwrap();
    fixture.session.freeze().unwrap();
    let before = fixture.session.save().unwrap();
    fixture.calls.lock().clear();
    let refused = fixture.session.restore(&SavedSession { device: vec![0; 5], ..saved() });
    assert_eq!(errno(refused), Some(Errno::EINVAL));
    let features = |features: u64| format!("features {features:#x}");
    let again = ["reset".into(), features(REQUIRED), "reset".into(), features(REQUIRED | 1), "own [7]".into()];
    assert_eq!(*fixture.calls.lock(), again);
    assert_eq!(fixture.session.save().unwrap(), before);
}

#[test]
fn f41_saved_state_that_does_not_fit_is_refused() {
    let good = saved();
    let refused = |change: &dyn Fn(&mut SavedSession)| {
        let mut bad = good.clone();
        change(&mut bad);
        let fixture = Fixture::new();
        fixture.session.freeze().unwrap();
        let error = errno(fixture.session.restore(&bad));
        assert_eq!(*fixture.calls.lock(), [""; 0], "the device was asked");
        (error, fixture.session.status().unwrap().bits())
    };
    let invalid = (Some(Errno::EINVAL), 0);
    assert_eq!(refused(&|bad| bad.status = 0x10), invalid);
    assert_eq!(refused(&|bad| bad.status = 7), invalid, "DRIVER_OK without FEATURES_OK");
    assert_eq!(refused(&|bad| (bad.status, bad.suspended) = (0xb, true)), invalid, "nothing to suspend");
    assert_eq!(refused(&|bad| bad.features |= 4), invalid);
    assert_eq!(refused(&|bad| bad.features = 0), invalid, "FEATURES_OK without features");
    assert_eq!(refused(&|bad| bad.queues.truncate(1)), invalid);
    assert_eq!(refused(&|bad| bad.queues.extend(good.queues.clone())), invalid);
    assert_eq!(refused(&|bad| bad.config.truncate(11)), invalid);
    assert_eq!(refused(&|bad| bad.config.push(0)), invalid);
    assert_eq!(refused(&|bad| bad.asids = [(0, 2)].into()), invalid);
    assert_eq!(refused(&|bad| bad.asids = [(3, 0)].into()), invalid);
    assert_eq!(refused(&|bad| bad.queues[0].config.size = 512), invalid);
    assert_eq!(refused(&|bad| bad.queues[0].config.size = 0), invalid);
    assert_eq!(refused(&|bad| bad.queues[0].config.size = 3), invalid);
    assert_eq!(refused(&|bad| bad.queues[0].config.desc = 8), invalid);
    assert_eq!(refused(&|bad| bad.queues[1].config.driver = 1), invalid);
    assert_eq!(refused(&|bad| bad.queues[1].config.device = 2), invalid);
    assert_eq!(refused(&|bad| bad.queues[1].config.desc = u64::MAX - 15), invalid);
    assert_eq!(refused(&|bad| bad.queues[0].state = QueueState::initial(true)), invalid);
}
