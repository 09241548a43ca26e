//! A client with a container and groups.

use devnode::{Ioctl, IoctlReply, OpenFile};
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::testing::{BASE, Descriptor, FakeClient};
use vfio_container::{ContainerFile, Group, GroupFile};
use virtio_mdev_api::dirty::{DirtyRecord, WriterGuard};
use virtio_mdev_api::dma::{AddressSpace, Reader};

pub const GET_API_VERSION: u32 = 0x3b64;
pub const CHECK_EXTENSION: u32 = 0x3b65;
pub const SET_IOMMU: u32 = 0x3b66;
pub const GET_STATUS: u32 = 0x3b67;
pub const SET_CONTAINER: u32 = 0x3b68;
pub const UNSET_CONTAINER: u32 = 0x3b69;
pub const GET_DEVICE_FD: u32 = 0x3b6a;
pub const GET_INFO: u32 = 0x3b70;
pub const MAP_DMA: u32 = 0x3b71;
pub const UNMAP_DMA: u32 = 0x3b72;
pub const DIRTY_PAGES: u32 = 0x3b75;

/// The client's descriptor of its container.
pub const CONTAINER_FD: i32 = 7;
/// Where the client puts the arguments of its calls; what it maps is above.
pub const ARG: u64 = BASE;
/// Memory to map.
pub const RAM: u64 = BASE + 0x1_0000;

/// Where the client keeps a bitmap.
pub const BITMAP: u64 = BASE + 0x1000;
pub const BITMAP_LEN: usize = 64;

pub const START: u32 = 1;
pub const STOP: u32 = 2;
pub const GET: u32 = 4;

pub const READ: u32 = 1;
pub const WRITE: u32 = 2;

fn call(cmd: u32, arg: u64) -> Ioctl<'static> {
    Ioctl { cmd, arg, input: &[] }
}

pub struct Lab {
    pub client: FakeClient,
    pub container: Arc<ContainerFile>,
    pub group: Arc<Group>,
    pub file: Arc<GroupFile>,
}

impl Lab {
    /// A client with a container and an open group, not attached.
    pub fn apart(client: FakeClient) -> Self {
        let container = Arc::new(ContainerFile::new());
        client.install(CONTAINER_FD, Descriptor::Device(container.clone()));
        let group = Group::new(1 << 20, "uuid".into());
        let file = group.clone().open_file().unwrap();
        Self { client, container, group, file }
    }

    /// The group attached, the IOMMU of the given type set.
    pub fn with_iommu(kind: u64) -> Self {
        Self::set_up(FakeClient::new(1), kind)
    }

    pub fn set_up(client: FakeClient, kind: u64) -> Self {
        let lab = Self::apart(client);
        lab.attach(&lab.file).unwrap();
        lab.on_container(SET_IOMMU, kind).unwrap();
        lab
    }

    pub fn attach(&self, file: &GroupFile) -> Result<IoctlReply, Errno> {
        self.client.put(ARG, &CONTAINER_FD.to_ne_bytes());
        file.serve(&self.client, &call(SET_CONTAINER, ARG))
    }

    pub fn on_container(&self, cmd: u32, arg: u64) -> Result<i32, Errno> {
        self.container.serve(&self.client, &call(cmd, arg)).map(|reply| reply.value)
    }

    pub fn on_group(&self, cmd: u32, arg: u64) -> Result<i32, Errno> {
        self.file.serve(&self.client, &call(cmd, arg)).map(|reply| reply.value)
    }

    pub fn map(&self, flags: u32, vaddr: u64, iova: u64, size: u64) -> Result<i32, Errno> {
        self.client.put(ARG, &words(32, flags, &[vaddr, iova, size]));
        self.on_container(MAP_DMA, ARG)
    }

