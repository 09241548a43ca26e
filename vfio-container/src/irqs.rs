//! VFIO_DEVICE_SET_IRQS: decoded and checked for every device alike.

use crate::device_info::at;
use crate::door::Access;
use crate::error::VfioError;
use crate::trace::Trace;
use crate::wire::{check_flags, fetch};
use crate::{Client, IrqAction, IrqChange, IrqData, IrqShape, call};
use devnode::IoctlReply;
use nix::errno::Errno;
use std::mem::size_of;
use vfio_abi::IrqSet;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_MASKABLE, VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_TYPE_MASK, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_DATA_TYPE_MASK,
};

/// One call. Nothing of it is done unless all of it is right: every descriptor is looked at first.
pub(crate) fn set(client: &dyn Client, access: &Access, arg: u64, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
    let set: IrqSet = fetch(client, arg, size_of::<IrqSet>())?;
    trace.arg("index", set.index);
    trace.arg("start", set.start);
    trace.arg("count", set.count);
    trace.arg("flags", set.flags);
    let irq = at(&access.supplied.shape.irqs, set.index)?;
    check_range(&set, irq)?;
    let action = action(&set)?;
    let maskable = irq.flags & VFIO_IRQ_INFO_MASKABLE != 0;
    if action != IrqAction::Trigger && !maskable {
        return Err(VfioError::NotMaskable { index: set.index });
    }
    access.check_home(client)?;
    let data = data(client, arg, &set, trace)?;
    let resizes = check_size(access, &set, irq, action, &data)?;
    let IrqSet { index, start, .. } = set;
    access.supplied.device.set_irqs(IrqChange { index, start, action, data })?;
    if let Some(enabled) = resizes {
        access.supplied.set_enabled(usize::try_from(index).unwrap_or(usize::MAX), enabled);
    }
    Ok(IoctlReply::ok())
}

fn check_range(set: &IrqSet, irq: &IrqShape) -> Result<(), VfioError> {
    let &IrqSet { flags, start, count, .. } = set;
    check_flags(flags, VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK)?;
    match start.checked_add(count) {
        Some(end) if start < irq.count && end <= irq.count => Ok(()),
        _ => Err(VfioError::IrqRange { start, count, of: irq.count }),
    }
}

fn action(set: &IrqSet) -> Result<IrqAction, VfioError> {
    match set.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK {
        VFIO_IRQ_SET_ACTION_MASK => Ok(IrqAction::Mask),
        VFIO_IRQ_SET_ACTION_UNMASK => Ok(IrqAction::Unmask),
        VFIO_IRQ_SET_ACTION_TRIGGER => Ok(IrqAction::Trigger),
        _ => Err(VfioError::Flags { flags: set.flags, allowed: VFIO_IRQ_SET_ACTION_TYPE_MASK }),
    }
}

/// Looks into the client, whose structure says by its size that the data is there. There is no more of it than the index
/// has interrupts.
fn data(client: &dyn Client, arg: u64, set: &IrqSet, trace: &mut Trace) -> Result<IrqData, VfioError> {
    let bytes = |each: usize| -> Result<Vec<u8>, VfioError> {
        let len = usize::try_from(set.count).ok().and_then(|count| count.checked_mul(each));
        let need = len.and_then(|len| u32::try_from(len.checked_add(size_of::<IrqSet>())?).ok()).unwrap_or(u32::MAX);
        if set.argsz < need {
            return Err(VfioError::Argsz { argsz: set.argsz, need });
        }
        let mut bytes = vec![0; len.unwrap_or(0)];
        client.read(arg.checked_add(size_of::<IrqSet>() as u64).ok_or(Errno::EFAULT)?, &mut bytes)?;
        Ok(bytes)
    };
    match set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK {
        VFIO_IRQ_SET_DATA_NONE => Ok(IrqData::None(set.count)),
        VFIO_IRQ_SET_DATA_BOOL => Ok(IrqData::Bool(bytes(1)?.into_iter().map(|byte| byte != 0).collect())),
        VFIO_IRQ_SET_DATA_EVENTFD => {
            let bytes = bytes(size_of::<i32>())?;
            let (numbers, _) = bytes.as_chunks();
            let events = numbers.iter().map(|&number| call::eventfd(client, i32::from_ne_bytes(number), trace));
            Ok(IrqData::EventFd(events.collect::<Result<_, _>>()?))
        }
        _ => Err(VfioError::Flags { flags: set.flags, allowed: VFIO_IRQ_SET_DATA_TYPE_MASK }),
    }
}

/// An index that cannot be resized has as many interrupts as were set up first, until it is taken down. How many there
/// are after this call, if that changes.
fn check_size(
    access: &Access,
    set: &IrqSet,
    irq: &IrqShape,
    action: IrqAction,
    data: &IrqData,
) -> Result<Option<u32>, VfioError> {
    if irq.flags & VFIO_IRQ_INFO_NORESIZE == 0 || action != IrqAction::Trigger {
        return Ok(None);
    }
    let enabled = access.supplied.enabled(usize::try_from(set.index).unwrap_or(usize::MAX));
    let end = set.start.saturating_add(set.count);
    match data {
        IrqData::None(0) => Ok(Some(0)),
        IrqData::EventFd(_) if enabled == 0 => Ok(Some(end)),
        IrqData::EventFd(_) if end > enabled => Err(VfioError::NoResize { index: set.index, enabled }),
        _ => Ok(None),
    }
}
