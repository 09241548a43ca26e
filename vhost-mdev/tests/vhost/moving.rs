//! A virtio instance that moves to another one.

use crate::device::{Desk, IRQ};
use crate::lab::*;
use devnode::{Ioctl, OpenFile};
use nix::errno::Errno;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;
use vfio_container::iommufd::{IommuFile, IommuNode};
use vfio_container::testing::{Descriptor, FakeClient};
use vfio_container::{CdevNode, DataStream, DeviceFile, HandleFile};
use vhost_mdev::VirtioDevice;
use virtio_mdev_api::notify::EventFd;

const FEATURE: u32 = 0x3b75;
const RESET: u32 = 0x3b6f;
const STOPPED: u32 = 1;
const RUNNING: u32 = 2;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const PRE_COPY: u32 = 6;
const DEVICE: i32 = 40;
const IOMMU: i32 = 41;
const BIND: u32 = 0x3b76;
const ATTACH: u32 = 0x3b77;
const DETACH: u32 = 0x3b78;
const IOAS_ALLOC: u32 = 0x3b81;
const IOAS_MAP: u32 = 0x3b85;

/// Bytes of a stream before the first section, and of a section before its content.
const PREFACE: usize = 16;
const HEADER: usize = 8;

/// Whose device a client moves.
trait Moves {
    fn lab(&self) -> &Lab;
    fn device(&self) -> &Arc<DeviceFile>;

    fn ask(&self, cmd: u32, words: &[u32]) -> Result<Vec<u32>, Errno> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.lab().client.put(ARG, &bytes);
        self.device().serve(&self.lab().client, &Ioctl { cmd, arg: ARG, input: &[] })?;
        let after = self.lab().client.get(ARG, bytes.len());
        Ok(after.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect())
    }

    fn set(&self, state: u32) -> Result<(), Errno> {
        self.ask(FEATURE, &[16, 1 << 17 | 2, state, 0]).map(drop)
    }

    fn state(&self) -> u32 {
        self.ask(FEATURE, &[16, 1 << 16 | 2, 0, 0]).unwrap()[2]
    }

    fn begin(&self, state: u32) -> Arc<DataStream> {
        self.lab().client.install(DEVICE, Descriptor::Device(self.device().clone()));
        let handle = HandleFile::default();
        let input = pair(DEVICE.cast_unsigned(), state);
        handle.serve(&self.lab().client, &Ioctl { cmd: 0xc008_5511, arg: 0, input: &input }).unwrap();
        handle.stream().expect("a data stream")
    }

    /// Stops the device and reads its stream.
    fn stream(&self) -> Vec<u8> {
        read_all(&self.begin(STOP_COPY))
    }

    /// Gives the device a stream.
    fn resume(&self, bytes: &[u8]) -> Result<(), Errno> {
        self.begin(RESUMING).serve_write(bytes)?;
        self.set(STOPPED)
    }

    fn reset(&self) {
        self.ask(RESET, &[]).unwrap();
    }
}

impl Moves for Desk {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn device(&self) -> &Arc<DeviceFile> {
        &self.device
    }
}

/// A client of the device's own node, bound to an iommufd and attached to an IOAS of it.
struct Bound {
    lab: Lab,
    device: Arc<DeviceFile>,
    iommu: Arc<IommuFile>,
    ioas: u32,
}

impl Bound {
    fn new() -> Self {
        let lab = Lab::unowned(Kind::default());
        OpenFile::release(&*lab.file);
        lab.group.set_device(Arc::new(VirtioDevice::new(lab.node.clone())));
        let iommu = Arc::new(IommuNode::new()).open_file(&lab.client).unwrap();
        lab.client.install(IOMMU, Descriptor::Device(iommu.clone()));
        let device = CdevNode::new(lab.group.clone()).open_file();
        let mut bound = Self { lab, device, iommu, ioas: 0 };
        bound.ask(BIND, &[16, 0, IOMMU.cast_unsigned(), 0]).unwrap();
        bound.ioas = bound.on_iommu(IOAS_ALLOC, &[12, 0, 0])[2];
        bound.ask(ATTACH, &[12, 0, bound.ioas]).unwrap();
        bound
    }

    fn on_iommu(&self, cmd: u32, words: &[u32]) -> Vec<u32> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.lab.client.put(ARG, &bytes);
        self.iommu.serve(&self.lab.client, &Ioctl { cmd, arg: ARG, input: &[] }).unwrap();
        let after = self.lab.client.get(ARG, bytes.len());
        after.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
    }

    fn map(&self, iova: u32, size: u32) {
        let memory = u32::try_from(RAM).unwrap();
        self.on_iommu(IOAS_MAP, &[40, 7, self.ioas, 0, memory, 0, size, 0, iova, 0]);
    }
}

