//! The files of `docs/test-vectors/`.

use bytes::Bytes;
use serde_json::Value;

pub(crate) fn read_file(name: &str) -> Value {
    let path = format!("{}/docs/test-vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(crate) fn items<'a>(file: &'a Value, key: &str) -> &'a Vec<Value> {
    let items = file[key].as_array().unwrap();
    assert!(!items.is_empty());
    items
}

pub(crate) fn from_hex(value: &Value) -> Bytes {
    let text = value.as_str().unwrap().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    text.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Whether a role sends, receives, ignores or rejects a vector.
pub(crate) fn has_role(vector: &Value, role: &str, what: &str) -> bool {
    vector["roles"][role].as_array().is_some_and(|does| does.iter().any(|one| one == what))
}

/// Checks that a vector states its roles in the words of docs/03.
pub(crate) fn assert_roles(vector: &Value) {
    let roles = vector["roles"].as_object().unwrap_or_else(|| panic!("{} has no roles", vector["name"]));
    assert!(!roles.is_empty(), "{}", vector["name"]);
    for (role, does) in roles {
        assert!(matches!(role.as_str(), "client" | "gateway"), "{role}");
        for what in does.as_array().unwrap() {
            assert!(matches!(what.as_str(), Some("sends" | "receives" | "ignores" | "rejects")), "{what}");
        }
    }
}
