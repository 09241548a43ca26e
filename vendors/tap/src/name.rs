//! Names of interfaces.

use crate::tun::NAME_SIZE;
use nix::errno::Errno;
use uuid::Uuid;
use virtio_mdev_api::Refusal;

/// The interface's name: what `ifname=` says, or one that shows whose interface it is.
pub fn interface_name(uuid: &Uuid, asked: Option<&str>) -> Result<String, Refusal> {
    match asked {
        Some(name) => checked_name(name).map(str::to_owned),
        None => {
            let mut digits = uuid.simple().to_string();
            digits.truncate(8);
            Ok(format!("umdev{digits}"))
        }
    }
}

/// The name of an interface, if it can be one.
pub fn checked_name(name: &str) -> Result<&str, Refusal> {
    // What the kernel refuses, and `%`, which it replaces.
    let refused = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if name.is_empty() || name.len() >= NAME_SIZE || name == "." || name == ".." || name.contains(refused) {
        return Err(Refusal::new(
            Errno::EINVAL,
            format!("ifname={name}: not 1 to 15 bytes without white space, '/', ':' and '%'"),
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_called_after_its_instance_unless_said_otherwise() {
        let uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(interface_name(&uuid, None).unwrap(), "umdev01234567");
        assert_eq!(interface_name(&uuid, Some("vnet-0")).unwrap(), "vnet-0");
    }

    #[test]
    fn names_the_kernel_refuses_or_changes_are_refused() {
        for name in ["", "sixteen-bytes-xx", "a/b", "a b", "tap%d", "a:1", ".", "..", "a\n"] {
            let refusal = interface_name(&Uuid::nil(), Some(name)).unwrap_err();
            assert_eq!(refusal.errno(), Errno::EINVAL, "{name:?}");
        }
    }
}