impl Moves for Bound {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn device(&self) -> &Arc<DeviceFile> {
        &self.device
    }
}

fn read_all(stream: &DataStream) -> Vec<u8> {
    let parts = std::iter::repeat_with(|| stream.serve_read(1000).unwrap());
    parts.take_while(|part| !part.is_empty()).flatten().collect()
}

/// The state in a stream; and a stream with another one.
fn state_of(stream: &[u8]) -> Value {
    let (begin, len) = place_of_state(stream);
    serde_json::from_slice(&stream[begin..begin + len]).unwrap()
}

fn with_state(stream: &[u8], state: &[u8]) -> Vec<u8> {
    let (begin, _) = place_of_state(stream);
    let len = u32::try_from(state.len()).unwrap().to_le_bytes();
    let mut bytes = [&stream[..begin - 4], &len, state].concat();
    let sum = crc32fast::hash(&bytes).to_le_bytes();
    bytes.extend([[3, 0, 0, 0], [4, 0, 0, 0], sum].concat());
    bytes
}

fn place_of_state(stream: &[u8]) -> (usize, usize) {
    let len = |at: usize| usize::try_from(u32::from_le_bytes(stream[at..at + 4].try_into().unwrap())).unwrap();
    let section = PREFACE + HEADER + len(PREFACE + 4);
    (section + HEADER, len(section + 4))
}

/// A running device whose memory is a container's.
fn running() -> Desk {
    let desk = Desk::new();
    desk.lab.map_in(&desk.container, 0x7000, 0x1000);
    desk.start();
    desk.lab.calls();
    desk
}

#[test]
fn the_device_file_stops_what_is_driven_through_the_vhost_node() {
    let desk = Desk::at(Lab::new());
    desk.lab.start().unwrap();
    desk.lab.calls();
    desk.set(STOPPED).unwrap();
    assert_eq!(desk.lab.calls(), ["stop 0", "stop 1"]);
    assert_eq!(desk.lab.status(), 0xf, "its driver sees nothing of it");
    desk.lab.vring(SET_VRING_ENABLE, 0, 0).unwrap();
    desk.lab.file_call(SET_VRING_KICK, 1, KICK).unwrap();
    desk.set(RUNNING).unwrap();
    assert_eq!(desk.lab.calls(), ["start 1"]);
    assert!(desk.lab.seen.lock().running[&1].kick.is_some());
}

#[test]
fn a_device_goes_on_in_another_where_its_driver_calls_it_as_if_nothing_had_been() {
    let source = running();
    source.lab.seen.lock().config[3] = 77;
    let stream = source.begin(PRE_COPY);
    let told = stream.serve_read(4096).unwrap();
    assert_eq!(source.lab.running(), 2);
    source.set(STOP_COPY).unwrap();
    let bytes = [told, read_all(&stream)].concat();

    for irqs_first in [true, false] {
        let destination = Desk::new();
        destination.lab.map_in(&destination.container, 0x9000, 0x2000);
        if irqs_first {
            destination.set_irq(0, 1, IRQ).unwrap();
        }
        destination.resume(&bytes).unwrap();
        destination.lab.calls();
        destination.call(SET_OWNER, &[]).unwrap();
        assert_eq!(destination.call(GET_STATUS, &[]), Ok(vec![0xf]));
        assert_eq!(destination.call(SET_FEATURES, &[0; 8]), Err(Errno::EBUSY), "they are fixed");
        if !irqs_first {
            destination.set_irq(0, 1, IRQ).unwrap();
        }
        let call = EventFd::new().unwrap();
        destination.lab.client.install(KICK, Descriptor::Event(call.clone()));
        destination.call(SET_VRING_KICK, &pair(0, KICK.cast_unsigned())).unwrap();
        assert_eq!(destination.lab.calls(), [""; 0]);
        destination.set(RUNNING).unwrap();
        assert_eq!(destination.lab.calls(), ["start 0", "start 1"]);
        assert_eq!(destination.lab.regions(), [(0x9000, 0x2000)], "in the memory of its own container");
        let seen = destination.lab.seen.lock();
        assert_eq!(seen.running[&0].state.to_vring_base(), 5, "where it stood");
        assert!(seen.running[&0].kick.is_some());
        assert_eq!(seen.config[3], 77);
        seen.running[&1].call.signal().unwrap();
        drop(seen);
        assert_eq!(destination.interrupts(), 1);
    }
}

#[test]
fn a_device_goes_on_under_a_driver_that_has_the_vhost_node() {
    let bytes = running().stream();
    let destination = Desk::at(Lab::new());
    destination.lab.map_in(&destination.container, 0x9000, 0x2000);
    destination.resume(&bytes).unwrap();
    assert_eq!(destination.lab.status(), 0xf);
    destination.lab.file_call(SET_VRING_CALL, 0, KICK).unwrap();
    destination.set(RUNNING).unwrap();
    assert_eq!(destination.lab.regions(), [(0x9000, 0x2000)]);
}

