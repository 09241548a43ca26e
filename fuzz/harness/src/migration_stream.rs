//! A network card that is moved by a client: any states, any streams.
//!
//! What the client writes comes from nowhere, or is the stream of a card like it: as it is, with one of its numbers
//! changed, or with another state in it; and the checksum is right.

use crate::world::loopback;
use crate::{Input, assert_errno};
use devnode::{Broadcast, Ioctl, IoctlReply, OpenFile};
use nix::errno::Errno;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use vfio_container::testing::{BASE, Descriptor, FakeClient};
use vfio_container::{ContainerFile, DataStream, DeviceFile, Group, GroupFile, HandleFile};
use vhost_mdev::{VhostMdev, VirtioDevice};
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::{DeviceLink, Session};

const ARG: u64 = BASE;
const RAM: u64 = BASE + 0x1_0000;
const CONTAINER: i32 = 7;
const GROUP: i32 = 8;
const DEVICE: i32 = 9;
/// How long vendor code may take: a machine that fuzzes is busy.
const DEADLINE: Duration = Duration::from_secs(60);

const GET: u32 = 1 << 16;
const SET: u32 = 1 << 17;
const DEVICE_STATE: u32 = 2;
const ERROR: u32 = 0;
const RUNNING: u32 = 2;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const PRE_COPY: u32 = 6;

/// Bytes of a stream before its first section, and of a section before its content.
const PREFACE: usize = 16;
const HEADER: usize = 8;

/// Runs one input: what kind of card, and steps.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.byte();
    let source = Side::new(kind);
    source.start();
    let good = source.stream();
    let mut side = Side::new(kind);
    let card = Arc::downgrade(&side.session);
    let mut sent = 0;
    while input.more() {
        side.step(&mut input, &good, &mut sent);
        side.check();
    }
    side.finish();
    drop(side);
    assert!(card.upgrade().is_none(), "somebody keeps the card");
}

struct Side {
    client: FakeClient,
    session: Arc<Session>,
    device: Arc<DeviceFile>,
    stream: Option<Arc<DataStream>>,
    group: Arc<Group>,
    node: Arc<VhostMdev>,
    _files: (Arc<ContainerFile>, Arc<GroupFile>),
}

impl Drop for Side {
    /// The instance is removed; nobody keeps the card, whatever is open still.
    fn drop(&mut self) {
        self.node.revoke();
        self.group.remove();
        self.session.retire();
    }
}

impl Side {
    fn new(kind: u8) -> Self {
        let link = DeviceLink::new("fuzzed");
        let card = loopback(kind, &link);
        let info = card.info();
        let session = Arc::new(Session::new(card, info, link, DEADLINE));
        let group = Group::new(1 << 20, "card".into());
        let trace = Arc::new(Broadcast::new());
        let node = VhostMdev::new(session.clone(), group.clone(), trace, Box::new(|_| {}));
        group.set_device(Arc::new(VirtioDevice::new(node.clone())));
        let (client, container) = (FakeClient::new(1), Arc::new(ContainerFile::new()));
        let file = group.clone().open_file().expect("nobody has it");
        client.install(CONTAINER, Descriptor::Device(container.clone()));
        client.install(GROUP, Descriptor::Device(file.clone()));
        let call = |cmd, arg| Ioctl { cmd, arg, input: &[] };
        client.put(ARG, &CONTAINER.to_ne_bytes());
        file.serve(&client, &call(0x3b68, ARG)).expect("a container");
        container.serve(&client, &call(0x3b66, 3)).expect("an IOMMU");
        let map = [u64::from(32u32) | 3 << 32, RAM, 0, 0x4_0000];
        client.put(ARG, &map.map(u64::to_ne_bytes).concat());
        container.serve(&client, &call(0x3b71, ARG)).expect("a mapping");
        let handle = HandleFile::default();
        let name = [&GROUP.to_ne_bytes()[..], &[0; 4], b"card", &[0; 60]].concat();
        handle.serve(&client, &Ioctl { cmd: 0x4048_5510, arg: 0, input: &name }).expect("a device");
        let device = handle.device().expect("a device");
        client.install(DEVICE, Descriptor::Device(device.clone()));
        Self { client, session, device, stream: None, group, node, _files: (container, file) }
    }

