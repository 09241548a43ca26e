//! A device whose state is a number, and a client that moves it.

use crate::card::*;
use crate::lab::*;
use devnode::{Ioctl, OpenFile};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::Arc;
use vfio_container::testing::{Descriptor, FakeClient};
use vfio_container::{DataStream, DeviceFile, DeviceShape, HandleFile, IrqChange, Migratable, VfioDevice};
use virtio_mdev_api::Refusal;
use virtio_mdev_api::dirty::DirtyRecord;
use virtio_mdev_api::dma::AddressSpace;

pub const HANDLE_MIG_STATE: u32 = 0xc008_5511;
pub const PRECOPY_INFO: u32 = 0x3b79;
pub const GET_FEATURE: u32 = 1 << 16;
pub const SET_FEATURE: u32 = 1 << 17;
pub const PROBE_FEATURE: u32 = 1 << 18;
pub const MIGRATION: u32 = 1;
pub const DEVICE_STATE: u32 = 2;
pub const LOGGING_START: u32 = 6;
pub const LOGGING_STOP: u32 = 7;
pub const LOGGING_REPORT: u32 = 8;
pub const DATA_SIZE: u32 = 9;

pub const ERROR: u32 = 0;
pub const STOPPED: u32 = 1;
pub const RUNNING: u32 = 2;
pub const STOP_COPY: u32 = 3;
pub const RESUMING: u32 = 4;
pub const RUNNING_P2P: u32 = 5;
pub const PRE_COPY: u32 = 6;
pub const PRE_COPY_P2P: u32 = 7;

/// The client's descriptor of the device file.
const DEVICE_FD: i32 = 11;

/// Its state is eight bytes that are no more than a million.
pub struct Mover {
    pub state: Mutex<u64>,
    pub calls: Mutex<Vec<&'static str>>,
    /// The call that is refused.
    pub refuses: Mutex<&'static str>,
    pub record: Arc<DirtyRecord>,
    moves: bool,
}

impl Mover {
    fn new(moves: bool) -> Arc<Self> {
        let (state, calls, refuses) = (Mutex::new(0), Mutex::default(), Mutex::new(""));
        Arc::new(Self { state, calls, refuses, record: DirtyRecord::new(), moves })
    }

    fn did(&self, call: &'static str) -> Result<(), Refusal> {
        self.calls.lock().push(call);
        if *self.refuses.lock() == call { Err(Refusal::new(Errno::EIO, "not now")) } else { Ok(()) }
    }
}

impl VfioDevice for Mover {
    fn shape(&self) -> DeviceShape {
        DeviceShape { resettable: true, ..DeviceShape::default() }
    }

    fn open(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn close(&self) {}

    fn set_memory(&self, _memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        Ok(())
    }

    fn read(&self, _region: u32, _offset: u64, _out: &mut [u8]) -> Result<(), Refusal> {
        unreachable!("it has no regions")
    }

    fn write(&self, _region: u32, _offset: u64, _data: &[u8]) -> Result<(), Refusal> {
        unreachable!("it has no regions")
    }

    fn set_irqs(&self, _change: IrqChange) -> Result<(), Refusal> {
        unreachable!("it has no interrupts")
    }

    fn reset(&self) -> Result<(), Refusal> {
        *self.state.lock() = 0;
        self.did("reset")
    }

    fn migration(&self) -> Option<&dyn Migratable> {
        self.moves.then_some(self)
    }

    fn dirty(&self) -> Option<&Arc<DirtyRecord>> {
        self.moves.then_some(&self.record)
    }
}

impl Migratable for Mover {
    fn identity(&self) -> Vec<u8> {
        b"mover 1".to_vec()
    }

    fn accepts(&self, identity: &[u8]) -> Result<(), Refusal> {
        if identity == self.identity() { Ok(()) } else { Err(Refusal::new(Errno::EINVAL, "another device")) }
    }

    fn stop(&self) -> Result<(), Refusal> {
        self.did("stop")
    }

    fn run(&self) -> Result<(), Refusal> {
        self.did("run")
    }

    fn save(&self) -> Result<Vec<u8>, Refusal> {
        self.did("save")?;
        Ok(self.state.lock().to_le_bytes().to_vec())
    }

    fn state_size(&self) -> u64 {
        8
    }

    fn restore(&self, state: &[u8]) -> Result<(), Refusal> {
        self.did("restore")?;
        let state = state.try_into().ok().map(u64::from_le_bytes).filter(|&state| state <= 1_000_000);
        *self.state.lock() = state.ok_or_else(|| Refusal::new(Errno::EINVAL, "no such number"))?;
        Ok(())
    }
}

/// A client with a file of a mover.
pub struct Side {
    pub lab: Lab,
    pub mover: Arc<Mover>,
    pub file: Arc<DeviceFile>,
}

impl Side {
    pub fn new() -> Self {
        Self::of(true)
    }

