//! A device that writes down what it is asked to do, and a client with its file.

use crate::lab::*;
use devnode::{Ioctl, IoctlReply, OpenFile};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use vfio_container::testing::{Descriptor, FakeClient};
use vfio_container::{
    Client, DeviceFile, DeviceShape, Group, HandleFile, IrqAction, IrqChange, IrqData, IrqShape, RegionShape,
    VfioDevice,
};
use virtio_mdev_api::Refusal;
use virtio_mdev_api::dma::AddressSpace;

pub const DEVICE_GET_INFO: u32 = 0x3b6b;
pub const GET_REGION_INFO: u32 = 0x3b6c;
pub const GET_IRQ_INFO: u32 = 0x3b6d;
pub const SET_IRQS: u32 = 0x3b6e;
pub const RESET: u32 = 0x3b6f;
pub const FEATURE: u32 = 0x3b75;
pub const BIND: u32 = 0x3b76;
pub const HANDLE_GET_DEVICE: u32 = 0x4048_5510;

/// The client's descriptor of its group.
pub const GROUP_FD: i32 = 9;
pub const REGION_SIZE: u64 = 0x100;
pub const VECTORS: u32 = 4;

#[derive(Default)]
pub struct Deeds {
    pub calls: Vec<String>,
    pub irqs: Vec<IrqChange>,
    pub memory: Option<Arc<AddressSpace>>,
    /// What the next opening answers.
    pub busy: bool,
    /// Whom the group names as the holder, asked by the card when it is opened and closed.
    pub holders: Vec<Option<(i32, u32)>>,
    pub group: Weak<Group>,
}

/// Region 0 is memory, 1 is not there, 2 is write-only, 3 read-only; index 0 are vectors that cannot be resized, 1 a
/// line that can be masked, 2 is not there.
pub struct Card {
    pub deeds: Arc<Mutex<Deeds>>,
    pub resettable: bool,
    memory: Mutex<Vec<u8>>,
}

impl Card {
    pub fn new(deeds: Arc<Mutex<Deeds>>) -> Self {
        let memory = Mutex::new((0..u8::MAX).chain([0xff]).collect());
        Self { deeds, resettable: true, memory }
    }

    fn note_holder(&self) {
        let group = self.deeds.lock().group.clone();
        let holder = group.upgrade().and_then(|group| group.device_holder());
        self.deeds.lock().holders.push(holder);
    }

    fn did(&self, what: impl Into<String>) {
        self.deeds.lock().calls.push(what.into());
    }
}

impl VfioDevice for Card {
    fn shape(&self) -> DeviceShape {
        let region = |size, readable, writable| RegionShape { size, readable, writable };
        let irq = |count, flags| IrqShape { count, flags };
        DeviceShape {
            flags: 2,
            resettable: self.resettable,
            regions: vec![
                region(REGION_SIZE, true, true),
                region(0, false, false),
                region(REGION_SIZE, false, true),
                region(REGION_SIZE, true, false),
            ],
            irqs: vec![irq(VECTORS, 1 | 8), irq(1, 1 | 2 | 4), irq(0, 1)],
        }
    }

    fn open(&self) -> Result<(), Refusal> {
        self.did("open");
        self.note_holder();
        if self.deeds.lock().busy { Err(Refusal::new(Errno::EBUSY, "busy")) } else { Ok(()) }
    }

    fn close(&self) {
        self.did("close");
        self.note_holder();
    }

    fn set_memory(&self, memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        self.did(if memory.is_some() { "memory" } else { "no memory" });
        self.deeds.lock().memory = memory;
        Ok(())
    }

    fn read(&self, region: u32, offset: u64, out: &mut [u8]) -> Result<(), Refusal> {
        self.did(format!("read {region} {offset:#x}+{}", out.len()));
        let from = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.memory.lock()[from..from + out.len()]);
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.did(format!("write {region} {offset:#x}+{}", data.len()));
        let from = usize::try_from(offset).unwrap();
        self.memory.lock()[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn set_irqs(&self, change: IrqChange) -> Result<(), Refusal> {
        self.deeds.lock().irqs.push(change);
        Ok(())
    }

    fn reset(&self) -> Result<(), Refusal> {
        self.did("reset");
        Ok(())
    }

    fn ioctl(&self, _client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        self.did(format!("ioctl {:#x}", call.cmd));
        Ok(IoctlReply::value(7))
    }
}

/// A client with an attached group that has a card.
pub struct Table {
    pub lab: Lab,
    pub deeds: Arc<Mutex<Deeds>>,
}

impl Table {
    pub fn new() -> Self {
        Self::of(Lab::with_iommu(3))
    }

