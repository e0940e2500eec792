use time::macros::datetime;

use super::*;
use crate::control::model::state::{DeviceStatus, IdentifierKind, UserStatus};

#[test]
fn codes_are_read_as_people_type_them() {
    let code = fresh_code().unwrap();
    assert_eq!((code.len(), canonical(&code).as_ref()), (26, Some(&code)));
    assert_ne!(code, fresh_code().unwrap());
    let shown = base32::grouped(&code);
    assert_eq!((shown.len(), shown.split('-').count()), (32, 7));
    assert_eq!(canonical(&format!(" {} ", shown.to_lowercase().replace('-', " - "))), Some(code));
    assert_eq!(canonical("oOiI-lL00-0000-0000-0000-0000-zZ").as_deref(), Some("001111000000000000000000ZZ"));
    let long = "0".repeat(27);
    for bad in ["", "0", "U0000000000000000000000000", "é0000000000000000000000000", long.as_str()] {
        assert_eq!(canonical(bad), None, "{bad}");
    }
}

#[test]
fn tokens_are_derived_from_key_code_and_device() {
    let deriver = RefreshTokenDeriver::new(&[1; 32]);
    let (device, other) = (DeviceId::fresh(), DeviceId::fresh());
    let first = deriver.first("CODE", device);
    assert_eq!((first.1.len(), &first), (64, &deriver.first("CODE", device)));
    assert_ne!(first, deriver.first("CODE", other));
    assert_ne!(first, deriver.first("C0DE", device));
    assert_ne!(first, RefreshTokenDeriver::new(&[2; 32]).first("CODE", device));
    let (family, first) = first;
    let second = deriver.next(family, &first);
    assert_eq!(second, deriver.next(family, &first));
    assert_ne!(second, deriver.next(family, &second));
    for token in [first, second] {
        assert_eq!(family_of(&token), Some(family));
    }
    for bad in ["", "x", "é", &"A".repeat(63), &"A".repeat(65), &"A".repeat(100_000)] {
        assert_eq!(family_of(bad), None);
    }
}

fn held(now: Time) -> Held {
    let device = Device {
        id: DeviceId::fresh(),
        user_id: UserId::fresh(),
        device_uuid: "phone".into(),
        platform: "test".into(),
        name: String::new(),
        client_version: None,
        status: DeviceStatus::Active,
        created_at: now,
        last_seen_at: None,
        revision: 0,
    };
    let user = User {
        id: device.user_id,
        identifier_kind: IdentifierKind::Email,
        identifier: "a@b.c".into(),
        status: UserStatus::Active,
        created_at: now,
        updated_at: now,
        revision: 0,
    };
    let family = RefreshFamily {
        id: FamilyId::fresh(),
        device_id: device.id,
        token_hash: sha256_hex(b"new"),
        previous_hash: Some(sha256_hex(b"old")),
        issued_at: now,
        expires_at: now.after(Duration::from_hours(1)),
    };
    Held { family, device, user }
}

#[test]
fn an_old_token_is_a_repeat_or_a_theft() {
    let begin = Time(datetime!(2026-11-28 12:00 UTC));
    let at = |token: &str, seconds| Refreshing {
        token: token.into(),
        device_uuid: "phone".into(),
        now: begin.after(Duration::from_secs(seconds)),
        refresh_ttl: Duration::from_hours(1),
        repeat_within: Duration::from_mins(1),
    };
    let mut held = held(begin);
    assert_eq!(at("new", 3599).judge(&held).unwrap(), TokenUse::Rotate);
    assert!(matches!(at("new", 3600).judge(&held), Err(Refused::Token)));
    let stranger = Refreshing { device_uuid: "tablet".into(), ..at("new", 1) };
    assert!(matches!(stranger.judge(&held), Err(Refused::Token)));
    assert_eq!(at("old", 59).judge(&held).unwrap(), TokenUse::Repeat);
    assert_eq!(at("old", 60).judge(&held).unwrap(), TokenUse::Reuse);
    assert_eq!(at("older", 1).judge(&held).unwrap(), TokenUse::Reuse);
    held.device.status = DeviceStatus::Revoked;
    assert!(matches!(at("old", 59).judge(&held), Err(Refused::Banned(SessionCode::DeviceBanned))));
    held.user.status = UserStatus::Banned;
    assert!(matches!(at("new", 59).judge(&held), Err(Refused::Banned(SessionCode::UserBanned))));
    assert_eq!(at("older", 1).judge(&held).unwrap(), TokenUse::Reuse);
}
