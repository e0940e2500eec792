use std::fmt;

use crate::base32::is_digit;
use crate::frame::SessionCode;

const SUPPORT_ID: &str = " (support id ";

/// Why the gateway does not serve, or no longer.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is.
    pub code: SessionCode,
    /// By which the operator finds this refusal, if the gateway gave one.
    pub support_id: Option<String>,
}

impl Refused {
    /// What a gateway's error says.
    pub(super) fn new(code: SessionCode, message: &str) -> Self {
        let id = message.split_once(SUPPORT_ID).and_then(|(_, rest)| rest.strip_suffix(')'));
        Self { code, support_id: id.filter(|id| is_support_id(id)).map(str::to_owned) }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, sentence(self.code))?;
        match &self.support_id {
            Some(id) => write!(f, "{SUPPORT_ID}{id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refused {}

fn is_support_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == 2 && parts.iter().all(|part| part.len() == 4 && part.chars().all(is_digit))
}

/// What a code means to the person at the other end, and what they can do.
fn sentence(code: SessionCode) -> &'static str {
    match code {
        SessionCode::ProtocolError => "the gateway did not understand this client; update it",
        SessionCode::UnsupportedVersion | SessionCode::UpgradeRequired => {
            "the gateway serves newer clients only; update this one"
        }
        SessionCode::InvalidToken => {
            "the access token is not valid for this device; check client.device_id and client.token"
        }
        SessionCode::TokenExpired => "the access token is out of date; set client.token to a new one",
        SessionCode::DeviceBanned => "this device was revoked",
        SessionCode::UserBanned => "this account is banned",
        SessionCode::UserPending => "this account is not active yet",
        SessionCode::NoSubscription => "this account has no active subscription",
        SessionCode::SubscriptionExpired => "the subscription is over; renew it",
        SessionCode::LimitReached => "the traffic of this period is used up; top it up or wait for the next period",
        SessionCode::TooManySessions => "this device has as many sessions as its plan allows; end another one",
        SessionCode::DeviceLimit => "this account has more devices than its plan allows; remove one",
        SessionCode::UnknownRegion => {
            "there is no such exit region here, or the plan does not allow it; check client.region"
        }
        SessionCode::NoNodeAvailable => "the exit region is full; trying again",
        SessionCode::SessionKilled => {
            "an administrator ended the session, or a newer one of this device took its place"
        }
        SessionCode::Overloaded => "the gateway is full; trying again",
        SessionCode::GoingAway => "the gateway is shutting down; trying again",
        SessionCode::ControlUnavailable => "the gateway cannot check the subscription now; trying again",
        SessionCode::Internal => "an internal error of the service; trying again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_support_id_is_taken_from_the_text_only_if_it_is_one() {
        let id = |message: &str| Refused::new(SessionCode::NoSubscription, message).support_id;
        assert_eq!(id("NO_SUBSCRIPTION (support id 7KQ2-M9XD)").as_deref(), Some("7KQ2-M9XD"));
        for other in [
            "",
            "NO_SUBSCRIPTION",
            "NO_SUBSCRIPTION (support id 7KQ2-M9XD",
            "NO_SUBSCRIPTION (support id 7KQ2-M9X)",
            "NO_SUBSCRIPTION (support id 7KQ2-M9XI)",
            "NO_SUBSCRIPTION (support id 7KQ2-M9XD-0000)",
            "NO_SUBSCRIPTION (support id \u{1b}[2J)",
        ] {
            assert_eq!(id(other), None, "{other}");
        }
    }

    #[test]
    fn each_code_has_a_sentence_behind_it() {
        let refused = Refused::new(SessionCode::NoSubscription, "NO_SUBSCRIPTION (support id 7KQ2-M9XD)").to_string();
        assert_eq!(refused, "NO_SUBSCRIPTION: this account has no active subscription (support id 7KQ2-M9XD)");
        for code in SessionCode::ALL {
            let text = Refused::new(*code, "").to_string();
            let sentence = text.strip_prefix(&format!("{code}: ")).unwrap();
            assert!(!sentence.is_empty() && !text.contains("support"), "{text}");
            assert_eq!(sentence.ends_with("; trying again"), !code.is_final() && *code != SessionCode::TooManySessions);
        }
    }
}
