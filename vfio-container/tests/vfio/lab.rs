//! A client with a container and groups.

use devnode::{Ioctl, IoctlReply, OpenFile};
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::testing::{BASE, Descriptor, FakeClient};
use vfio_container::{ContainerFile, Group, GroupFile};

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
