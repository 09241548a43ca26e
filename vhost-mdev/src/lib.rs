//! The mdev driver that gives an instance its vhost ioctl file.
