//! IOMMU_OPTION and IOMMU_VFIO_IOAS: settings of a context.

use super::context::Context;
use super::error::IommufdError;
use super::wire::{check_reserved, fetch, not_offered, respond};
use crate::Client;
use crate::trace::Trace;
use vfio_abi::iommufd::{
    IOMMU_OPTION_HUGE_PAGES, IOMMU_OPTION_OP_GET, IOMMU_OPTION_OP_SET, IOMMU_OPTION_RLIMIT_MODE, IOMMU_VFIO_IOAS_CLEAR,
    IOMMU_VFIO_IOAS_GET, IOMMU_VFIO_IOAS_SET, IommuOption, VfioIoas,
};

/// The superuser, who alone is sure to have CAP_SYS_RESOURCE.
const ROOT: u32 = 0;

impl Context {
    /// IOMMU_OPTION. Both options are about what the kernel does with memory that it pins; here they are kept, no more.
    pub fn option(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let option: IommuOption = fetch(client, arg)?;
        trace.arg("option", option.option_id);
        trace.arg("op", option.op);
        trace.arg("object", option.object_id);
        check_reserved(option.reserved)?;
        let val64 = match option.option_id {
            IOMMU_OPTION_RLIMIT_MODE => self.rlimit_mode(client, &option)?,
            IOMMU_OPTION_HUGE_PAGES => self.huge_pages(client, &option)?,
            other => return Err(not_offered("the option", other)),
        };
        respond(client, arg, &IommuOption { val64, ..option })
    }

    fn rlimit_mode(&self, client: &dyn Client, option: &IommuOption) -> Result<u64, IommufdError> {
        check_reserved(option.object_id)?;
        match option.op {
            IOMMU_OPTION_OP_GET => Ok(u64::from(self.state().accounts_by_process)),
            IOMMU_OPTION_OP_SET => {
                if client.uid() != ROOT {
                    return Err(IommufdError::NotPrivileged);
                }
                self.check_home(client)?;
                let mut state = self.state();
                if !state.is_empty() {
                    return Err(IommufdError::NotEmpty);
                }
                state.accounts_by_process = truth(option.val64)?;
                Ok(option.val64)
            }
            op => Err(not_offered("the operation", op)),
        }
    }

    fn huge_pages(&self, client: &dyn Client, option: &IommuOption) -> Result<u64, IommufdError> {
        let ioas = self.ioas(option.object_id)?;
        match option.op {
            IOMMU_OPTION_OP_GET => Ok(u64::from(ioas.lock().huge_pages)),
            IOMMU_OPTION_OP_SET => {
                let huge_pages = truth(option.val64)?;
                self.check_home(client)?;
                ioas.lock().huge_pages = huge_pages;
                Ok(option.val64)
            }
            op => Err(not_offered("the operation", op)),
        }
    }

    /// IOMMU_VFIO_IOAS: which IOAS stands for a container.
    pub fn vfio_ioas(&self, client: &dyn Client, arg: u64, trace: &mut Trace) -> Result<(), IommufdError> {
        let asked: VfioIoas = fetch(client, arg)?;
        trace.arg("op", asked.op);
        trace.arg("ioas", asked.ioas_id);
        check_reserved(asked.reserved)?;
        match asked.op {
            IOMMU_VFIO_IOAS_GET => {
                let ioas_id = self.state().compat.ok_or(IommufdError::NoCompatIoas)?;
                respond(client, arg, &VfioIoas { ioas_id, ..asked })
            }
            IOMMU_VFIO_IOAS_SET => {
                self.check_home(client)?;
                self.state().set_compat(asked.ioas_id)
            }
            IOMMU_VFIO_IOAS_CLEAR => {
                self.check_home(client)?;
                self.state().compat = None;
                Ok(())
            }
            op => Err(not_offered("the operation", op)),
        }
    }
}

fn truth(value: u64) -> Result<bool, IommufdError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(IommufdError::Invalid { field: "the value", value }),
    }
}
