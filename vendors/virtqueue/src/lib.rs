//! The software ring engine the vendor parents share.
