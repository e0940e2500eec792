use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::{Created, Listed, Paged, created, hostname, listed, one_of, text};
use crate::config::{TUNNEL_PATH, is_tunnel_path};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin, Query};
use crate::control::api::lenient;
use crate::control::db::dispatch;
use crate::control::domain::catalog::EndpointView;
use crate::control::model::id::{EndpointId, GatewayId};
use crate::control::model::state::EndpointState;
use crate::control::model::types::Time;
use crate::control::model::{Endpoint, EndpointChange};
use crate::control::runtime::ControlState;

/// What a gateway speaks, the best first.
const TRANSPORTS: [&str; 3] = ["h2", "h2ws", "ws"];
const HTTPS: i32 = 443;
const PIN_LENGTH: usize = 32;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewEndpoint {
    gateway_id: GatewayId,
    host: String,
    #[serde(default, deserialize_with = "lenient::value")]
    port: Option<u16>,
    sni: Option<String>,
    path: String,
    #[serde(default, deserialize_with = "lenient::list")]
    transports: Option<Vec<String>>,
    tls_pin: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    weight: Option<i32>,
    state: Option<EndpointState>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointPatch {
    host: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    port: Option<u16>,
    sni: Option<String>,
    path: Option<String>,
    #[serde(default, deserialize_with = "lenient::list")]
    transports: Option<Vec<String>>,
    tls_pin: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    weight: Option<i32>,
    state: Option<EndpointState>,
}

impl EndpointPatch {
    fn change(self) -> Result<EndpointChange, ApiError> {
        path(self.path.as_deref())?;
        pin(self.tls_pin.as_deref())?;
        if self.port == Some(0) {
            return Err(ApiError::invalid("port", "OUT_OF_RANGE", "must be 1 to 65535"));
        }
        if self.weight.is_some_and(|weight| weight < 1) {
            return Err(ApiError::invalid("weight", "OUT_OF_RANGE", "must be at least 1"));
        }
        Ok(EndpointChange {
            host: hostname("host", self.host)?,
            port: self.port.map(i32::from),
            sni: hostname("sni", self.sni)?,
            path: self.path,
            transports: self.transports.map(|names| transports(&names)).transpose()?,
            tls_pin: self.tls_pin,
            weight: self.weight,
            state: self.state,
        })
    }
}

fn path(value: Option<&str>) -> Result<(), ApiError> {
    text("path", value)?;
    match value {
        Some(value) if !is_tunnel_path(value) => Err(ApiError::invalid("path", "INVALID", TUNNEL_PATH)),
        _ => Ok(()),
    }
}

fn pin(value: Option<&str>) -> Result<(), ApiError> {
    match value {
        Some(value) if !value.is_empty() => match BASE64_STANDARD.decode(value) {
            Ok(bytes) if bytes.len() == PIN_LENGTH => Ok(()),
            _ => {
                let detail = "must be the SHA-256 of the key (SPKI), 32 bytes in base64, or empty";
                Err(ApiError::invalid("tls_pin", "INVALID", detail))
            }
        },
        _ => Ok(()),
    }
}

fn transports(names: &[String]) -> Result<String, ApiError> {
    let mut chosen: Vec<&str> = Vec::new();
    for name in names {
        one_of("transports", Some(name), &TRANSPORTS)?;
        if !chosen.contains(&name.as_str()) {
            chosen.push(name);
        }
    }
    if chosen.is_empty() {
        return Err(ApiError::invalid("transports", "INVALID", format!("must be some of {}", TRANSPORTS.join(", "))));
    }
    Ok(chosen.join(","))
}

/// An endpoint as it is answered.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    id: EndpointId,
    gateway_id: GatewayId,
    #[serde(flatten)]
    endpoint: EndpointView,
    created_at: Time,
}

impl From<&Endpoint> for Shown {
    fn from(row: &Endpoint) -> Self {
        Self {
            id: row.id,
            gateway_id: row.gateway_node_id,
            endpoint: EndpointView::from(row),
            created_at: row.created_at,
        }
    }
}

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = dispatch!(&mut state.db.read().await?, admin::list_endpoints(page.after(), page.gateway_id, limit))?;
    let shown: Vec<Shown> = rows.iter().map(Shown::from).collect();
    listed(&shown, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<EndpointId>,
) -> Result<Json<Shown>, ApiError> {
    let row = dispatch!(&mut state.db.read().await?, admin::endpoint::get(id))?;
    Ok(Json(Shown::from(&row)))
}

pub(super) async fn create(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewEndpoint>,
) -> Result<Created, ApiError> {
    let given = EndpointPatch {
        host: Some(new.host),
        port: new.port,
        sni: new.sni,
        path: Some(new.path.clone()),
        transports: new.transports,
        tls_pin: new.tls_pin,
        weight: new.weight,
        state: new.state,
    };
    let given = given.change()?;
    let host = given.host.unwrap_or_default();
    let row = Endpoint {
        id: EndpointId::fresh(),
        gateway_node_id: new.gateway_id,
        port: given.port.unwrap_or(HTTPS),
        sni: given.sni.unwrap_or_else(|| host.clone()),
        host,
        path: new.path,
        transports: given.transports.unwrap_or_else(|| TRANSPORTS.join(",")),
        tls_pin: given.tls_pin.unwrap_or_default(),
        weight: given.weight.unwrap_or(1),
        state: given.state.unwrap_or(EndpointState::Active),
        created_at: state.now(),
    };
    dispatch!(&mut state.db.get().await?, admin::create_endpoint(&row))?;
    created(&Shown::from(&row))
}

pub(super) async fn update(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<EndpointId>,
    Body(patch): Body<EndpointPatch>,
) -> Result<Json<Shown>, ApiError> {
    let change = patch.change()?;
    let row = dispatch!(&mut state.db.get().await?, admin::endpoint::update(id, &change))?;
    Ok(Json(Shown::from(&row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_endpoint_may_be() {
        for (given, kept) in [("GW.example.com", "gw.example.com"), ("2001:DB8:0::1", "2001:db8::1")] {
            assert_eq!(hostname("host", Some(given.into())).unwrap().as_deref(), Some(kept));
        }
        for bad in ["", "a b", "host:443", "https://host"] {
            let error = hostname("host", Some(bad.into())).unwrap_err();
            assert_eq!((error.errors[0].field.as_str(), error.code.as_str()), ("host", "INVALID"), "{bad}");
        }
        assert!(path(Some("/k3bR9")).is_ok() && path(Some("k3bR9")).is_err() && path(Some("/a?b")).is_err());
        let key = BASE64_STANDARD.encode([7; PIN_LENGTH]);
        assert!(pin(Some("")).is_ok() && pin(Some(&key)).is_ok() && pin(Some("AAAA")).is_err());
        let names = |list: &[&str]| transports(&list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["ws", "h2", "ws"]).unwrap(), "ws,h2");
        assert!(names(&[]).is_err() && names(&["quic"]).is_err());
    }
}
