//! Tests of names.

use super::*;

#[test]
fn a_name_is_in_one_namespace_or_in_none_and_no_client_can_write_one() {
    let tenant = Namespace::new("tenant-a").expect("a namespace");
    let plain = Gid::new("g-1").expect("a gid");
    let inside = plain.clone().within(Some(&tenant));
    assert_eq!((inside.as_str(), inside.local()), ("tenant-a/g-1", "g-1"));
    assert_eq!((inside.namespace(), plain.namespace()), (Some(tenant.clone()), None));
    assert!(!inside.is_beside(&plain) && inside.is_beside(&inside) && plain.is_beside(&plain));
    assert_eq!(inside.clone().within(None), plain);
    assert_eq!(inside.clone().within(Some(&tenant)), inside, "it is in one alone");
    for text in ["tenant-a/g-1", "/g-1", "g-1/"] {
        assert!(Gid::new(text).is_err() && Gid::known(text).is_err(), "{text}");
    }
    assert_eq!(Gid::full("tenant-a/g-1"), Ok(inside.clone()));
    assert_eq!(Gid::full("g-1"), Ok(plain));
    assert_eq!(Gid::try_from("tenant-a/g-1".to_owned()), Ok(inside));
    for text in ["", "/", "/g", "a/", "a/b/c", "a b/g", "-a/g"] {
        assert!(Gid::full(text).is_err(), "{text}");
        assert!(ParticipantName::try_from(text.to_owned()).is_err(), "{text}");
    }
    let longest = LockName::new(&"l".repeat(ID_BYTES_MAX)).expect("a name");
    let most = Namespace::new(&"n".repeat(NAMESPACE_BYTES_MAX)).expect("a namespace");
    let full = longest.within(Some(&most));
    assert_eq!(LockName::full(full.as_str()), Ok(full.clone()));
    assert_eq!(full.as_str().len(), NAMESPACE_BYTES_MAX + 1 + ID_BYTES_MAX);
    assert!(Namespace::new(&"n".repeat(NAMESPACE_BYTES_MAX + 1)).is_err());
    let json = serde_json::to_string(&full).expect("JSON");
    assert_eq!(serde_json::from_str::<LockName>(&json).expect("a name"), full);
}

#[test]
fn an_identifier_begins_with_a_letter_a_digit_or_an_underscore() {
    for text in ["a", "Z-", "9.x", "_:"] {
        assert!(Gid::new(text).is_ok() && ActionName::new(text).is_ok(), "{text}");
    }
    for text in ["-a", ".a", ":a"] {
        let error = BranchId::new(text).expect_err(text);
        assert_eq!(error, Error::Start(text.as_bytes()[0].into()));
        let rule = format!("must begin with a letter, a digit or _, begins with {:?}", &text[..1]);
        assert_eq!(error.to_string().replace('\'', "\""), rule);
        // A stored one is read all the same.
        assert_eq!(BranchId::known(text).expect("of the alphabet").as_str(), text);
    }
    for text in ["", "a b", "ä"] {
        assert_eq!(Gid::known(text), Gid::new(text), "{text:?}");
        assert!(Gid::known(text).is_err(), "{text:?}");
    }
}