    pub fn of(moves: bool) -> Self {
        Self::at(Lab::with_iommu(3), moves)
    }

    pub fn at(lab: Lab, moves: bool) -> Self {
        let mover = Mover::new(moves);
        lab.group.set_device(mover.clone());
        lab.client.install(GROUP_FD, Descriptor::Device(lab.file.clone()));
        let file = open_by(&lab.client, "uuid").unwrap();
        lab.client.install(DEVICE_FD, Descriptor::Device(file.clone()));
        Self { lab, mover, file }
    }

    pub fn with_state(state: u64) -> Self {
        let side = Self::new();
        *side.mover.state.lock() = state;
        side
    }

    /// What the device was asked since the last time.
    pub fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.mover.calls.lock())
    }

    /// A feature with an argument: the argument afterwards.
    pub fn feature_of(&self, client: &FakeClient, flags: u32, argument: &[u8]) -> Result<Vec<u8>, Errno> {
        let argsz = 8 + u32::try_from(argument.len()).unwrap();
        self.raw_feature_of(client, argsz, flags, argument)
    }

    pub fn raw_feature_of(
        &self,
        client: &FakeClient,
        argsz: u32,
        flags: u32,
        argument: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        client.put(ARG, &[&argsz.to_ne_bytes(), &flags.to_ne_bytes(), argument].concat());
        self.file.serve(client, &Ioctl { cmd: FEATURE, arg: ARG, input: &[] })?;
        Ok(client.get(ARG + 8, argument.len()))
    }

    pub fn feature(&self, flags: u32, argument: &[u8]) -> Result<Vec<u8>, Errno> {
        self.feature_of(&self.lab.client, flags, argument)
    }

    /// VFIO_DEVICE_FEATURE_SET of the state, without a place for a data stream.
    pub fn set(&self, state: u32) -> Result<i32, Errno> {
        let after = self.feature(SET_FEATURE | DEVICE_STATE, &pair(state, 9))?;
        assert_eq!(after[..4], state.to_ne_bytes());
        Ok(i32::from_ne_bytes(after[4..].try_into().unwrap()))
    }

    pub fn state(&self) -> u32 {
        let after = self.feature(GET_FEATURE | DEVICE_STATE, &pair(9, 9)).unwrap();
        assert_eq!(after[4..], (-1i32).to_ne_bytes());
        u32::from_ne_bytes(after[..4].try_into().unwrap())
    }

    /// The same through a handle: what that became.
    pub fn take(&self, state: u32) -> Result<Option<Arc<DataStream>>, Errno> {
        let handle = HandleFile::default();
        let reply =
            handle.serve(&self.lab.client, &Ioctl { cmd: HANDLE_MIG_STATE, arg: 0, input: &pair(11, state) })?;
        assert_eq!(reply.output, pair(11, state));
        assert_eq!(reply.value, i32::from(handle.stream().is_some()));
        Ok(handle.stream())
    }

    pub fn begin(&self, state: u32) -> Arc<DataStream> {
        self.take(state).unwrap().expect("a data stream")
    }

    pub fn reset(&self) {
        self.file.serve(&self.lab.client, &Ioctl { cmd: RESET, arg: 0, input: &[] }).unwrap();
    }

    /// The stream of the stopped device, read to its end.
    pub fn stream(&self) -> Vec<u8> {
        read_all(&self.begin(STOP_COPY))
    }

    /// Gives the device a stream, in pieces of `piece` bytes.
    pub fn resume(&self, bytes: &[u8], piece: usize) -> Result<(), Errno> {
        let stream = self.begin(RESUMING);
        for piece in bytes.chunks(piece) {
            assert_eq!(stream.serve_write(piece)?, piece.len());
        }
        self.set(STOPPED).map(drop)
    }

    pub fn close(&self) {
        OpenFile::release(&*self.file);
    }

    /// VFIO_MIG_GET_PRECOPY_INFO: what there is to read.
    pub fn precopy_info(&self, stream: &DataStream) -> Result<(u64, u64), Errno> {
        self.lab.client.put(ARG, &[[24, 0, 0, 0, 9, 9, 9, 9], [9; 8], [9; 8]].concat());
        stream.serve(&self.lab.client, &Ioctl { cmd: PRECOPY_INFO, arg: ARG, input: &[] })?;
        let after = self.lab.client.get(ARG, 24);
        assert_eq!(u32_at(&after, 4), 0, "flags");
        let word = |at: usize| u64::from_ne_bytes(after[at..at + 8].try_into().unwrap());
        Ok((word(8), word(16)))
    }
}

pub fn pair(first: impl Into<i64>, second: impl Into<i64>) -> Vec<u8> {
    [first.into(), second.into()].iter().flat_map(|number| number.to_ne_bytes()[..4].to_vec()).collect()
}

pub fn read_all(stream: &DataStream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match stream.serve_read(7).unwrap() {
            part if part.is_empty() => return all,
            part => all.extend(part),
        }
    }
}
