//! A device that writes down what it is asked to do, its node, and a client.

use devnode::{Broadcast, Ioctl};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use vfio_container::testing::{BASE, Descriptor, FakeClient};
use vfio_container::{ContainerFile, Group, GroupFile};
use vhost_mdev::{VhostFile, VhostMdev};
use virtio_mdev_api::dma::{AddressSpace, Limits, Region};
use virtio_mdev_api::features::REQUIRED;
use virtio_mdev_api::notify::EventFd;
use virtio_mdev_api::{
    Capabilities, DeviceInfo, DeviceLink, QueueInfo, QueueStart, QueueState, Refusal, Session, VirtioMdev,
};

pub const GET_FEATURES: u32 = 0x8008_af00;
pub const SET_FEATURES: u32 = 0x4008_af00;
pub const SET_OWNER: u32 = 0xaf01;
pub const SET_VRING_NUM: u32 = 0x4008_af10;
pub const SET_VRING_ADDR: u32 = 0x4028_af11;
pub const SET_VRING_BASE: u32 = 0x4008_af12;
pub const GET_VRING_BASE: u32 = 0xc008_af12;
pub const SET_VRING_KICK: u32 = 0x4008_af20;
pub const SET_VRING_CALL: u32 = 0x4008_af21;
pub const SET_VRING_ERR: u32 = 0x4008_af22;
pub const SET_BACKEND_FEATURES: u32 = 0x4008_af25;
pub const GET_BACKEND_FEATURES: u32 = 0x8008_af26;
pub const GET_DEVICE_ID: u32 = 0x8004_af70;
pub const GET_STATUS: u32 = 0x8001_af71;
pub const SET_STATUS: u32 = 0x4001_af72;
pub const GET_CONFIG: u32 = 0x8008_af73;
pub const SET_CONFIG: u32 = 0x4008_af74;
pub const SET_VRING_ENABLE: u32 = 0x4008_af75;
pub const GET_VRING_NUM: u32 = 0x8002_af76;
pub const SET_CONFIG_CALL: u32 = 0x4004_af77;
pub const GET_IOVA_RANGE: u32 = 0x8010_af78;
pub const GET_CONFIG_SIZE: u32 = 0x8004_af79;
pub const GET_AS_NUM: u32 = 0x8004_af7a;
pub const GET_VRING_GROUP: u32 = 0xc008_af7b;
pub const SET_GROUP_ASID: u32 = 0x4008_af7c;
pub const SUSPEND: u32 = 0xaf7d;
pub const RESUME: u32 = 0xaf7e;
pub const GET_VRING_DESC_GROUP: u32 = 0xc008_af7f;
pub const GET_VQS_COUNT: u32 = 0x8004_af80;
pub const GET_GROUP_NUM: u32 = 0x8004_af81;
pub const GET_VRING_SIZE: u32 = 0xc008_af82;

/// Backend features.
pub const IOTLB_ASID: u64 = 1 << 3;
pub const DESC_ASID: u64 = 1 << 7;

pub const ARG: u64 = BASE;
/// Arguments of calls made beside those at `ARG`.
pub const SECOND_ARG: u64 = BASE + 0x1000;
pub const RAM: u64 = BASE + 0x1_0000;
pub const KICK: i32 = 10;
pub const NOT_EVENTFD: i32 = 11;
pub const CONTAINER: i32 = 12;
pub const QUEUES: u32 = 2;
/// Where configuration space has the state of the link (virtio 1.3 §5.1.4).
pub const STATUS: usize = 6;

/// What the device was asked to do, and the queues it runs.
#[derive(Default)]
pub struct Seen {
    pub calls: Vec<String>,
    pub running: BTreeMap<u16, QueueStart>,
    pub config: Vec<u8>,
    /// How many reads of configuration space meet a change of all its bytes half-way.
    pub torn_reads: usize,
}

struct Recorder {
    seen: Arc<Mutex<Seen>>,
    info: DeviceInfo,
    link: DeviceLink,
}

