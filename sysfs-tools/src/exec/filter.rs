//! Which system calls wait for the supervisor: `ioctl` with one of two numbers. Every other call costs these few instructions.

use vfio_abi::command::{VFIO_DEVICE_FEATURE, VFIO_GROUP_GET_DEVICE_FD};

/// `AUDIT_ARCH_*` of linux/audit.h: ELF machine, 64 bits, little endian. Calls of another architecture (32-bit programs) pass.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_0000 | 62;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_0000 | 183;

/// Numbers from here on are x32's on x86, and nobody's elsewhere.
const X32: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The lower half of the second argument: the kernel takes the number of an ioctl as 32 bits too.
const REQUEST: u32 = 24;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// The filter.
pub fn program() -> [libc::sock_filter; 10] {
    let ioctl = u32::try_from(libc::SYS_ioctl).unwrap_or(u32::MAX);
    [
        step(LOAD, 0, 0, ARCHITECTURE),
        step(IF_EQUAL, 0, 6, ARCH),
        step(LOAD, 0, 0, NR),
        step(IF_AT_LEAST, 4, 0, X32),
        step(IF_EQUAL, 0, 3, ioctl),
        step(LOAD, 0, 0, REQUEST),
        step(IF_EQUAL, 2, 0, VFIO_GROUP_GET_DEVICE_FD),
        step(IF_EQUAL, 1, 0, VFIO_DEVICE_FEATURE),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ]
}

/// An instruction; `jt` and `jf` are how many follow that a comparison skips when it is true, or false.
fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const I386: u32 = 0x4000_0003;

    fn ioctl() -> u32 {
        u32::try_from(libc::SYS_ioctl).unwrap()
    }

    /// What the kernel would do with the call, instruction for instruction.
    fn verdict(arch: u32, nr: u32, request: u64) -> u32 {
        let low = u32::try_from(request & 0xffff_ffff).unwrap();
        let (program, mut accumulator, mut at) = (program(), 0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) {
                LOAD => {
                    accumulator = match step.k {
                        NR => nr,
                        ARCHITECTURE => arch,
                        REQUEST => low,
                        offset => panic!("loads offset {offset}"),
                    };
                }
                IF_EQUAL => at += usize::from(if accumulator == step.k { step.jt } else { step.jf }),
                IF_AT_LEAST => at += usize::from(if accumulator >= step.k { step.jt } else { step.jf }),
                RETURN => return step.k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn offsets_are_those_of_the_kernel() {
        assert_eq!(std::mem::offset_of!(libc::seccomp_data, nr), 0);
        assert_eq!(std::mem::offset_of!(libc::seccomp_data, arch), 4);
        assert_eq!(std::mem::offset_of!(libc::seccomp_data, args) + 8, 24);
    }

    #[test]
    fn the_two_ioctls_wait_for_the_supervisor() {
        for request in [0x3b6a, 0x3b75, 0xdead_beef_0000_3b6a] {
            assert_eq!(verdict(ARCH, ioctl(), request), libc::SECCOMP_RET_USER_NOTIF, "{request:#x}");
        }
    }

    #[test]
    fn every_other_ioctl_passes() {
        for request in [0, 0x3b69, 0x3b6b, 0x3b74, 0x3b76, 0x4008_af00, 0xffff_ffff_ffff_ffff, 0x13b6a] {
            assert_eq!(verdict(ARCH, ioctl(), request), libc::SECCOMP_RET_ALLOW, "{request:#x}");
        }
    }

    #[test]
    fn other_calls_pass_whatever_their_arguments() {
        for nr in (0..600).filter(|&nr| nr != ioctl()) {
            assert_eq!(verdict(ARCH, nr, 0x3b6a), libc::SECCOMP_RET_ALLOW, "{nr}");
        }
    }

    #[test]
    fn calls_of_other_architectures_pass() {
        assert_eq!(verdict(I386, ioctl(), 0x3b6a), libc::SECCOMP_RET_ALLOW);
        assert_eq!(verdict(I386, 54, 0x3b6a), libc::SECCOMP_RET_ALLOW);
        assert_eq!(verdict(ARCH, X32 | ioctl(), 0x3b6a), libc::SECCOMP_RET_ALLOW);
        assert_eq!(verdict(ARCH, X32 | 514, 0x3b6a), libc::SECCOMP_RET_ALLOW);
        assert_eq!(verdict(ARCH, u32::MAX, 0x3b6a), libc::SECCOMP_RET_ALLOW);
    }
}
