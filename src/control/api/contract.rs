//! The REST API as a contract: every operation with what it takes and answers, as `OpenAPI` 3.1 (docs/openapi.json).

use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use serde_json::{Value, json};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::idempotency::{IDEMPOTENCY_KEY, LONGEST_KEY};
use super::{admin, admission, client, enrollment, events, gateway_enrollment, heartbeat, usage};
use crate::api::Problem;
use crate::control::runtime::ControlState;

const PROBLEM: &str = "Problem";
const ADMINISTRATOR: &str = "administrator";
const GATEWAY: &str = "gateway";
const DEVICE: &str = "device";
/// Where schemas have their names: `components`, `schemas`, the name.
const NAMED_AT: usize = 3;

/// Tags, in the order in which a reader meets them.
const TAGS: [(&str, &str); 14] = [
    ("users", "Customers"),
    ("devices", "Installations of the client app, and what keeps them from working"),
    ("codes", "Activation codes, each of which makes one device"),
    ("plans", "What is sold"),
    ("subscriptions", "Who has bought what, until when"),
    ("regions", "Where traffic leaves"),
    ("endpoints", "Ways to reach gateways"),
    ("nodes", "Shadowsocks servers"),
    ("gateways", "Gateways and their tokens"),
    ("sessions", "Tunnels"),
    ("tokens", "How devices and gateways get their tokens"),
    ("clients' calls", "What devices ask for themselves, through a gateway"),
    ("gateways' calls", "What gateways say and ask"),
    ("contract", "This document"),
];

/// Why a request can fail.
const PROBLEMS: [(&str, &str); 12] = [
    ("400", "The request cannot be read"),
    ("401", "The credential is missing or not good"),
    ("403", "The caller may not"),
    ("404", "There is no such thing"),
    ("409", "Something is in the way"),
    ("412", "It was changed meanwhile"),
    ("413", "The body is too long"),
    ("422", "A field will not do"),
    ("426", "The gateway is too old"),
    ("500", "The control plane has a fault"),
    ("503", "The database is not available"),
    ("504", "It took too long"),
];

/// Every route, with its contract.
pub(super) fn routes() -> OpenApiRouter<Arc<ControlState>> {
    let api = OpenApiRouter::new()
        .routes(routes!(admission::validate_device))
        .routes(routes!(admission::assign_outline))
        .routes(routes!(enrollment::enroll))
        .routes(routes!(enrollment::refresh))
        .routes(routes!(gateway_enrollment::gateway_enroll))
        .routes(routes!(events::events))
        .routes(routes!(events::ack))
        .routes(routes!(usage::report))
        .routes(routes!(heartbeat::gateway_heartbeat))
        .routes(routes!(heartbeat::outline_heartbeat))
        .nest("/client", client::routes())
        .nest("/admin", admin::routes());
    OpenApiRouter::with_openapi(head()).routes(routes!(admission::jwks)).nest("/api/v1", api)
}

/// Serves the routes and their contract; to a browser as well, if it is wanted.
pub(super) fn serve(api: Router<Arc<ControlState>>, contract: OpenApi, docs: bool) -> Router<Arc<ControlState>> {
    let text: Arc<str> = written(contract).to_string().into();
    let answer = move || std::future::ready(([(CONTENT_TYPE, "application/json")], text.to_string()));
    let api = api.route("/api/v1/openapi.json", get(answer));
    if docs { api.merge(SwaggerUi::new("/api/docs").config(Config::from("/api/v1/openapi.json"))) } else { api }
}

fn head() -> OpenApi {
    let license =
        LicenseBuilder::new().name(env!("CARGO_PKG_LICENSE")).identifier(Some(env!("CARGO_PKG_LICENSE"))).build();
    let info = InfoBuilder::new()
        .title("HTTVPS control plane")
        .description(Some("Users, plans, nodes, gateways and sessions of an HTTVPS service. docs/02 has the prose."))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(license));
    OpenApi::new(info.build(), utoipa::openapi::Paths::new())
}

/// The contract as JSON: complete, and what has a name stands in one place.
fn written(contract: OpenApi) -> Value {
    let mut contract = serde_json::to_value(completed(contract)).unwrap_or_default();
    let schemas = contract.pointer("/components/schemas").and_then(Value::as_object).cloned().unwrap_or_default();
    let named: Vec<(&String, &Value)> = schemas.iter().filter(|(_, schema)| schema["type"] == "object").collect();
    refer(&mut contract, &named, 0);
    if let Some(data) = contract.pointer_mut("/components/schemas/EventMessage/properties/data") {
        data["contentSchema"] = json!({ "$ref": "#/components/schemas/Event" });
    }
    contract
}

