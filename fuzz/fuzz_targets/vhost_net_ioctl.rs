#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_harness::vhost_net_ioctl::run(bytes));
