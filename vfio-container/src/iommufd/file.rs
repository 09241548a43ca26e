//! An open `/dev/iommu`.

use super::context::Context;
use super::error::IommufdError;
use super::hwpt;
use crate::Client;
use crate::trace::Trace;
use devnode::{Caller, Ioctl, IoctlReply, OpenFile};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::sync::Arc;
use vfio_abi::iommufd::*;

/// An open iommufd.
pub struct IommuFile {
    /// `None` once it is closed.
    context: Mutex<Option<Arc<Context>>>,
}

impl IommuFile {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context: Mutex::new(Some(context)) }
    }

    pub(super) fn context(&self) -> Result<Arc<Context>, IommufdError> {
        self.context.lock().clone().ok_or(IommufdError::Closed)
    }

    /// Serves an ioctl of `client`.
    pub fn serve(&self, client: &dyn Client, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        let context = self.context();
        let mut trace = Trace::begin(context.as_ref().map_or_else(|_| Vec::new(), |context| context.listeners()));
        let name = vfio_abi::iommufd::name(call.cmd).unwrap_or("unknown");
        let outcome = context.and_then(|context| dispatch(&context, client, call, &mut trace));
        trace.answer(client, "iommu", name, outcome.map(|()| IoctlReply::ok()))
    }
}

type Serve = fn(&Context, &dyn Client, u64, &mut Trace) -> Result<(), IommufdError>;

fn dispatch(context: &Context, client: &dyn Client, call: &Ioctl<'_>, trace: &mut Trace) -> Result<(), IommufdError> {
    let serve: Serve = match call.cmd {
        IOMMU_DESTROY => Context::destroy,
        IOMMU_IOAS_ALLOC => Context::ioas_alloc,
        IOMMU_IOAS_ALLOW_IOVAS => Context::ioas_allow_iovas,
        IOMMU_IOAS_COPY => Context::ioas_copy,
        IOMMU_IOAS_MAP => Context::ioas_map,
        IOMMU_IOAS_MAP_FILE => Context::ioas_map_file,
        IOMMU_IOAS_UNMAP => Context::ioas_unmap,
        // Who holds the file may ask.
        IOMMU_IOAS_IOVA_RANGES => return context.ioas_iova_ranges(client, call.arg, trace),
        IOMMU_OPTION => return context.option(client, call.arg, trace),
        IOMMU_VFIO_IOAS => return context.vfio_ioas(client, call.arg, trace),
        cmd => return Err(hwpt::refuse(client, cmd, call.arg)),
    };
    context.check_home(client)?;
    serve(context, client, call.arg, trace)
}

impl OpenFile for IommuFile {
    fn ioctl(&self, caller: &Caller, call: &Ioctl<'_>) -> Result<IoctlReply, Errno> {
        self.serve(caller, call)
    }

    /// Devices that are bound keep the context until they are closed too, as in the kernel.
    fn release(&self) {
        let context = self.context.lock().take();
        drop(context);
    }
}

impl std::fmt::Debug for IommuFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IommuFile").finish_non_exhaustive()
    }
}
