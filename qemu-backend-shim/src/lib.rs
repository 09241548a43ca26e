//! vhost-vfio: joins unmodified QEMU over vhost-user to an instance's vhost and VFIO files.
