//! VFIO_DEVICE_FEATURE: what is asked of which feature.

use crate::Client;
use crate::door::Access;
use crate::error::VfioError;
use crate::migration::feature::{self as migration, FeatureCall};
use crate::trace::Trace;
use crate::wire::{check_flags, fetch};
use devnode::IoctlReply;
use std::mem::size_of;
use vfio_abi::DeviceFeature;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_MASK, VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_SET,
};

const GET: u32 = VFIO_DEVICE_FEATURE_GET;
const SET: u32 = VFIO_DEVICE_FEATURE_SET;
const PROBE: u32 = VFIO_DEVICE_FEATURE_PROBE;

/// One call.
pub(crate) fn serve(
    access: &Access,
    client: &dyn Client,
    arg: u64,
    trace: &mut Trace,
) -> Result<IoctlReply, VfioError> {
    let header: DeviceFeature = fetch(client, arg, size_of::<DeviceFeature>())?;
    let feature = header.flags & VFIO_DEVICE_FEATURE_MASK;
    trace.arg("feature", feature);
    trace.arg("flags", header.flags & !VFIO_DEVICE_FEATURE_MASK);
    let allowed = VFIO_DEVICE_FEATURE_MASK | GET | SET | PROBE;
    check_flags(header.flags, allowed)?;
    // Both can be asked for, but not done, at once.
    if header.flags & (GET | SET | PROBE) == GET | SET {
        return Err(VfioError::Flags { flags: header.flags, allowed });
    }
    migration::serve(access, &FeatureCall { client, header, arg }, trace)
}
