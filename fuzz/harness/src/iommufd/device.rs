//! An instance whose device has a file of its own.

use super::{ARG, IOMMU};
use crate::assert_errno;
use devnode::{Ioctl, OpenFile};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::Arc;
use vfio_container::testing::FakeClient;
use vfio_container::{CdevNode, DeviceFile, DeviceShape, Group, GroupFile, IrqChange, VfioDevice};
use virtio_mdev_api::Refusal;
use virtio_mdev_api::dma::AddressSpace;

const BIND: u32 = 0x3b76;
const ATTACH: u32 = 0x3b77;
const DETACH: u32 = 0x3b78;

/// A device that has memory and nothing else.
#[derive(Default)]
struct Memory(Mutex<Option<Arc<AddressSpace>>>);

impl VfioDevice for Memory {
    fn shape(&self) -> DeviceShape {
        DeviceShape::default()
    }

    fn open(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn close(&self) {}

    fn set_memory(&self, memory: Option<Arc<AddressSpace>>) -> Result<(), Refusal> {
        *self.0.lock() = memory;
        Ok(())
    }

    fn read(&self, _region: u32, _offset: u64, _out: &mut [u8]) -> Result<(), Refusal> {
        unreachable!("there is no region")
    }

    fn write(&self, _region: u32, _offset: u64, _data: &[u8]) -> Result<(), Refusal> {
        unreachable!("there is no region")
    }

    fn set_irqs(&self, _change: IrqChange) -> Result<(), Refusal> {
        unreachable!("there is no interrupt")
    }

    fn reset(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// An instance: what it is, and what the model knows of it.
pub struct Instance {
    group: Arc<Group>,
    node: CdevNode,
    memory: Arc<Memory>,
    file: Option<Arc<DeviceFile>>,
    group_file: Option<Arc<GroupFile>>,
    /// Its number in the context, and who bound it.
    bound: Option<(u32, usize)>,
    attached: Option<u32>,
}

impl Instance {
    pub fn new(number: u32) -> Self {
        let group = Group::new((1 << 20) + number, format!("instance{number}"));
        let memory = Arc::new(Memory::default());
        group.set_device(memory.clone());
        let node = CdevNode::new(group.clone());
        Self { group, node, memory, file: None, group_file: None, bound: None, attached: None }
    }

    pub fn devid(&self) -> Option<u32> {
        self.bound.map(|(devid, _)| devid)
    }

    pub fn attached(&self) -> Option<u32> {
        self.attached
    }

    /// First and last address of what its device sees; `None` when it has no memory.
    pub fn sees(&self) -> Option<Vec<(u64, u64)>> {
        let memory = self.memory.0.lock().clone()?;
        Some(memory.regions().iter().map(|region| (region.iova, region.last())).collect())
    }

    /// What `client`, the `now`th, does with it; `id` is the number of an IOAS or of nothing.
    pub fn step(&mut self, client: &FakeClient, now: usize, deed: u8, id: u32, is_ioas: bool) {
        match deed % 8 {
            0 => match self.group_file.take() {
                Some(file) => OpenFile::release(&*file),
                None => {
                    let opened = self.group.clone().open_file();
                    assert_eq!(opened.is_ok(), self.bound.is_none(), "a group and its device exclude each other");
                    self.group_file = opened.ok();
                }
            },
            1 => self.close(),
            2 | 3 => self.bind(client, now),
            4 | 5 => self.attach(client, now, id, is_ioas),
            6 => {
                if let Some(made) = self.call(client, DETACH, &[8, 0]) {
                    assert_eq!(made.is_ok(), self.bound.is_some_and(|(_, home)| home == now), "{made:?}");
                    self.attached = self.attached.filter(|_| made.is_err());
                }
            }
            _ => drop(self.call(client, [BIND, ATTACH, DETACH][usize::from(deed) % 3], &[deed.into(), 2])),
        }
    }

    fn call(&self, client: &FakeClient, cmd: u32, words: &[u32]) -> Option<Result<(), Errno>> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        client.put(ARG, &bytes);
        let answer = self.file.as_ref()?.serve(client, &Ioctl { cmd, arg: ARG, input: &[] });
        if let Err(errno) = &answer {
            assert_errno(*errno, format_args!("{cmd:#x}"));
        }
        Some(answer.map(drop))
    }

    fn bind(&mut self, client: &FakeClient, now: usize) {
        self.file.get_or_insert_with(|| self.node.open_file());
        let made = self.call(client, BIND, &[16, 0, IOMMU.cast_unsigned(), 0]);
        let expected = match (self.bound, &self.group_file) {
            (Some(_), _) => Err(Errno::EINVAL),
            (None, Some(_)) => Err(Errno::EBUSY),
            (None, None) => Ok(()),
        };
        assert_eq!(made, Some(expected), "bind");
        if expected.is_ok() {
            let devid = u32::from_ne_bytes(client.get(ARG + 12, 4).try_into().expect("4 bytes"));
            self.bound = Some((devid, now));
        }
    }

    fn attach(&mut self, client: &FakeClient, now: usize, id: u32, is_ioas: bool) {
        let Some(made) = self.call(client, ATTACH, &[12, 0, id]) else { return };
        let expected = match self.bound {
            None => Err(Errno::EINVAL),
            Some((_, home)) if home != now => Err(Errno::EPERM),
            Some(_) if !is_ioas => Err(Errno::ENOENT),
            Some(_) => Ok(()),
        };
        assert_eq!(made, expected, "attach to {id}");
        if made.is_ok() {
            self.attached = Some(id);
        }
    }

    /// Closes the device's file.
    pub fn close(&mut self) {
        if let Some(file) = self.file.take() {
            OpenFile::release(&*file);
        }
        (self.bound, self.attached) = (None, None);
    }
}
