//! The features of a device (VFIO_DEVICE_FEATURE) that are about migration.

use super::machine::{ABILITIES, Machine};
use crate::Client;
use crate::door::Access;
use crate::error::VfioError;
use crate::trace::Trace;
use crate::usage::Supplied;
use devnode::IoctlReply;
use nix::errno::Errno;
use std::mem::size_of;
use std::sync::Arc;
use vfio_abi::DeviceFeature;
use vfio_abi::migration::{LoggingControl, LoggingReport, MigrationDataSize, MigrationFlags, MigrationState};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_MASK,
    VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, VFIO_DEVICE_FEATURE_MIGRATION,
    VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_SET,
};
use virtio_mdev_api::dirty::DirtyRecord;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const GET: u32 = VFIO_DEVICE_FEATURE_GET;
const SET: u32 = VFIO_DEVICE_FEATURE_SET;

/// A call, whose header is right.
pub(crate) struct FeatureCall<'a> {
    pub client: &'a dyn Client,
    pub header: DeviceFeature,
    /// Where the argument is.
    pub arg: u64,
}

/// Serves `call`; ENOTTY when it is about something else, or the device has nothing of it.
pub(crate) fn serve(access: &Access, call: &FeatureCall<'_>, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
    let supplied = &access.supplied;
    match call.header.flags & VFIO_DEVICE_FEATURE_MASK {
        VFIO_DEVICE_FEATURE_MIGRATION => {
            call.migratable(supplied)?;
            call.answer(MigrationFlags { flags: ABILITIES.into() })
        }
        VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE => device_state(access, call, trace),
        VFIO_DEVICE_FEATURE_MIG_DATA_SIZE => {
            let stop_copy_length = Machine::data_size(call.migratable(supplied)?);
            call.answer(MigrationDataSize { stop_copy_length })
        }
        VFIO_DEVICE_FEATURE_DMA_LOGGING_START => {
            let record = call.record(supplied)?;
            if !call.does(SET, size_of::<LoggingControl>())? {
                return Ok(IoctlReply::ok());
            }
            access.check_home(call.client)?;
            let control: LoggingControl = call.argument()?;
            trace.arg("ranges", control.num_ranges);
            let page_size = supplied.log.start(call.client, &control, record)?;
            let told = call.tell(LoggingControl { page_size, ..control });
            if told.is_err() {
                supplied.log.stop();
            }
            told
        }
        VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP => {
            call.record(supplied)?;
            if call.does(SET, 0)? {
                access.check_home(call.client)?;
                supplied.log.stop();
            }
            Ok(IoctlReply::ok())
        }
        VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT => {
            call.record(supplied)?;
            if call.does(GET, size_of::<LoggingReport>())? {
                access.check_home(call.client)?;
                let report: LoggingReport = call.argument()?;
                trace.arg("iova", report.iova);
                trace.arg("length", report.length);
                supplied.log.report(call.client, &report)?;
            }
            Ok(IoctlReply::ok())
        }
        feature => Err(VfioError::NoSuchFeature(feature)),
    }
}

fn device_state(access: &Access, call: &FeatureCall<'_>, trace: &mut Trace) -> Result<IoctlReply, VfioError> {
    let supplied = &access.supplied;
    call.migratable(supplied)?;
    if !call.does(GET | SET, size_of::<MigrationState>())? {
        return Ok(IoctlReply::ok());
    }
    if call.header.flags & GET != 0 {
        let state = supplied.machine.state().number();
        return call.tell(MigrationState { state, data_fd: -1 });
    }
    access.check_home(call.client)?;
    let MigrationState { state, .. } = call.argument()?;
    trace.arg("state", state);
    let changed = supplied.machine.set(&supplied.device, state, false);
    // As in the kernel there is no descriptor whatever became of it.
    let told = call.tell(MigrationState { state, data_fd: -1 });
    changed?;
    told
}

impl<'a> FeatureCall<'a> {
    fn feature(&self) -> u32 {
        self.header.flags & VFIO_DEVICE_FEATURE_MASK
    }

    fn migratable<'s>(&self, supplied: &'s Supplied) -> Result<&'s dyn crate::Migratable, VfioError> {
        supplied.device.migration().ok_or(VfioError::NoSuchFeature(self.feature()))
    }

    fn record<'s>(&self, supplied: &'s Supplied) -> Result<&'s Arc<DirtyRecord>, VfioError> {
        supplied.device.dirty().ok_or(VfioError::NoSuchFeature(self.feature()))
    }

    /// Whether it is to be done, for which its argument has `size` bytes; else the caller asks only whether `ops` are there.
    fn does(&self, ops: u32, size: usize) -> Result<bool, VfioError> {
        let DeviceFeature { argsz, flags } = self.header;
        let refused = VfioError::Flags { flags, allowed: ops };
        if flags & (GET | SET) & !ops != 0 {
            return Err(refused);
        }
        if flags & VFIO_DEVICE_FEATURE_PROBE != 0 {
            return Ok(false);
        }
        if flags & (GET | SET) == 0 {
            return Err(refused);
        }
        let need = u32::try_from(size_of::<DeviceFeature>() + size).unwrap_or(u32::MAX);
        if argsz < need { Err(VfioError::Argsz { argsz, need }) } else { Ok(true) }
    }

    fn argument<T: FromBytes + FromZeros + IntoBytes + KnownLayout + Immutable>(&self) -> Result<T, VfioError> {
        let mut value = T::new_zeroed();
        self.client.read(self.data()?, value.as_mut_bytes())?;
        Ok(value)
    }

    fn data(&self) -> Result<u64, VfioError> {
        Ok(self.arg.checked_add(size_of::<DeviceFeature>() as u64).ok_or(Errno::EFAULT)?)
    }

    fn tell(&self, value: impl IntoBytes + Immutable) -> Result<IoctlReply, VfioError> {
        self.client.write(self.data()?, value.as_bytes())?;
        Ok(IoctlReply::ok())
    }

    /// A feature that can only be asked for.
    fn answer<T: IntoBytes + Immutable>(&self, value: T) -> Result<IoctlReply, VfioError> {
        if self.does(GET, size_of::<T>())? { self.tell(value) } else { Ok(IoctlReply::ok()) }
    }
}