    fn call(&self, cmd: u32, input: &[u8]) -> Result<IoctlReply, Errno> {
        let answer = self.device.serve(&self.client, &Ioctl { cmd, arg: ARG, input });
        if let Err(errno) = answer {
            assert_errno(errno, format_args!("{cmd:#x}"));
        }
        answer
    }

    /// As far as a driver gets before its queues run.
    fn start(&self) {
        // Whoever was the owner is it.
        let _ = self.call(0xaf01, &[]);
        for (cmd, input) in [
            (0x4008_af00, &REQUIRED.to_ne_bytes()[..]),
            (0x4008_af10, &[0, 0, 0, 0, 64, 0, 0, 0]),
            (0x4008_af75, &[1, 0, 0, 0, 1, 0, 0, 0]),
            (0x4001_af72, &[0xb]),
        ] {
            self.call(cmd, input).expect("a driver starts");
        }
    }

    fn feature(&self, flags: u32, argument: &[u64]) -> Result<u64, Errno> {
        let argsz = u32::try_from(8 + 8 * argument.len()).unwrap_or(0);
        let words = argument.iter().flat_map(|word| word.to_ne_bytes());
        let bytes: Vec<u8> = argsz.to_ne_bytes().into_iter().chain(flags.to_ne_bytes()).chain(words).collect();
        self.client.put(ARG, &bytes);
        self.call(0x3b75, &[])?;
        Ok(u64::from_ne_bytes(self.client.get(ARG + 8, 8).try_into().expect("eight bytes")))
    }

    fn state(&self) -> u32 {
        let told = self.feature(GET | DEVICE_STATE, &[0]).expect("it can be asked");
        let [low @ .., _, _, _, _] = told.to_ne_bytes();
        u32::from_ne_bytes(low)
    }

    fn set(&self, state: u32) -> Result<(), Errno> {
        self.feature(SET | DEVICE_STATE, &[state.into()]).map(drop)
    }

    fn begin(&mut self, state: u32) -> Result<(), Errno> {
        let handle = HandleFile::default();
        let input = [DEVICE.to_ne_bytes(), state.to_ne_bytes()].concat();
        let reply = handle.serve(&self.client, &Ioctl { cmd: 0xc008_5511, arg: 0, input: &input })?;
        assert_eq!(reply.value == 1, handle.stream().is_some());
        if let Some(stream) = handle.stream() {
            self.stream = Some(stream);
        }
        Ok(())
    }

    /// Stops the card and reads its stream.
    fn stream(mut self) -> Vec<u8> {
        self.begin(STOP_COPY).expect("a running card stops");
        let stream = self.stream.take().expect("a stream");
        let parts = std::iter::repeat_with(|| stream.serve_read(1000).expect("it is all there"));
        parts.take_while(|part| !part.is_empty()).flatten().collect()
    }

    fn step(&mut self, input: &mut Input<'_>, good: &[u8], sent: &mut usize) {
        match input.byte() % 12 {
            0 => self.change(|side, state| side.begin(state), u32::from(input.byte() % 9)),
            1 => self.change(|side, state| side.set(state), u32::from(input.byte() % 9)),
            2 => self.write(input.blob()),
            3 => {
                let rest = good.get(*sent..).unwrap_or(&[]);
                let part = &rest[..rest.len().min(usize::from(input.half()))];
                *sent += part.len();
                self.write(part);
            }
            4 => {
                let (at, number) = (usize::from(input.half()), input.long());
                self.write(&with_number(good, at, number));
            }
            5 => self.write(&with_state(good, input.blob())),
            6 => {
                let len = usize::from(input.half());
                if let Some(Ok(part)) = self.stream.as_ref().map(|stream| stream.serve_read(len)) {
                    assert!(part.len() <= len);
                }
            }
            7 => {
                self.call(0x3b6f, &[]).expect("a reset");
                assert_eq!(self.state(), RUNNING);
            }
            8 => drop(self.call(0x4001_af72, &[input.byte()])),
            9 => drop(self.feature(SET | 6, &[input.long(), input.byte().into(), RAM])),
            10 => drop(self.feature(GET | 8, &[input.address(), input.size(), 0x1000, input.long()])),
            _ => {
                *sent = 0;
                self.change(|side, state| side.begin(state), RESUMING);
            }
        }
    }

