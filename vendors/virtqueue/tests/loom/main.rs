//! The pool of threads and its tasks, and the orders that rings stand on, in every interleaving of a few interruptions: the
//! files themselves, on the model checker's locks and atomics. Of our own are the part of the kernel, and queues without
//! the memory of a client. Each model finds the errors that are planted in it.
#![allow(dead_code)] // Not every function is in a model.

mod kernel;
mod memory;
mod pool_model;
mod queue;
mod ring_model;
mod sync;
mod waker_model;

/// What needs the kernel, in its place.
use kernel::{end, events, health, watch};
/// What needs the memory of a client, in its place.
use ring_model::area;

#[path = "../../src/batch.rs"]
mod batch;
#[path = "../../src/budget.rs"]
mod budget;
#[path = "../../src/chain.rs"]
mod chain;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/host.rs"]
mod host;
#[path = "../../src/layout.rs"]
mod layout;
#[path = "../../src/packed.rs"]
mod packed;
#[path = "../../src/pool.rs"]
mod pool;
#[path = "../../src/ring.rs"]
mod ring;
#[path = "../../src/served.rs"]
mod served;
#[path = "../../src/service.rs"]
mod service;
#[path = "../../src/slot.rs"]
mod slot;
#[path = "../../src/split.rs"]
mod split;
#[path = "../../src/task.rs"]
mod task;
#[path = "../../src/thread.rs"]
mod thread;
#[path = "../../src/waiting.rs"]
mod waiting;
#[path = "../../src/waker.rs"]
mod waker;
#[path = "../../src/watched.rs"]
mod watched;

use chain::Buffer;
use error::Part;

/// Nobody is waited for in vain, unless the model says so.
const PATIENCE: std::time::Duration = std::time::Duration::MAX;
