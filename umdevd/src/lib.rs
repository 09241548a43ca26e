//! The umdev daemon, as a library and as the stock program.
