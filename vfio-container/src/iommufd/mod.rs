//! `/dev/iommu`: objects by number, of which an IOAS is a DMA address space.
//!
//! Every open of the [`IommuNode`] is a context. Its IOASes are filled by map calls; a device that is bound to the context
//! through its own file is attached to one of them. Devices here are what the kernel calls emulated: there are no page
//! tables in hardware, so calls about those find no object.

mod bind;
mod context;
mod error;
mod file;
mod hwpt;
mod ioas;
mod iova;
mod map;
mod node;
mod option;
mod ranges;
mod usage;
mod wire;

pub(crate) use bind::Bound;
pub use file::IommuFile;
pub use node::IommuNode;
pub use usage::{CONTEXTS_PER_USER, IOASES_PER_USER, MAPPINGS_PER_USER};
