//! VFIO groups and containers as a client sees them.

mod card;
mod container;
mod device;
mod device_life;
mod dirty;
mod dirty_model;
mod dma;
mod group;
mod iommufd;
mod lab;
mod logging;
mod migration;
mod mover;
