use std::sync::Arc;

use axum::body::Body as Stream;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, Response, StatusCode};
use serde::Deserialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::api::{Event, EventAck};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromGateway, Query};
use crate::control::db::dispatch;
use crate::control::model::id::InstanceId;
use crate::control::runtime::ControlState;

/// Proxies such as nginx pass on what carries it as it comes.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A message of the stream.
pub(in crate::control) struct EventMessage;

impl PartialSchema for EventMessage {
    fn schema() -> RefOr<Schema> {
        let text = |what| ObjectBuilder::new().schema_type(Type::String).description(Some(what));
        ObjectBuilder::new()
            .description(Some("A message of the event stream."))
            .property("id", text("The event's `seq`."))
            .property("data", text("An `Event`.").content_media_type("application/json"))
            .required("data")
            .into()
    }
}

impl ToSchema for EventMessage {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Event::name().into(), Event::schema()));
        Event::schemas(schemas);
    }
}

/// Where a gateway was when its stream ended.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::control) struct Resume {
    after: Option<i64>,
    epoch: Option<String>,
}

/// Streams events to a gateway
///
/// Server-sent events. Behind `after` of the same `epoch` they go on, otherwise the
/// first is a snapshot.
#[utoipa::path(get, path = "/gateway/events", tag = "gateways' calls", operation_id = "follow_events", params(Resume),
    responses((status = OK, content_type = "text/event-stream", body = EventMessage)))]
pub(in crate::control) async fn events(
    State(state): State<Arc<ControlState>>,
    FromGateway(known): FromGateway,
    Query(resume): Query<Resume>,
) -> Result<Response<Stream>, ApiError> {
    let resumed = match (&resume.epoch, resume.after) {
        (Some(epoch), Some(after)) => state.events.resume(known.gateway.id, epoch, after),
        _ => None,
    };
    let cursor = if let Some(cursor) = resumed {
        cursor
    } else {
        let epoch = state.events.epoch();
        let (seq, sessions) = dispatch!(&mut state.db.read().await?, events::snapshot(known.gateway.id))?;
        state.events.snapshot(known.gateway.id, epoch, seq, sessions)
    };
    let chunks = futures_util::stream::unfold((state, cursor), |(state, mut cursor)| async move {
        let chunk = state.events.next(&mut cursor).await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), (state, cursor)))
    });
    Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .header(CACHE_CONTROL, "no-store")
        .header(UNBUFFERED, "no")
        .body(Stream::from_stream(chunks))
        .map_err(ApiError::internal)
}

/// Acknowledges events
#[utoipa::path(post, path = "/gateway/events/ack", tag = "gateways' calls", operation_id = "acknowledge_events",
    request_body = EventAck, responses((status = NO_CONTENT)))]
pub(in crate::control) async fn ack(
    State(state): State<Arc<ControlState>>,
    FromGateway(known): FromGateway,
    Body(request): Body<EventAck>,
) -> Result<StatusCode, ApiError> {
    if !state.events.is_of(&request.epoch) {
        return Err(ApiError::conflict("OTHER_EPOCH", "the database is another one: take a snapshot"));
    }
    dispatch!(
        &mut state.db.get().await?,
        events::ack(known.gateway.id, request.instance.map(InstanceId::from), request.seq, state.now())
    )?;
    Ok(StatusCode::NO_CONTENT)
}
