//! The mdev bus: parents, types, instances and the drivers bound to them.
