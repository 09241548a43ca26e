//! Which pages a device wrote.