impl VirtioMdev for Recorder {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn set_features(&mut self, _features: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn read_config(&mut self, offset: u32, out: &mut [u8]) {
        let mut seen = self.seen.lock();
        let from = usize::try_from(offset).unwrap();
        let (first, second) = out.split_at_mut(out.len() / 2);
        let middle = from + first.len();
        first.copy_from_slice(&seen.config[from..middle]);
        if let Some(left) = seen.torn_reads.checked_sub(1) {
            seen.torn_reads = left;
            seen.config.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            self.link.config_changed();
        }
        second.copy_from_slice(&seen.config[middle..middle + second.len()]);
    }

    fn store_attribute(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        assert_eq!(name, "link");
        self.seen.lock().config[STATUS] = u8::from(value == "up");
        self.link.config_changed();
        Ok(())
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Refusal> {
        let from = usize::try_from(offset).unwrap();
        self.seen.lock().config[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn start_queue(&mut self, index: u16, queue: QueueStart) -> Result<(), Refusal> {
        let mut seen = self.seen.lock();
        seen.calls.push(format!("start {index}"));
        seen.running.insert(index, queue);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Result<Option<QueueState>, Refusal> {
        let mut seen = self.seen.lock();
        seen.calls.push(format!("stop {index}"));
        Ok(seen.running.remove(&index).map(|start| match start.state {
            QueueState::Split { .. } => QueueState::Split { avail: 5 },
            QueueState::Packed { .. } => QueueState::Packed { avail: 5, avail_wrap: false, used: 3, used_wrap: true },
        }))
    }

    fn set_kick(&mut self, index: u16, kick: Option<EventFd>) {
        self.seen.lock().calls.push(format!("kick {index} {}", kick.is_some()));
    }

    fn reset(&mut self) {
        self.seen.lock().calls.push("reset".into());
    }

    fn dma_map(&mut self, asid: u32, region: &Region) -> Result<(), Refusal> {
        self.seen.lock().calls.push(format!("map {asid} {:#x}+{:#x}", region.iova, region.len));
        Ok(())
    }

    fn dma_unmap(&mut self, asid: u32, iova: u64, len: u64) {
        self.seen.lock().calls.push(format!("unmap {asid} {iova:#x}+{len:#x}"));
    }
}

pub struct Lab {
    pub client: FakeClient,
    pub seen: Arc<Mutex<Seen>>,
    pub session: Arc<Session>,
    pub group: Arc<Group>,
    pub trace: Arc<Broadcast>,
    pub node: Arc<VhostMdev>,
    pub file: Arc<VhostFile>,
    /// Opens minus closes that `on_open` was told of.
    pub opens: Arc<AtomicI32>,
}

/// What a device is like.
pub struct Kind {
    pub queues: Vec<QueueInfo>,
    pub features: u64,
    pub address_spaces: u32,
    pub config_size: u32,
    pub capabilities: Capabilities,
    pub limits: Limits,
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            queues: vec![QueueInfo { max_size: 256, group: 0, desc_group: None }; 2],
            features: REQUIRED | 1 << 29,
            address_spaces: 1,
            config_size: 12,
            capabilities: Capabilities::empty(),
            limits: Limits::default(),
        }
    }
}

impl Kind {
    pub fn grouped() -> Self {
        let data = QueueInfo { max_size: 256, group: 0, desc_group: Some(2) };
        let control = QueueInfo { max_size: 64, group: 1, desc_group: None };
        Self { queues: vec![data, control], address_spaces: 2, ..Self::default() }
    }
}

impl Lab {
    /// A file of which the client is the owner.
    pub fn new() -> Self {
        let lab = Self::unowned(Kind::default());
        lab.call(SET_OWNER, &[]).unwrap();
        lab
    }

    pub fn own_iommu() -> Self {
        Self::owned(Kind { capabilities: Capabilities::OWN_IOMMU, ..Kind::default() })
    }

    /// A device with the second queue in a group of its own, the ring of the first one in another, and two address
    /// spaces.
    pub fn grouped() -> Self {
        Self::owned(Kind::grouped())
    }

    pub fn owned(kind: Kind) -> Self {
        let lab = Self::unowned(kind);
        lab.call(SET_OWNER, &[]).unwrap();
        lab
    }

    pub fn unowned(kind: Kind) -> Self {
        Self::of_client(kind, FakeClient::new(1))
    }

    pub fn of_client(kind: Kind, client: FakeClient) -> Self {
        let config = (0..).take(usize::try_from(kind.config_size).unwrap()).collect();
        let seen = Arc::new(Mutex::new(Seen { config, ..Seen::default() }));
        let info = DeviceInfo {
            device_id: 1,
            vendor_id: 0,
            queues: kind.queues,
            features: kind.features,
            config_size: kind.config_size,
            queue_align: 4096,
            address_spaces: kind.address_spaces,
            limits: kind.limits,
            capabilities: kind.capabilities,
        };
        let link = DeviceLink::new("test");
        let device = Box::new(Recorder { seen: seen.clone(), info: info.clone(), link: link.clone() });
        let session = Arc::new(Session::new(device, info, link, Duration::from_secs(5)));
        let group = Group::new(1 << 20, "test".into());
        let trace = Arc::new(Broadcast::new());
        let opens = Arc::new(AtomicI32::new(0));
        let told = opens.clone();
        let on_open = Box::new(move |open| {
            told.fetch_add(if open { 1 } else { -1 }, Ordering::SeqCst);
        });
        let node = VhostMdev::new(session.clone(), group.clone(), trace.clone(), on_open);
        let file = node.open_file(&client).unwrap();
        client.install(KICK, Descriptor::Event(EventFd::new().unwrap()));
        client.install(NOT_EVENTFD, Descriptor::Other);
        Self { client, seen, session, group, trace, node, file, opens }
    }

    pub fn call(&self, cmd: u32, input: &[u8]) -> Result<Vec<u8>, Errno> {
        self.call_as(&self.client, cmd, input)
    }

    pub fn call_as(&self, client: &FakeClient, cmd: u32, input: &[u8]) -> Result<Vec<u8>, Errno> {
        let reply = self.file.serve(client, &Ioctl { cmd, arg: ARG, input })?;
        let (reads, size) = (cmd >> 31 == 1, usize::try_from((cmd >> 16) & 0x3fff).unwrap());
        assert!(reply.output.is_empty() || (reads && reply.output.len() == size), "{cmd:#x} answers its size");
        Ok(reply.output)
    }

    /// A call with `struct vhost_vring_state` or `struct vhost_vring_file`.
    pub fn vring(&self, cmd: u32, index: u32, num: u32) -> Result<Vec<u8>, Errno> {
        self.call(cmd, &pair(index, num))
    }

    pub fn file_call(&self, cmd: u32, index: u32, fd: i32) -> Result<Vec<u8>, Errno> {
        self.vring(cmd, index, fd.cast_unsigned())
    }

    pub fn addr(&self, index: u32, flags: u32, words: [u64; 4]) -> Result<Vec<u8>, Errno> {
        let mut bytes = pair(index, flags);
        words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        self.call(SET_VRING_ADDR, &bytes)
    }

    pub fn status(&self) -> u8 {
        self.call(GET_STATUS, &[]).unwrap()[0]
    }

    pub fn set_status(&self, status: u8) -> Result<(), Errno> {
        self.call(SET_STATUS, &[status]).map(drop)
    }

    pub fn set_features(&self, features: u64) -> Result<(), Errno> {
        self.call(SET_FEATURES, &features.to_ne_bytes()).map(drop)
    }

    /// Negotiates, enables both queues and sets DRIVER_OK.
    pub fn start(&self) -> Result<(), Errno> {
        self.start_with(REQUIRED)
    }

    pub fn start_with(&self, features: u64) -> Result<(), Errno> {
        self.set_features(features)?;
        (0..QUEUES).try_for_each(|index| self.vring(SET_VRING_ENABLE, index, 1).map(drop))?;
        self.set_status(0xf)
    }

    pub fn running(&self) -> usize {
        self.seen.lock().running.len()
    }

    /// The memory queue 0 runs with.
    pub fn queue_space(&self) -> Arc<AddressSpace> {
        self.seen.lock().running[&0].space.clone()
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().calls)
    }

    pub fn write(&self, request: u8, iova: u64, size: u64, uaddr: u64) -> Result<usize, Errno> {
        self.write_as(&self.client, &message(2, 0, [iova, size, uaddr], 3, request))
    }

    pub fn write_as(&self, client: &FakeClient, data: &[u8]) -> Result<usize, Errno> {
        self.file.serve_write(client, data)
    }

    /// A message for address space `asid`.
    pub fn write_to(&self, asid: u32, request: u8, iova: u64, size: u64) -> Result<usize, Errno> {
        self.write_as(&self.client, &message(2, asid, [iova, size, RAM], 3, request))
    }

    pub fn acknowledge(&self, backend_features: u64) -> Result<(), Errno> {
        self.call(SET_BACKEND_FEATURES, &backend_features.to_ne_bytes()).map(drop)
    }

    pub fn update(&self, iova: u64, size: u64) -> Result<(), Errno> {
        self.write(2, iova, size, RAM).map(drop)
    }

    /// Address and length of every region the device finds in its own space; needs running queues.
    pub fn regions(&self) -> Vec<(u64, u64)> {
        self.queue_space().regions().iter().map(|region| (region.iova, region.len)).collect()
    }

    /// Attaches the instance's group to a container of the client.
    pub fn attach(&self) -> (Arc<ContainerFile>, Arc<GroupFile>) {
        self.attach_as(&self.client)
    }

    pub fn attach_as(&self, client: &FakeClient) -> (Arc<ContainerFile>, Arc<GroupFile>) {
        let container = Arc::new(ContainerFile::new());
        let group = self.group.clone().open_file().unwrap();
        client.install(CONTAINER, Descriptor::Device(container.clone()));
        client.put(SECOND_ARG, &CONTAINER.to_ne_bytes());
        group.serve(client, &Ioctl { cmd: 0x3b68, arg: SECOND_ARG, input: &[] }).unwrap();
        container.serve(client, &Ioctl { cmd: 0x3b66, arg: 3, input: &[] }).unwrap();
        (container, group)
    }

    pub fn map_in(&self, container: &ContainerFile, iova: u64, size: u64) {
        let mut arg = pair(32, 3);
        [RAM, iova, size].iter().for_each(|word| arg.extend(word.to_ne_bytes()));
        self.client.put(ARG, &arg);
        container.serve(&self.client, &Ioctl { cmd: 0x3b71, arg: ARG, input: &[] }).unwrap();
    }

    pub fn on_group(&self, group: &GroupFile, cmd: u32) -> Result<i32, Errno> {
        group.serve(&self.client, &Ioctl { cmd, arg: ARG, input: &[] }).map(|reply| reply.value)
    }
}

pub fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_ne_bytes(), second.to_ne_bytes()].concat()
}

pub fn message(kind: u32, asid: u32, words: [u64; 3], permission: u8, request: u8) -> Vec<u8> {
    let mut bytes = pair(kind, asid);
    words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
    bytes.extend([permission, request]);
    bytes.resize(72, 0);
    bytes
}
