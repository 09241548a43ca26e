//! umdev, the operator's command line: a reader and writer of the device tree.
