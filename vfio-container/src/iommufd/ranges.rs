//! IOMMU_IOAS_IOVA_RANGES and IOMMU_IOAS_ALLOW_IOVAS: which addresses can be used.

use super::context::Context;
use super::error::IommufdError;
use super::wire::{check_reserved, fetch, respond};
use crate::Client;
use crate::trace::Trace;
use nix::errno::Errno;
use std::mem::size_of;
use vfio_abi::iommufd::{IoasAllowIovas, IoasIovaRanges, IovaRange};
use zerocopy::{FromBytes, IntoBytes};

/// How many ranges may be allowed; the kernel stops where its memory ends.
const MAX_ALLOWED: u32 = 4096;

impl Context {
    /// IOMMU_IOAS_IOVA_RANGES. There is one range: devices restrict where it begins and ends.
    pub fn ioas_iova_ranges(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let asked: IoasIovaRanges = fetch(client, arg)?;
        trace.arg("ioas", asked.ioas_id);
        check_reserved(asked.reserved)?;
        let limits = self.ioas(asked.ioas_id)?.limits();
        let ranges = [IovaRange { start: limits.first, last: limits.last }];
        let room = usize::try_from(asked.num_iovas).unwrap_or(usize::MAX);
        if room >= ranges.len() {
            client.write(asked.allowed_iovas, ranges.as_bytes())?;
        }
        let answer = IoasIovaRanges {
            num_iovas: u32::try_from(ranges.len()).unwrap_or(u32::MAX),
            out_iova_alignment: limits.alignment().unwrap_or(0),
            ..asked
        };
        respond(client, arg, &answer)?;
        if room < ranges.len() {
            return Err(IommufdError::Room { given: ranges.len(), room: asked.num_iovas });
        }
        Ok(())
    }

    /// IOMMU_IOAS_ALLOW_IOVAS: mappings without a place of their own go there, from now on.
    pub fn ioas_allow_iovas(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let allow: IoasAllowIovas = fetch(client, arg)?;
        trace.arg("ioas", allow.ioas_id);
        trace.arg("ranges", allow.num_iovas);
        check_reserved(allow.reserved)?;
        let ioas = self.ioas(allow.ioas_id)?;
        let allowed = load(client, allow.allowed_iovas, allow.num_iovas)?;
        let limits = ioas.limits();
        if let Some(&(first, last)) = allowed.iter().find(|&&(first, last)| first < limits.first || last > limits.last)
        {
            return Err(IommufdError::OutOfReach { first, last });
        }
        ioas.lock().allow(allowed);
        Ok(())
    }
}

/// `count` ranges at `addr` of the client, none of which touches another, in order.
fn load(client: &dyn Client, addr: u64, count: u32) -> Result<Vec<(u64, u64)>, IommufdError> {
    if count > MAX_ALLOWED {
        return Err(IommufdError::TooManyRanges(count));
    }
    let count = usize::try_from(count).map_err(|_| Errno::ENOMEM)?;
    let mut bytes = vec![0; count * size_of::<IovaRange>()];
    client.read(addr, &mut bytes)?;
    let mut allowed = Vec::with_capacity(count);
    for bytes in bytes.chunks_exact(size_of::<IovaRange>()) {
        let IovaRange { start, last } = IovaRange::read_from_bytes(bytes).map_err(|_| Errno::EFAULT)?;
        if start >= last {
            return Err(IommufdError::Invalid { field: "an allowed range's first address", value: start });
        }
        allowed.push((start, last));
    }
    allowed.sort_unstable();
    match allowed.iter().zip(allowed.iter().skip(1)).find(|(one, next)| one.1 >= next.0) {
        Some((_, &(value, _))) => Err(IommufdError::Invalid { field: "an allowed range's first address", value }),
        None => Ok(allowed),
    }
}