    pub fn of(lab: Lab) -> Self {
        let group = Arc::downgrade(&lab.group);
        let deeds = Arc::new(Mutex::new(Deeds { group, ..Deeds::default() }));
        lab.group.set_device(Arc::new(Card::new(Arc::clone(&deeds))));
        lab.client.install(GROUP_FD, Descriptor::Device(lab.file.clone()));
        Self { lab, deeds }
    }

    /// What the card was asked since the last time.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.deeds.lock().calls)
    }

    pub fn open(&self) -> Seat<'_> {
        Seat { client: self.lab.client.thread(), file: open_by(&self.lab.client, "uuid").unwrap(), table: self }
    }
}

/// An open device file.
pub struct Seat<'a> {
    pub client: FakeClient,
    pub file: Arc<DeviceFile>,
    pub table: &'a Table,
}

impl Seat<'_> {
    pub fn call(&self, cmd: u32, arg: u64) -> Result<i32, Errno> {
        self.call_of(&self.client, cmd, arg)
    }

    pub fn call_of(&self, client: &FakeClient, cmd: u32, arg: u64) -> Result<i32, Errno> {
        self.file.serve(client, &Ioctl { cmd, arg, input: &[] }).map(|reply| reply.value)
    }

    /// A call on a structure of these words: what is there afterwards.
    pub fn ask(&self, cmd: u32, words: &[u32]) -> Result<Vec<u32>, Errno> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.client.put(ARG, &bytes);
        self.call(cmd, ARG)?;
        let after = self.client.get(ARG, bytes.len());
        Ok((0..words.len()).map(|at| u32_at(&after, at * 4)).collect())
    }

    pub fn set_irqs(&self, flags: u32, index: u32, start: u32, count: u32, data: &[u8]) -> Result<(), Errno> {
        let argsz = 20 + u32::try_from(data.len()).unwrap();
        let head = [argsz, flags, index, start, count];
        let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(data);
        self.client.put(ARG, &bytes);
        self.call(SET_IRQS, ARG).map(drop)
    }

    pub fn last_irqs(&self) -> IrqChange {
        self.table.deeds.lock().irqs.pop().expect("the card was asked")
    }

    pub fn close(&self) {
        OpenFile::release(&*self.file);
    }
}

/// Which eventfds a change has, by whether they are there.
pub fn events(change: &IrqChange) -> Vec<bool> {
    match (&change.action, &change.data) {
        (IrqAction::Trigger, IrqData::EventFd(events)) => events.iter().map(Option::is_some).collect(),
        other => panic!("{other:?}"),
    }
}

pub fn get_device(fd: i32, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; 72];
    bytes[..4].copy_from_slice(&fd.to_ne_bytes());
    bytes[8..8 + name.len()].copy_from_slice(name.as_bytes());
    bytes
}

/// Makes an empty handle the device of the client's group.
pub fn open_by(client: &FakeClient, name: &str) -> Result<Arc<DeviceFile>, Errno> {
    let handle = HandleFile::default();
    become_device(&handle, client, &get_device(GROUP_FD, name))?;
    Ok(handle.device().expect("it is a device now"))
}

pub fn become_device(handle: &HandleFile, client: &FakeClient, input: &[u8]) -> Result<(), Errno> {
    handle.serve(client, &Ioctl { cmd: HANDLE_GET_DEVICE, arg: 0, input }).map(drop)
}

/// Whether the group can be opened: at once closed again.
pub fn is_free(group: &Arc<Group>) -> bool {
    let opened = group.clone().open_file();
    opened.map(|file| OpenFile::release(&*file)).is_ok()
}
