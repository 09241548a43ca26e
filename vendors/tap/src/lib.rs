//! A parent whose instances are virtio-net devices on a TAP interface.