    /// What UNMAP_DMA says it unmapped.
    pub fn unmap(&self, flags: u32, iova: u64, size: u64) -> Result<u64, Errno> {
        self.client.put(ARG, &words(24, flags, &[iova, size]));
        self.on_container(UNMAP_DMA, ARG)?;
        Ok(u64::from_ne_bytes(self.client.get(ARG + 16, 8).try_into().unwrap()))
    }

    pub fn dirty_pages(&self, flags: u32) -> Result<i32, Errno> {
        self.client.put(ARG, &words(8, flags, &[]));
        self.on_container(DIRTY_PAGES, ARG)
    }

    /// Asks for a bitmap of `size` bytes at `data`.
    pub fn get_dirty_at(&self, iova: u64, len: u64, data: u64, size: u64) -> Result<(), Errno> {
        self.client.put(ARG, &words(48, GET, &[iova, len, 0x1000, size, data]));
        self.on_container(DIRTY_PAGES, ARG).map(drop)
    }

    /// The pages that were written, by their place in the range.
    pub fn get_dirty(&self, iova: u64, len: u64) -> Result<Vec<u64>, Errno> {
        self.client.put(BITMAP, &[0; BITMAP_LEN]);
        self.get_dirty_at(iova, len, BITMAP, BITMAP_LEN as u64)?;
        Ok(self.bits())
    }

    /// The bytes that were unmapped and the pages that were written, by their place in the range.
    pub fn unmap_dirty(&self, iova: u64, len: u64) -> Result<(u64, Vec<u64>), Errno> {
        self.client.put(BITMAP, &[0; BITMAP_LEN]);
        let bytes = self.unmap_dirty_at(iova, len, BITMAP)?;
        Ok((bytes, self.bits()))
    }

    pub fn unmap_dirty_at(&self, iova: u64, len: u64, data: u64) -> Result<u64, Errno> {
        self.client.put(ARG, &words(48, 1, &[iova, len, 0x1000, BITMAP_LEN as u64, data]));
        self.on_container(UNMAP_DMA, ARG)?;
        Ok(u64::from_ne_bytes(self.client.get(ARG + 16, 8).try_into().unwrap()))
    }

    fn bits(&self) -> Vec<u64> {
        let bytes = self.client.get(BITMAP, BITMAP_LEN);
        let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        (0..).zip(bits).filter_map(|(at, is_set)| is_set.then_some(at)).collect()
    }

    /// Address and length of all regions.
    pub fn regions(&self) -> Vec<(u64, u64)> {
        let space = self.group.space_for(&self.client).expect("the client attached the group");
        space.regions().iter().map(|region| (region.iova, region.len)).collect()
    }

    pub fn release(&self) {
        OpenFile::release(&*self.file);
    }
}

/// `argsz`, `flags` and words.
pub fn words(argsz: u32, flags: u32, words: &[u64]) -> Vec<u8> {
    let mut bytes = [argsz.to_ne_bytes(), flags.to_ne_bytes()].concat();
    words.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
    bytes
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A device that writes to the memory of a container and says so.
pub struct Device {
    pub record: Arc<DirtyRecord>,
    pub reader: Reader,
    /// Whether it says so.
    pub marks: bool,
    _writer: WriterGuard,
}

impl Device {
    pub fn of(lab: &Lab) -> Self {
        Self::in_space(&lab.group.space_for(&lab.client).expect("the client attached the group"))
    }

    pub fn in_space(space: &Arc<AddressSpace>) -> Self {
        let record = DirtyRecord::new();
        let writer = space.writers().join(&record);
        let reader = space.reader("device", Arc::new(|_: &str| {}));
        Self { record, reader, marks: true, _writer: writer }
    }

    /// Writes, if the memory is there.
    pub fn write(&mut self, iova: u64, data: &[u8]) -> bool {
        let burst = self.reader.enter();
        let written = burst.view().write(iova, data).is_ok();
        if written && self.marks {
            self.record.mark(iova, data.len() as u64);
        }
        written
    }
}
