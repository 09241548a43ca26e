//! What is written to `create`: a UUID as the kernel takes it, or a UUID and parameters.

use crate::BusError;
use nix::unistd::{Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;
use virtio_mdev_api::{ParameterSpec, Values};

/// Characters of a UUID.
const UUID_LEN: usize = 36;
/// The parameter every instance has.
const OWNER: &str = "owner";

/// Whom the nodes of an instance belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What `create` was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateText {
    /// The instance.
    pub uuid: Uuid,
    /// The vendor's parameters.
    pub parameters: BTreeMap<String, String>,
    /// The parameter `owner=`.
    pub owner: Option<Owner>,
}

/// What a successor of the daemon restores beyond what `create` was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restore {
    /// The number that names group and nodes.
    pub index: Option<u32>,
    /// The driver named by `driver_override`.
    pub driver_override: Option<String>,
}

impl CreateText {
    /// Parses what was written.
    ///
    /// Alone, a UUID is 36 characters and may be followed by one of any kind (a newline, as `echo` writes; the kernel
    /// tolerates any). Parameters follow after a space.
    pub fn parse(written: &[u8]) -> Result<Self, BusError> {
        let (uuid, rest) = written.split_at_checked(UUID_LEN).ok_or(BusError::NotAUuid)?;
        let uuid = Uuid::try_parse_ascii(uuid).map_err(|_| BusError::NotAUuid)?;
        match rest {
            [] | [_] => Ok(Self { uuid, parameters: BTreeMap::new(), owner: None }),
            [b' ', parameters @ ..] => Self::with_parameters(uuid, parameters),
            _ => Err(BusError::NotAUuid),
        }
    }

    fn with_parameters(uuid: Uuid, text: &[u8]) -> Result<Self, BusError> {
        let text = std::str::from_utf8(text).map_err(|error| BusError::Parameter { word: error.to_string() })?;
        let mut parameters = BTreeMap::new();
        for word in text.split_ascii_whitespace() {
            let refused = || BusError::Parameter { word: word.to_owned() };
            let (key, value) = word.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(refused)?;
            if parameters.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(refused());
            }
        }
        let owner = parameters.remove(OWNER).map(|owner| Owner::parse(&owner)).transpose()?;
        Ok(Self { uuid, parameters, owner })
    }
}

impl Owner {
    /// The parameter that names one.
    pub fn parameter() -> ParameterSpec {
        ParameterSpec {
            name: OWNER,
            values: Values::Shape("USER[:GROUP]"),
            default: Some("0:0".to_owned()),
            what: "whom the files of the instance belong to, names or numbers",
        }
    }

    /// Parses `user` or `user:group`, names or numbers, as `chown` does. Without a group it is the user's own.
    pub fn parse(text: &str) -> Result<Self, BusError> {
        let refused = || BusError::Owner { owner: text.to_owned() };
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let by_name = || User::from_name(user).ok().flatten();
        let by_id = |uid| User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let (uid, home_group) = match user.parse::<u32>() {
            Ok(uid) => (uid, by_id(uid).map_or(uid, |user| user.gid.as_raw())),
            Err(_) => by_name().map(|user| (user.uid.as_raw(), user.gid.as_raw())).ok_or_else(refused)?,
        };
        let gid = match group {
            None => home_group,
            Some(group) => group_id(group).ok_or_else(refused)?.as_raw(),
        };
        // The number that chown(2) takes for "nobody else than before".
        if uid == u32::MAX || gid == u32::MAX { Err(refused()) } else { Ok(Self { uid, gid }) }
    }
}

fn group_id(group: &str) -> Option<Gid> {
    let number = group.parse().ok().map(Gid::from_raw);
    number.or_else(|| Group::from_name(group).ok().flatten().map(|group| group.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    fn uuid_of(written: &[u8]) -> Result<String, BusError> {
        CreateText::parse(written).map(|text| text.uuid.to_string())
    }

    #[test]
    fn f39_a_uuid_with_and_without_newline_is_taken() {
        assert_eq!(uuid_of(TEXT.as_bytes()), Ok(TEXT.to_owned()));
        assert_eq!(uuid_of(format!("{TEXT}\n").as_bytes()), Ok(TEXT.to_owned()));
        assert_eq!(uuid_of(format!("{TEXT}\0").as_bytes()), Ok(TEXT.to_owned()));
    }

    #[test]
    fn f39_an_uppercase_uuid_names_the_lower_case_instance() {
        assert_eq!(uuid_of(TEXT.to_uppercase().as_bytes()), Ok(TEXT.to_owned()));
    }

    #[test]
    fn f39_what_is_no_uuid_is_refused() {
        let braced = format!("{{{TEXT}}}");
        let longer = format!("{TEXT}\n\n");
        let shifted = format!(" {TEXT}");
        let simple = TEXT.replace('-', "");
        for bad in ["", "\n", &TEXT[..35], &braced, &longer, &shifted, &simple, &"x".repeat(36)] {
            assert_eq!(uuid_of(bad.as_bytes()), Err(BusError::NotAUuid), "{bad:?}");
        }
    }

    #[test]
    fn parameters_follow_the_uuid() {
        let text = CreateText::parse(format!("{TEXT} mtu=1500  ifname=t0\n").as_bytes()).unwrap();
        let expected = [("ifname", "t0"), ("mtu", "1500")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(text.parameters, BTreeMap::from(expected));
    }

    #[test]
    fn a_word_that_is_no_parameter_is_refused() {
        for bad in ["mtu", "=1", "mtu=1 mtu=2"] {
            let refused = CreateText::parse(format!("{TEXT} {bad}").as_bytes()).unwrap_err();
            assert!(matches!(refused, BusError::Parameter { .. }), "{bad}: {refused:?}");
        }
    }

    #[test]
    fn an_owner_is_a_user_and_a_group_by_name_or_number() {
        assert_eq!(Owner::parse("0"), Ok(Owner { uid: 0, gid: 0 }));
        assert_eq!(Owner::parse("root"), Ok(Owner { uid: 0, gid: 0 }));
        assert_eq!(Owner::parse("1234:5678"), Ok(Owner { uid: 1234, gid: 5678 }));
        assert!(Owner::parse("nobody-has-this-name").is_err());
        for none in ["0:nobody-has-this-name", "4294967295", "0:4294967295", "", ":", "0:", "ro\0ot"] {
            assert!(Owner::parse(none).is_err(), "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(written: Vec<u8>) {
            let _ = CreateText::parse(&written);
        }
    }
}