#[test]
fn a_device_goes_on_in_the_memory_of_an_ioas() {
    let bytes = running().stream();
    let destination = Bound::new();
    destination.map(0x9000, 0x2000);
    destination.resume(&bytes).unwrap();
    destination.lab.calls();
    destination.set(RUNNING).unwrap();
    assert_eq!(destination.lab.calls(), ["start 0", "start 1"]);
    assert_eq!(destination.lab.regions(), [(0x9000, 0x2000)]);
    destination.ask(DETACH, &[8, 0]).unwrap();
    assert_eq!(destination.lab.running(), 0);
}

#[test]
fn a_stranger_who_has_the_vhost_node_gets_no_memory_of_who_moves_the_device() {
    let bytes = running().stream();
    let lab = Lab::unowned(Kind::default());
    let stranger = FakeClient::new(7);
    lab.call_as(&stranger, SET_OWNER, &[]).unwrap();
    let destination = Desk::at(lab);
    destination.lab.map_in(&destination.container, 0x9000, 0x2000);
    destination.resume(&bytes).unwrap();
    destination.set(RUNNING).unwrap();
    assert_eq!(destination.lab.regions(), [], "its own memory is empty");
}

#[test]
fn a_moved_device_leaves_the_vhost_node_to_others_when_the_device_file_is_closed() {
    let bytes = running().stream();
    let destination = Desk::new();
    destination.resume(&bytes).unwrap();
    assert_eq!(destination.lab.node.open_file(&destination.lab.client).err(), Some(Errno::EBUSY));
    OpenFile::release(&*destination.device);
    let file = destination.lab.node.open_file(&destination.lab.client).unwrap();
    let call = Ioctl { cmd: GET_STATUS, arg: 0, input: &[] };
    assert_eq!(file.serve(&destination.lab.client, &call).unwrap().output, [0]);
    assert!(!destination.lab.session.is_frozen(), "it is at work");
}

#[test]
fn a_reset_of_a_stopped_device_has_it_work_again() {
    let desk = running();
    desk.set(STOPPED).unwrap();
    desk.reset();
    assert_eq!((desk.state(), desk.call(GET_STATUS, &[])), (RUNNING, Ok(vec![0])));
    desk.start_anew();
    assert_eq!(desk.lab.running(), 2);
}

#[test]
fn a_removed_instance_moves_no_more() {
    let bytes = running().stream();
    let desk = Desk::new();
    let stream = desk.begin(RESUMING);
    stream.serve_write(&bytes[..20]).unwrap();
    desk.lab.node.revoke();
    desk.lab.group.remove();
    assert_eq!(stream.serve_write(&bytes[20..]), Err(Errno::ENODEV));
    assert_eq!(desk.set(STOPPED), Err(Errno::ENODEV));
}

impl Desk {
    fn start_anew(&self) {
        // Who was the owner stays it.
        let _ = self.call(SET_OWNER, &[]);
        self.call(SET_FEATURES, &virtio_mdev_api::features::REQUIRED.to_ne_bytes()).unwrap();
        (0..QUEUES).for_each(|index| drop(self.call(SET_VRING_ENABLE, &pair(index, 1)).unwrap()));
        self.call(SET_STATUS, &[0xf]).unwrap();
    }
}

/// A state that is refused: the device is as it was, and works after a reset.
#[track_caller]
fn refuses(bytes: &[u8]) {
    let desk = Desk::new();
    desk.lab.map_in(&desk.container, 0x7000, 0x1000);
    desk.lab.seen.lock().config[3] = 99;
    assert_eq!(desk.resume(bytes), Err(Errno::EINVAL));
    assert_eq!((desk.state(), desk.lab.running()), (0, 0));
    assert_eq!(desk.lab.seen.lock().config[3], 99);
    assert_eq!(desk.set(RUNNING), Err(Errno::EINVAL));
    desk.reset();
    desk.start_anew();
    assert_eq!(desk.lab.running(), 2);
}

