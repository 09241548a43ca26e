//! A client with an iommufd.

use devnode::{Ioctl, OpenFile};
use nix::errno::Errno;
use std::sync::Arc;
use vfio_container::iommufd::{IommuFile, IommuNode};
use vfio_container::testing::{BASE, Descriptor, FakeClient};

pub const DESTROY: u32 = 0x3b80;
pub const IOAS_ALLOC: u32 = 0x3b81;
pub const IOAS_ALLOW_IOVAS: u32 = 0x3b82;
pub const IOAS_COPY: u32 = 0x3b83;
pub const IOAS_IOVA_RANGES: u32 = 0x3b84;
pub const IOAS_MAP: u32 = 0x3b85;
pub const IOAS_UNMAP: u32 = 0x3b86;
pub const OPTION: u32 = 0x3b87;
pub const VFIO_IOAS: u32 = 0x3b88;
pub const MAP_FILE: u32 = 0x3b8f;

pub const FIXED: u32 = 1;
pub const WRITE: u32 = 2;
pub const READ: u32 = 4;
pub const RW: u32 = READ | WRITE;

/// The client's descriptor of its iommufd.
pub const IOMMU_FD: i32 = 8;
/// Where the client puts the arguments of its calls.
pub const ARG: u64 = BASE;
/// Where it has arrays.
pub const ARRAY: u64 = BASE + 0x1000;
/// Memory to map.
pub const RAM: u64 = BASE + 0x1_0000;
pub const PAGE: u64 = 0x1000;

pub struct Lab {
    pub client: FakeClient,
    pub node: Arc<IommuNode>,
    pub file: Arc<IommuFile>,
}

/// Fields of a structure.
#[derive(Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    /// With its size in front.
    pub fn sized(self) -> Vec<u8> {
        let size = u32::try_from(self.0.len() + 4).unwrap();
        [&size.to_ne_bytes()[..], &self.0].concat()
    }
}

impl Lab {
    pub fn new() -> Self {
        Self::of(FakeClient::new(1))
    }

    pub fn of(client: FakeClient) -> Self {
        let node = Arc::new(IommuNode::new());
        let file = node.open_file(&client).unwrap();
        client.install(IOMMU_FD, Descriptor::Device(file.clone()));
        Self { client, node, file }
    }

    pub fn call(&self, cmd: u32, arg: u64) -> Result<i32, Errno> {
        self.call_as(&self.client, cmd, arg)
    }

    pub fn call_as(&self, client: &FakeClient, cmd: u32, arg: u64) -> Result<i32, Errno> {
        self.file.serve(client, &Ioctl { cmd, arg, input: &[] }).map(|reply| reply.value)
    }

    /// With a structure.
    pub fn with(&self, cmd: u32, structure: &[u8]) -> Result<(), Errno> {
        self.client.put(ARG, structure);
        self.call(cmd, ARG).map(drop)
    }

    pub fn u32_at(&self, addr: u64) -> u32 {
        u32::from_ne_bytes(self.client.get(addr, 4).try_into().unwrap())
    }

    pub fn u64_at(&self, addr: u64) -> u64 {
        u64::from_ne_bytes(self.client.get(addr, 8).try_into().unwrap())
    }

    pub fn alloc(&self) -> u32 {
        self.with(IOAS_ALLOC, &Fields::default().u32(0).u32(0).sized()).unwrap();
        self.u32_at(ARG + 8)
    }

    pub fn destroy(&self, id: u32) -> Result<(), Errno> {
        self.with(DESTROY, &Fields::default().u32(id).sized())
    }

    /// Where it was mapped.
    pub fn map(&self, ioas: u32, flags: u32, va: u64, iova: u64, length: u64) -> Result<u64, Errno> {
        self.with(IOAS_MAP, &Fields::default().u32(flags).u32(ioas).u32(0).u64(va).u64(length).u64(iova).sized())?;
        Ok(self.u64_at(ARG + 32))
    }

    /// Where the copy is; `from` and `to` are an IOAS and an address.
    pub fn copy(&self, flags: u32, from: (u32, u64), to: (u32, u64), length: u64) -> Result<u64, Errno> {
        let fields = Fields::default().u32(flags).u32(to.0).u32(from.0).u64(length).u64(to.1).u64(from.1);
        self.with(IOAS_COPY, &fields.sized())?;
        Ok(self.u64_at(ARG + 24))
    }

    /// What was unmapped.
    pub fn unmap(&self, ioas: u32, iova: u64, length: u64) -> Result<u64, Errno> {
        self.with(IOAS_UNMAP, &Fields::default().u32(ioas).u64(iova).u64(length).sized())?;
        Ok(self.u64_at(ARG + 16))
    }

    pub fn unmap_all(&self, ioas: u32) -> u64 {
        self.unmap(ioas, 0, u64::MAX).unwrap()
    }

    pub fn allow(&self, ioas: u32, ranges: &[(u64, u64)]) -> Result<(), Errno> {
        let bytes: Vec<u8> = ranges.iter().flat_map(|range| [range.0, range.1]).flat_map(u64::to_ne_bytes).collect();
        self.client.put(ARRAY, &bytes);
        let count = u32::try_from(ranges.len()).unwrap();
        self.with(IOAS_ALLOW_IOVAS, &Fields::default().u32(ioas).u32(count).u32(0).u64(ARRAY).sized())
    }

    pub fn option(&self, option: u32, op: u32, object: u32, value: u64) -> Result<u64, Errno> {
        self.with(OPTION, &Fields::default().u32(option).u32(op).u32(object).u64(value).sized())?;
        Ok(self.u64_at(ARG + 16))
    }

    pub fn vfio_ioas(&self, op: u32, id: u32) -> Result<u32, Errno> {
        self.with(VFIO_IOAS, &Fields::default().u32(id).u32(op).sized())?;
        Ok(self.u32_at(ARG + 4))
    }

    pub fn close(&self) {
        OpenFile::release(&*self.file);
    }
}