/// Puts references in the place of copies of named schemas; those that are named stand at depth 3.
fn refer(value: &mut Value, named: &[(&String, &Value)], depth: usize) {
    if depth > NAMED_AT
        && let Some((name, _)) = named.iter().find(|(_, schema)| *schema == value)
    {
        *value = json!({ "$ref": format!("#/components/schemas/{name}") });
        return;
    }
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|field| refer(field, named, depth + 1)),
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, named, depth + 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Adds what all operations have in common.
fn completed(mut contract: OpenApi) -> OpenApi {
    let components = contract.components.get_or_insert_default();
    components.schemas.insert(PROBLEM.into(), Problem::schema());
    let mut schemas = Vec::new();
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for (status, what) in PROBLEMS {
        let mut problem = problem(what);
        describe(&mut problem, status);
        components.responses.insert(format!("{PROBLEM}{status}"), RefOr::T(problem));
    }
    for (name, who) in [
        (ADMINISTRATOR, "An administrator's key"),
        (GATEWAY, "A gateway's token"),
        (DEVICE, "A device's access token (JWT, EdDSA)"),
    ] {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(who)).build();
        components.security_schemes.insert(name.into(), RefOr::T(SecurityScheme::Http(scheme)));
    }
    for (path, item) in &mut contract.paths.paths {
        let methods = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Patch, &mut item.patch),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in methods {
            if let Some(operation) = operation {
                complete(operation, &method, path);
            }
        }
    }
    contract.tags =
        Some(TAGS.iter().map(|(name, what)| TagBuilder::new().name(*name).description(Some(*what)).build()).collect());
    contract
}

/// Whose credential an operation needs, if it needs one.
fn credential(path: &str) -> Option<&'static str> {
    match path {
        "/.well-known/jwks.json" | "/api/v1/auth/enroll" | "/api/v1/auth/refresh" | "/api/v1/gateway/enroll" => None,
        _ if path.starts_with("/api/v1/admin/") => Some(ADMINISTRATOR),
        _ if path.starts_with("/api/v1/client/") => Some(DEVICE),
        _ => Some(GATEWAY),
    }
}

fn complete(operation: &mut Operation, method: &HttpMethod, path: &str) {
    let credential = credential(path);
    let needed = credential.map(|name| SecurityRequirement::new(name, Vec::<String>::new()));
    operation.security = Some(needed.into_iter().collect());
    let is_admin = credential == Some(ADMINISTRATOR);
    let parameters = operation.parameters.get_or_insert_default();
    let has = |place: &ParameterIn| {
        parameters.iter().any(|one| matches!(one, RefOr::T(parameter) if parameter.parameter_in == *place))
    };
    let (has_path, has_query) = (has(&ParameterIn::Path), has(&ParameterIn::Query));
    if is_admin && *method == HttpMethod::Patch {
        let what = "The `ETag` that was read: nothing is done if it was changed";
        parameters.push(RefOr::T(header("If-Match", what, ObjectBuilder::new())));
    }
    let may_be_repeated = is_admin && *method == HttpMethod::Post;
    if may_be_repeated {
        let what = "A text of the caller's own: a repeated request within a day is answered as the first one was";
        parameters.push(RefOr::T(header(IDEMPOTENCY_KEY, what, ObjectBuilder::new().pattern(Some("^[!-~]+$")))));
    }
    let has_body = operation.request_body.is_some();
    let changes = *method != HttpMethod::Get;
    let statuses = [
        ("400", has_path || has_query || has_body),
        ("401", credential.is_some() || path.ends_with("/auth/refresh")),
        ("403", !is_admin),
        ("404", has_path || !is_admin),
        ("409", changes),
        ("412", is_admin && *method == HttpMethod::Patch),
        ("413", has_body),
        ("422", has_query || has_body || may_be_repeated),
        ("426", credential == Some(GATEWAY)),
        ("500", true),
        ("503", true),
        ("504", true),
    ];
    for (status, applies) in statuses {
        if applies {
            let named = Ref::from_response_name(format!("{PROBLEM}{status}"));
            operation.responses.responses.entry(status.into()).or_insert(RefOr::Ref(named));
        }
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            describe(response, status);
            if may_be_repeated && status.starts_with('2') {
                let replayed =
                    HeaderBuilder::new().description(Some("`true` if the first request's answer is repeated"));
                response.headers.insert("Idempotency-Replayed".into(), RefOr::T(replayed.build()));
            }
        }
    }
}

fn describe(response: &mut Response, status: &str) {
    if response.description.is_empty() {
        let what = match status {
            "200" => "Done",
            "201" => "Made",
            "204" => "Done; there is nothing to say",
            "304" => "It is as it was",
            _ => "",
        };
        what.clone_into(&mut response.description);
    }
    let id = HeaderBuilder::new().description(Some("Stands in the log too")).build();
    response.headers.insert("X-Request-Id".into(), RefOr::T(id));
}

fn header(name: &str, what: &str, text: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(what))
        .schema(Some(text.schema_type(Type::String).min_length(Some(1)).max_length(Some(LONGEST_KEY))))
        .build()
}

fn problem(what: &str) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name(PROBLEM))).build();
    ResponseBuilder::new().description(what).content("application/problem+json", body).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

    #[test]
    fn the_committed_contract_is_the_one_that_is_served() {
        let served = serde_json::to_string_pretty(&written(routes().split_for_parts().1)).unwrap() + "\n";
        if std::env::var_os("HTTVPS_WRITE_CONTRACT").is_some() {
            std::fs::write(FILE, &served).unwrap();
        }
        let committed = std::fs::read_to_string(FILE).unwrap_or_default();
        assert!(committed == served, "docs/openapi.json is not what is served: write it with `make contract`");
    }
}
