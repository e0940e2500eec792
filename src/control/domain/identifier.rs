//! What users are known by, in one spelling each, so that one person is one user (docs/02, "Users").

use unicode_normalization::UnicodeNormalization;

use crate::control::model::state::IdentifierKind;

const DIGITS_MIN: usize = 7;
/// ITU-T E.164, 6.2.1.
const DIGITS_MAX: usize = 15;
const LENGTH_MAX: usize = 255;

/// Why an identifier is none of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentifierFault {
    #[error("must not be empty")]
    Empty,
    #[error("at most {LENGTH_MAX} bytes")]
    TooLong,
    #[error("must not contain control characters")]
    Control,
    #[error("an e-mail address, such as ann@example.com")]
    Email,
    #[error("a telephone number with its country code, such as +4930123456: {DIGITS_MIN} to {DIGITS_MAX} digits")]
    Phone,
}

/// What an identifier looks like.
pub(crate) fn kind_of(text: &str) -> IdentifierKind {
    let text = text.trim_start();
    if text.contains('@') {
        IdentifierKind::Email
    } else if text.starts_with('+') {
        IdentifierKind::Phone
    } else {
        IdentifierKind::TelegramId
    }
}

/// The one spelling of an identifier.
pub(crate) fn canonical(kind: IdentifierKind, text: &str) -> Result<String, IdentifierFault> {
    let text: String = text.trim().nfc().collect();
    if text.is_empty() {
        return Err(IdentifierFault::Empty);
    }
    if text.contains(char::is_control) {
        return Err(IdentifierFault::Control);
    }
    let text = match kind {
        IdentifierKind::Email => email(&text).ok_or(IdentifierFault::Email)?,
        IdentifierKind::Phone => phone(&text).ok_or(IdentifierFault::Phone)?,
        IdentifierKind::TelegramId => text,
    };
    if text.len() > LENGTH_MAX { Err(IdentifierFault::TooLong) } else { Ok(text) }
}

fn email(text: &str) -> Option<String> {
    let (name, domain) = text.rsplit_once('@')?;
    let is_whole = !name.is_empty() && !domain.is_empty() && !text.contains(char::is_whitespace);
    is_whole.then(|| text.to_lowercase())
}

fn phone(text: &str) -> Option<String> {
    let dialled: String =
        text.chars().filter(|one| !matches!(one, ' ' | '\u{a0}' | '-' | '.' | '/' | '(' | ')')).collect();
    let digits = dialled.strip_prefix('+').or_else(|| dialled.strip_prefix("00"))?;
    let is_number = (DIGITS_MIN..=DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|one| one.is_ascii_digit());
    is_number.then(|| format!("+{digits}"))
}

/// Every spelling under which a user may be known by a text.
pub(crate) fn candidates(text: &str) -> Vec<(IdentifierKind, String)> {
    let of = |kind: &IdentifierKind| canonical(*kind, text).ok().map(|identifier| (*kind, identifier));
    IdentifierKind::ALL.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_told_apart() {
        for (text, kind) in [
            ("a@b.c", IdentifierKind::Email),
            (" +49 12345", IdentifierKind::Phone),
            ("0123", IdentifierKind::TelegramId),
        ] {
            assert_eq!(kind_of(text), kind, "{text}");
        }
    }

    #[test]
    fn one_person_is_one_user() {
        for (kind, written, kept) in [
            (IdentifierKind::Email, " Ann.Lee@Example.COM ", "ann.lee@example.com"),
            (IdentifierKind::Email, "jose\u{301}@example.com", "jos\u{e9}@example.com"),
            (IdentifierKind::Phone, "+49 (30) 123-45.67", "+49301234567"),
            (IdentifierKind::Phone, "0049/30/1234567", "+49301234567"),
            (IdentifierKind::TelegramId, " 12345 ", "12345"),
        ] {
            assert_eq!(canonical(kind, written).as_deref(), Ok(kept), "{written}");
        }
    }

    #[test]
    fn what_is_none_of_its_kind_is_refused() {
        for (kind, text, fault) in [
            (IdentifierKind::Email, "  ", IdentifierFault::Empty),
            (IdentifierKind::Email, "ann", IdentifierFault::Email),
            (IdentifierKind::Email, "@example.com", IdentifierFault::Email),
            (IdentifierKind::Email, "a b@example.com", IdentifierFault::Email),
            (IdentifierKind::Phone, "030 1234567", IdentifierFault::Phone),
            (IdentifierKind::Phone, "+4930x", IdentifierFault::Phone),
            (IdentifierKind::Phone, "+1234567890123456", IdentifierFault::Phone),
            (IdentifierKind::TelegramId, "a\u{0}b", IdentifierFault::Control),
        ] {
            assert_eq!(canonical(kind, text), Err(fault), "{text}");
        }
        assert_eq!(canonical(IdentifierKind::TelegramId, &"x".repeat(256)), Err(IdentifierFault::TooLong));
    }

    #[test]
    fn a_text_may_be_of_several_kinds() {
        let kinds = |text| candidates(text).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kinds("0049301234567"), [IdentifierKind::TelegramId, IdentifierKind::Phone]);
        assert_eq!(kinds("A@b.c"), [IdentifierKind::Email, IdentifierKind::TelegramId]);
    }
}
