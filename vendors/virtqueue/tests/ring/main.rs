//! The engine against a driver in the same process.

mod arbitrary;
mod elsewhere;
mod exchange;
mod faults;
mod packed_faults;
mod pending;
mod pool;
mod rig;
mod split_faults;
mod worker;
