//! The fuzz targets, as functions of bytes: each drives the real decoder and what is behind it through an in-memory
//! transport, and panics when what came of it breaks a promise.
//!
//! libFuzzer calls them (`fuzz/fuzz_targets`), and so does a test, with every file of the corpus.
#![allow(clippy::missing_panics_doc, reason = "a broken promise is a panic")]

pub mod create_text;
pub mod fuse_request;
mod input;
pub mod iommufd;
pub mod iotlb_message;
pub mod migration_stream;
mod model;
pub mod net_card;
pub mod rings;
pub mod vfio_device;
pub mod vfio_ioctl;
pub mod vhost_ioctl;
pub mod vhost_net_ioctl;
mod world;

pub use input::Input;

/// A target: its name, which is that of its directory in the corpus, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 11] = [
    ("vhost_ioctl", vhost_ioctl::run),
    ("vhost_net_ioctl", vhost_net_ioctl::run),
    ("iotlb_message", iotlb_message::run),
    ("fuse_request", fuse_request::run),
    ("vfio_device", vfio_device::run),
    ("vfio_ioctl", vfio_ioctl::run),
    ("migration_stream", migration_stream::run),
    ("iommufd", iommufd::run),
    ("rings", rings::run),
    ("net_card", net_card::run),
    ("create_text", create_text::run),
];

/// An errno that the kernel would pass on: below 512, known, and not ENOSYS.
fn assert_errno(errno: nix::errno::Errno, what: impl std::fmt::Debug) {
    let number = errno as i32;
    assert!((1..512).contains(&number) && errno != nix::errno::Errno::ENOSYS, "{what:?} answers {errno:?}");
}
