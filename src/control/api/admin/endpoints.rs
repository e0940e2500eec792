use axum::Json;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{IntoParams, ToSchema};

use super::{hostname, one_of, text};
use crate::config::{TUNNEL_PATH, is_tunnel_path};
use crate::control::api::answer::{Created, Deleted, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, IfMatch, Path, Query, existing};
use crate::control::api::page::{Page, pages, paging};
use crate::control::api::refs::GatewayRef;
use crate::control::db::{Deletable, dispatch};
use crate::control::domain::catalog;
use crate::control::model::filter::EndpointFilter;
use crate::control::model::id::{EndpointId, GatewayId};
use crate::control::model::sort::EndpointSort;
use crate::control::model::state::EndpointState;
use crate::control::model::types::Time;
use crate::control::model::{Endpoint, EndpointChange};

/// What a gateway speaks, the best first.
const TRANSPORTS: [&str; 3] = ["h2", "h2ws", "ws"];
const HTTPS: i32 = 443;
const PIN_LENGTH: usize = 32;

/// One way to reach a gateway.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(super) struct EndpointView {
    id: EndpointId,
    gateway_id: GatewayId,
    #[schema(examples("www.example.com"))]
    host: String,
    port: i32,
    sni: String,
    #[schema(examples("/k3bR9"))]
    path: String,
    /// `h2`, `h2ws`, `ws`: the best first.
    transports: Vec<String>,
    /// SHA-256 of the certificate's key (SPKI) in base 64; empty if it is not pinned.
    tls_pin: String,
    weight: i32,
    state: EndpointState,
    created_at: Time,
    /// Counts changes; the `ETag` is made of it.
    revision: i32,
}

impl From<Endpoint> for EndpointView {
    fn from(row: Endpoint) -> Self {
        let shown = catalog::EndpointView::from(&row);
        Self {
            id: row.id,
            gateway_id: row.gateway_node_id,
            host: shown.host,
            port: shown.port,
            sni: shown.sni,
            path: shown.path,
            transports: shown.transports,
            tls_pin: shown.tls_pin,
            weight: shown.weight,
            state: shown.state,
            created_at: row.created_at,
            revision: row.revision,
        }
    }
}

impl View for EndpointView {
    fn revision(&self) -> Option<i32> {
        Some(self.revision)
    }
}

/// An endpoint to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "gateway_id": "fra-1", "host": "www.example.com", "path": "/k3bR9" })))]
pub(super) struct NewEndpoint {
    /// The gateway's id or name.
    gateway_id: GatewayRef,
    #[schema(min_length = 1, max_length = 255)]
    host: String,
    /// 443 if absent.
    #[schema(minimum = 1, maximum = 65535)]
    port: Option<u16>,
    /// The host if absent.
    #[schema(min_length = 1, max_length = 255)]
    sni: Option<String>,
    #[schema(min_length = 2, max_length = 255, pattern = "^/")]
    path: String,
    /// The best first; all if absent.
    #[schema(schema_with = some_transports)]
    transports: Option<Vec<String>>,
    tls_pin: Option<String>,
    #[schema(minimum = 1)]
    weight: Option<i32>,
    state: Option<EndpointState>,
}

/// What is to be changed of an endpoint.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "state": "blocked" })))]
pub(super) struct EndpointPatch {
    #[schema(min_length = 1, max_length = 255)]
    host: Option<String>,
    #[schema(minimum = 1, maximum = 65535)]
    port: Option<u16>,
    #[schema(min_length = 1, max_length = 255)]
    sni: Option<String>,
    #[schema(min_length = 2, max_length = 255, pattern = "^/")]
    path: Option<String>,
    #[schema(schema_with = some_transports)]
    transports: Option<Vec<String>>,
    tls_pin: Option<String>,
    #[schema(minimum = 1)]
    weight: Option<i32>,
    state: Option<EndpointState>,
}

/// Which endpoints.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EndpointQuery {
    /// By its id or its name.
    gateway_id: Option<GatewayRef>,
    state: Option<EndpointState>,
    /// A field, or `-` and a field for the other direction.
    #[param(inline)]
    sort: Option<Sorting>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<i64>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Also count the items of all pages.
    count: Option<bool>,
}

pages! { EndpointQuery => EndpointSort }

fn some_transports() -> Schema {
    let transport = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(TRANSPORTS));
    let list = ArrayBuilder::new().schema_type(SchemaType::from_iter([Type::Array, Type::Null]));
    Schema::Array(list.items(transport).min_items(Some(1)).build())
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

