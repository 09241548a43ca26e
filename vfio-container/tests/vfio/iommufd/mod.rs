//! `/dev/iommu`, and devices that are bound to it.

mod bind;
mod lab;
mod limits;
mod map;
mod model;
mod objects;
mod options;
mod ranges;
