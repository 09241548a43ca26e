//! Whole-system tests with real clients, the VM lab and the benchmarks.

pub mod driver;
pub mod lab;
pub mod vduse;
