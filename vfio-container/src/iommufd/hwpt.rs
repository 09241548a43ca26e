//! Calls about page tables in hardware. An emulated device has none, so their arguments are looked at as the kernel does, and
//! the object that they name is not found.

use super::error::IommufdError;
use super::wire::{check_flags, check_reserved, fetch_bytes, not_offered};
use crate::Client;
use vfio_abi::iommufd::*;

/// The longest structure here.
const LONGEST: usize = 56;

/// What is common to the arguments of these calls. Fields are 32 bits wide and given by their offset.
struct Shape {
    /// Bytes that the caller must have.
    need: usize,
    /// Bytes that are known.
    known: usize,
    /// The flags, and which there are.
    flags: Option<(usize, u32)>,
    /// Zero.
    reserved: Option<usize>,
    /// A type, of which 0 is none.
    kind: Option<usize>,
    /// The object that must be there first.
    object: usize,
}

fn shape(cmd: u32) -> Option<Shape> {
    let base = Shape { need: 0, known: 0, flags: None, reserved: None, kind: None, object: 0 };
    Some(match cmd {
        IOMMU_HWPT_ALLOC => Shape { need: 24, known: 56, reserved: Some(20), object: 8, ..base },
        IOMMU_GET_HW_INFO => Shape { need: 32, known: 40, flags: Some((4, 0)), reserved: Some(28), object: 8, ..base },
        IOMMU_HWPT_SET_DIRTY_TRACKING => Shape { need: 16, known: 16, flags: Some((4, 1)), object: 8, ..base },
        IOMMU_HWPT_GET_DIRTY_BITMAP => {
            Shape { need: 48, known: 48, flags: Some((8, 1)), reserved: Some(12), object: 4, ..base }
        }
        IOMMU_HWPT_INVALIDATE => Shape { need: 32, known: 32, reserved: Some(28), object: 4, ..base },
        IOMMU_VIOMMU_ALLOC => Shape { need: 24, known: 40, flags: Some((4, 0)), kind: Some(8), object: 12, ..base },
        IOMMU_VDEVICE_ALLOC => Shape { need: 24, known: 24, object: 4, ..base },
        IOMMU_VEVENTQ_ALLOC => {
            Shape { need: 32, known: 32, flags: Some((4, 0)), reserved: Some(28), kind: Some(12), object: 8 }
        }
        IOMMU_HW_QUEUE_ALLOC => Shape { need: 40, known: 40, flags: Some((4, 0)), kind: Some(12), object: 8, ..base },
        _ => return None,
    })
}

/// Why call `cmd` is refused.
pub(super) fn refuse(client: &dyn Client, cmd: u32, arg: u64) -> IommufdError {
    let name = vfio_abi::iommufd::name(cmd);
    match shape(cmd) {
        Some(shape) => shape.refuse(client, arg).unwrap_or_else(|error| error),
        None => name.map_or(IommufdError::Unknown(cmd), IommufdError::NoHardware),
    }
}

impl Shape {
    fn refuse(&self, client: &dyn Client, arg: u64) -> Result<IommufdError, IommufdError> {
        let mut bytes = [0; LONGEST];
        fetch_bytes(client, arg, self.need, &mut bytes[..self.known])?;
        let field = |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        if let Some((at, allowed)) = self.flags {
            check_flags(field(at), allowed)?;
        }
        if let Some(at) = self.reserved {
            check_reserved(field(at))?;
        }
        if self.kind.is_some_and(|at| field(at) == 0) {
            return Err(not_offered("the type", 0u32));
        }
        Ok(IommufdError::NoSuchObject(field(self.object)))
    }
}