#[test]
fn f41_a_state_with_a_field_out_of_range_is_refused_and_the_instance_unharmed() {
    let good = running().stream();
    let state = state_of(&good);
    let bad = |change: &dyn Fn(&mut Value)| {
        let mut state = state.clone();
        change(&mut state);
        refuses(&with_state(&good, state.to_string().as_bytes()));
    };
    bad(&|state| state["status"] = json!(0x1f));
    bad(&|state| state["status"] = json!(256));
    bad(&|state| state["features"] = json!(0));
    bad(&|state| state["features"] = json!(u64::MAX));
    bad(&|state| state["queues"][0]["config"]["size"] = json!(512));
    bad(&|state| state["queues"][0]["config"]["desc"] = json!(0x1008));
    bad(&|state| state["queues"][0]["config"]["desc"] = json!(u64::MAX - 15));
    bad(&|state| state["queues"][1]["state"] = json!({ "Split": { "avail": 0x1_0000 } }));
    bad(&|state| {
        state["queues"][1]["state"] =
            json!({ "Packed": { "avail": 0, "avail_wrap": true, "used": 0, "used_wrap": true } })
    });
    bad(&|state| drop(state["queues"].as_array_mut().unwrap().pop()));
    bad(&|state| state["config"].as_array_mut().unwrap().push(json!(0)));
    bad(&|state| state["device"] = json!([1]));
    bad(&|state| state["asids"] = json!({ "0": 1 }));
    bad(&|state| state["desc_groups"] = json!(true));
    bad(&|state| state["more"] = json!(1));
    bad(&|state| drop(state.as_object_mut().unwrap().remove("suspended")));
    refuses(&with_state(&good, b""));
    refuses(&with_state(&good, b"{}"));
    refuses(&with_state(&good, &[b'['; 10_000]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any number of the state becomes any other: it is refused and changes nothing, or it is what the device is then.
    #[test]
    fn f41_any_state_is_taken_whole_or_not_at_all(
        which in any::<prop::sample::Index>(),
        number in prop_oneof![any::<u64>(), 0u64..0x2_0000, (0u32..64).prop_map(|bit| 1 << bit)],
    ) {
        let good = running().stream();
        let mut state = state_of(&good);
        let mut numbers = Vec::new();
        collect(&mut state, &mut numbers);
        let at = which.index(numbers.len());
        *numbers.swap_remove(at) = json!(number);
        let desk = Desk::new();
        desk.lab.map_in(&desk.container, 0x7000, 0x1000);
        match desk.resume(&with_state(&good, state.to_string().as_bytes())) {
            Ok(()) => {
                prop_assert_eq!(state_of(&desk.stream()), state);
            }
            Err(errno) => {
                prop_assert_eq!(errno, Errno::EINVAL);
                prop_assert_eq!(desk.lab.session.status().unwrap().bits(), 0);
                prop_assert_eq!(desk.lab.session.features(), Ok(0));
            }
        }
        desk.reset();
        desk.start_anew();
        prop_assert_eq!(desk.lab.running(), 2);
    }
}

fn collect<'v>(value: &'v mut Value, numbers: &mut Vec<&'v mut Value>) {
    match value {
        Value::Number(_) => numbers.push(value),
        Value::Array(values) => values.iter_mut().for_each(|value| collect(value, numbers)),
        Value::Object(fields) => fields.values_mut().for_each(|value| collect(value, numbers)),
        _ => {}
    }
}

#[test]
fn f41_a_device_of_another_kind_is_refused_before_its_state_is_there() {
    let good = running().stream();
    let begin = PREFACE + HEADER;
    let (state, _) = place_of_state(&good);
    let identity: Value = serde_json::from_slice(&good[begin..state - HEADER]).unwrap();
    let mut other = identity.clone();
    other["device_id"] = json!(2);
    let other = other.to_string();
    let mut bytes = good[..begin].to_vec();
    bytes[PREFACE + 4..].copy_from_slice(&u32::try_from(other.len()).unwrap().to_le_bytes());
    bytes.extend(other.as_bytes());
    let desk = Desk::new();
    assert_eq!(desk.begin(RESUMING).serve_write(&bytes), Err(Errno::EINVAL));
}

#[test]
fn the_size_that_is_told_is_about_that_of_the_stream() {
    let desk = running();
    desk.lab.client.put(ARG, &[16, 1 << 16 | 9, 0, 0].map(u32::to_ne_bytes).concat());
    desk.call(FEATURE, &[]).unwrap();
    let told = u64::from_ne_bytes(desk.lab.client.get(ARG + 8, 8).try_into().unwrap());
    let real = u64::try_from(desk.stream().len()).unwrap();
    assert!((real..2 * real).contains(&told), "{told} for {real}");
}

#[test]
fn f38_a_driver_that_resets_while_the_device_is_moved_leaves_one_that_works() {
    let bytes = running().stream();
    let desk = Desk::new();
    desk.lab.map_in(&desk.container, 0x7000, 0x1000);
    let thread = desk.lab.client.thread();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for status in [0, 1, 3, 0].into_iter().cycle().take(400) {
                let call = Ioctl { cmd: SET_STATUS, arg: SECOND_ARG, input: &[status] };
                let _ = desk.device.serve(&thread, &call);
            }
        });
        for _ in 0..50 {
            let _ = desk.resume(&bytes).and_then(|()| desk.set(RUNNING));
            desk.reset();
        }
    });
    desk.reset();
    desk.start_anew();
    assert_eq!(desk.lab.running(), 2);
}
