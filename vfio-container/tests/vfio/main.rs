//! VFIO groups and containers as a client sees them.

mod container;
mod dma;
mod group;
mod lab;
