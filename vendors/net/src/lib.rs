//! What the virtio-net parents share: configuration space, header, queue pair worker.
