//! Whether a device may have a session, and what it is told (docs/04, "A session").

use std::sync::{Arc, RwLock};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::Shared;
use super::account::{Account, Opening};
use super::control::ControlError;
use super::streams::Session;
use crate::api::{SubscriptionView, ValidateDevice};
use crate::frame::{Encoding, Feature, Hello, HelloLimits, HelloOk, Notice, SessionCode, Version};
use crate::net::tunnel::Tunnel;
use crate::token::TokenError;

/// A session that may begin.
pub(super) struct Admitted {
    pub(super) session: Session,
    /// The subscription ends soon.
    pub(super) expiry: Option<Notice>,
}

/// Checks the client and its token here, then asks the control plane once for everything.
pub(super) async fn admit(
    shared: &Arc<Shared>,
    tunnel: &Tunnel,
    hello: &Hello,
    bearer: Option<Uuid>,
) -> Result<Admitted, SessionCode> {
    if shared.refuses_sessions() {
        return Err(SessionCode::GoingAway);
    }
    if shared.limits.pool.is_full() {
        return Err(SessionCode::Overloaded);
    }
    if !shared.keys.is_ready() {
        return Err(SessionCode::ControlUnavailable);
    }
    if let Some(oldest) = Version::parse(&shared.tunnel.min_client_version)
        && Version::parse(&hello.client_version).is_none_or(|version| version < oldest)
    {
        return Err(SessionCode::UpgradeRequired);
    }
    let device: Uuid = hello.device_id.parse().map_err(|_| SessionCode::InvalidToken)?;
    let claims = shared.keys.verify(hello.access_token.expose()).await.map_err(|error| match error {
        TokenError::Expired => SessionCode::TokenExpired,
        TokenError::Invalid | TokenError::UnknownKey => SessionCode::InvalidToken,
    })?;
    if claims.sub != device || bearer.is_some_and(|bearer| bearer != device) {
        return Err(SessionCode::InvalidToken);
    }
    let id = Uuid::now_v7();
    let text = |text: &str| (!text.is_empty()).then(|| text.chars().take(64).collect());
    let request = ValidateDevice {
        device_id: device,
        access_token: hello.access_token.clone(),
        region: hello.region.clone(),
        assign: true,
        session_id: Some(id),
        exclude: shared.nodes.down(),
        client_version: text(&hello.client_version),
        platform: text(&hello.platform),
    };
    let answer = shared.control.validate(&request).await.map_err(|error| unavailable(&error))?;
    if !answer.ok {
        return Err(answer.code.unwrap_or(SessionCode::Internal));
    }
    let node = answer.node.ok_or(SessionCode::NoNodeAvailable)?;
    let exit = shared.nodes.exit(node).map_err(|reason| {
        tracing::error!(reason, "an assigned node cannot be used");
        SessionCode::NoNodeAvailable
    })?;
    let limits = answer.limits.as_ref();
    let opening = Opening {
        session: id,
        device,
        token: hello.access_token.clone(),
        remaining: answer.remaining_bytes,
        limit: limits.and_then(|limits| limits.traffic_limit_bytes),
        pace: shared.paces.of(device, limits.and_then(|limits| limits.rate_limit_mbps)),
        quota_percent: shared.notices.quota_percent.clone(),
        tunnel: tunnel.clone(),
    };
    let session = Session {
        shared: Arc::clone(shared),
        account: Arc::new(Account::new(opening, &shared.metrics)),
        id,
        user: claims.uid,
        device,
        region: hello.region.clone(),
        exit: RwLock::new(exit),
        moving: tokio::sync::Mutex::new(()),
        lookups: shared.lookups.of_a_session(shared.egress.lookups_per_session),
    };
    Ok(Admitted { session, expiry: answer.subscription.and_then(|subscription| expiry(&subscription, shared)) })
}

fn unavailable(error: &ControlError) -> SessionCode {
    tracing::warn!(%error, "a device cannot be validated");
    match error {
        ControlError::Refused { status, .. } if status.is_client_error() => SessionCode::Internal,
        ControlError::Refused { .. } | ControlError::Unreachable(_) => SessionCode::ControlUnavailable,
    }
}

fn expiry(subscription: &SubscriptionView, shared: &Shared) -> Option<Notice> {
    let left = subscription.valid_until - OffsetDateTime::now_utc();
    let valid_until = subscription.valid_until.format(&Rfc3339).ok()?;
    (left < shared.notices.expiry_before).then_some(Notice::Expiry { valid_until })
}

/// The answer to a `hello`: the owner's field alone unless the client asked for more.
pub(super) fn consent(shared: &Shared, tunnel: &Tunnel, hello: &Hello, session: Uuid, encoding: Encoding) -> HelloOk {
    let (keepalive, dead_after) = tunnel.patience();
    let limits = HelloLimits {
        streams: shared.limits.streams as u64,
        message: shared.message_max(encoding) as u64,
        opens_per_second: shared.limits.opens_per_second,
        keepalive: keepalive.as_secs(),
        dead_after: dead_after.as_secs(),
        udp_idle: shared.relay.udp_idle_timeout.as_secs(),
    };
    HelloOk {
        session_id: session.to_string(),
        features: hello.features,
        limits: hello.features.has(Feature::Limits).then_some(limits),
        padding: (encoding == Encoding::V2).then(|| shared.limits.padding.clone()),
    }
}