/// Names the endpoint that has the same address, if that is what an error means.
async fn taken(admin: &Admin, error: ApiError, row: &Endpoint) -> ApiError {
    existing!(admin, error, names::endpoint(row), "the gateway has an endpoint with this host, port and path")
}

/// Lists endpoints
#[utoipa::path(get, path = "/endpoints", tag = "endpoints", operation_id = "list_endpoints", params(EndpointQuery),
    responses((status = OK, body = Page<EndpointView>)))]
pub(super) async fn list(
    admin: Admin,
    Query(query): Query<EndpointQuery>,
) -> Result<Json<Page<EndpointView>>, ApiError> {
    let paging = paging(&query)?;
    let mut conn = admin.read().await?;
    let gateway = GatewayRef::maybe(query.gateway_id.as_ref(), &mut conn, "gateway_id").await?;
    let filter = EndpointFilter { gateway, state: query.state };
    let found = dispatch!(&mut conn, lists::endpoints(&filter, &paging))?;
    Page::of(found, &paging, EndpointView::from)
}

/// Shows an endpoint
#[utoipa::path(get, path = "/endpoints/{id}", tag = "endpoints", operation_id = "get_endpoint",
    params(("id" = EndpointId, Path)), responses((status = OK, body = EndpointView)))]
pub(super) async fn get(admin: Admin, Path(id): Path<EndpointId>) -> Result<One<EndpointView>, ApiError> {
    Ok(One(dispatch!(&mut admin.read().await?, admin::endpoint::get(id))?.into()))
}

/// Makes an endpoint
#[utoipa::path(post, path = "/endpoints", tag = "endpoints", operation_id = "create_endpoint",
    request_body = NewEndpoint, responses((status = CREATED, body = EndpointView)))]
pub(super) async fn create(admin: Admin, Body(new): Body<NewEndpoint>) -> Result<Created<EndpointView>, ApiError> {
    let path = new.path.clone();
    let given = EndpointPatch {
        host: Some(new.host),
        port: new.port,
        sni: new.sni,
        path: Some(new.path),
        transports: new.transports,
        tls_pin: new.tls_pin,
        weight: new.weight,
        state: new.state,
    };
    let given = given.change()?;
    let host = given.host.unwrap_or_default();
    let mut conn = admin.write().await?;
    let row = Endpoint {
        id: EndpointId::fresh(),
        gateway_node_id: new.gateway_id.given(&mut conn, "gateway_id").await?,
        port: given.port.unwrap_or(HTTPS),
        sni: given.sni.unwrap_or_else(|| host.clone()),
        host,
        path,
        transports: given.transports.unwrap_or_else(|| TRANSPORTS.join(",")),
        tls_pin: given.tls_pin.unwrap_or_default(),
        weight: given.weight.unwrap_or(1),
        state: given.state.unwrap_or(EndpointState::Active),
        created_at: admin.now,
        revision: 0,
    };
    let made = dispatch!(&mut conn, admin::create_endpoint(&row));
    drop(conn);
    match made {
        Ok(()) => Ok(Created(row.into())),
        Err(error) => Err(taken(&admin, error.into(), &row).await),
    }
}

/// Changes an endpoint
#[utoipa::path(patch, path = "/endpoints/{id}", tag = "endpoints", operation_id = "update_endpoint",
    params(("id" = EndpointId, Path)), request_body = EndpointPatch, responses((status = OK, body = EndpointView)))]
pub(super) async fn update(
    admin: Admin,
    Path(id): Path<EndpointId>,
    IfMatch(expected): IfMatch,
    Body(patch): Body<EndpointPatch>,
) -> Result<One<EndpointView>, ApiError> {
    let change = patch.change()?;
    let row = dispatch!(&mut admin.write().await?, admin::endpoint::update(id, &change, &expected))?;
    Ok(One(row.into()))
}

/// Deletes an endpoint
#[utoipa::path(delete, path = "/endpoints/{id}", tag = "endpoints", operation_id = "delete_endpoint",
    params(("id" = EndpointId, Path)), responses((status = NO_CONTENT)))]
pub(super) async fn delete(admin: Admin, Path(id): Path<EndpointId>) -> Result<Deleted, ApiError> {
    admin.delete(Deletable::Endpoint(id)).await
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