    /// A change of state. One that leads out of RESUMING takes what was written, or changes nothing.
    fn change(&mut self, change: impl FnOnce(&mut Self, u32) -> Result<(), Errno>, wanted: u32) {
        let from = self.state();
        let before = (from == RESUMING).then(|| self.session.save().expect("it stands still"));
        let changed = change(self, wanted);
        if let Err(errno) = changed {
            assert_errno(errno, format_args!("{from} to {wanted}"));
        }
        let now = self.state();
        match (before, changed) {
            (_, Ok(())) => assert_eq!(now, wanted),
            (Some(before), Err(_)) if now == ERROR => {
                assert_eq!(self.session.save().expect("it stands still"), before, "it was refused");
            }
            _ => {}
        }
    }

    fn write(&self, bytes: &[u8]) {
        match self.stream.as_ref().map(|stream| stream.serve_write(bytes)) {
            Some(Ok(taken)) => assert_eq!(taken, bytes.len()),
            Some(Err(errno)) => assert_errno(errno, "a stream"),
            None => {}
        }
    }

    fn check(&self) {
        let state = self.state();
        assert_eq!(self.session.is_frozen(), !matches!(state, RUNNING | PRE_COPY), "state {state}");
    }

    /// Whatever happened, a reset makes it a card that a driver can start.
    fn finish(&self) {
        self.call(0x3b6f, &[]).expect("a reset");
        assert_eq!(self.state(), RUNNING);
        self.start();
        assert_eq!(self.session.status().map(|status| status.bits()), Ok(0xb));
        OpenFile::release(&*self.device);
        assert!(!self.session.is_frozen());
    }
}

/// The stream with another state in it.
fn with_state(good: &[u8], state: &[u8]) -> Vec<u8> {
    let (begin, _) = place_of_state(good);
    let len = u32::try_from(state.len()).unwrap_or(0).to_le_bytes();
    let mut bytes = [&good[..begin - 4], &len, state].concat();
    let sum = crc32fast::hash(&bytes).to_le_bytes();
    bytes.extend([[3, 0, 0, 0], [4, 0, 0, 0], sum].concat());
    bytes
}

/// The stream with another value for the `at`th number of its state.
fn with_number(good: &[u8], at: usize, number: u64) -> Vec<u8> {
    let (begin, len) = place_of_state(good);
    let mut state: Value = serde_json::from_slice(&good[begin..begin + len]).expect("our own state");
    let mut numbers = Vec::new();
    collect(&mut state, &mut numbers);
    let at = at % numbers.len();
    *numbers.swap_remove(at) = json!(number);
    with_state(good, state.to_string().as_bytes())
}

fn place_of_state(stream: &[u8]) -> (usize, usize) {
    let len = |at: usize| {
        let bytes = stream[at..at + 4].try_into().expect("four bytes");
        usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(0)
    };
    let section = PREFACE + HEADER + len(PREFACE + 4);
    (section + HEADER, len(section + 4))
}

fn collect<'v>(value: &'v mut Value, numbers: &mut Vec<&'v mut Value>) {
    match value {
        Value::Number(_) => numbers.push(value),
        Value::Array(values) => values.iter_mut().for_each(|value| collect(value, numbers)),
        Value::Object(fields) => fields.values_mut().for_each(|value| collect(value, numbers)),
        _ => {}
    }
}
