//! VFIO groups and containers as a client sees them.

mod container;
mod dirty;
mod dirty_model;
mod dma;
mod group;
mod lab;
