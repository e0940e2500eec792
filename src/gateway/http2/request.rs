use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, DATE, HeaderValue};
use hyper::{Request, Response};
use tokio::time::timeout;

use crate::gateway::body::{Body, without_connection};
use crate::gateway::portal::PortalRequest;
use crate::gateway::{GatewayState, upgrade};
use crate::net::http2::Piece;
use crate::net::proxy_protocol::Named;

/// The body of a request.
pub(super) struct Incoming {
    stream: RecvStream,
    len: Option<u64>,
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(bytes)) => {
                let released = self.stream.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(released.map(|()| Frame::data(bytes))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.len.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Answers what is no tunnel: the portal's requests from the control plane, others as the site does; until the client
/// gives the stream up.
pub(super) async fn answer(
    state: Arc<GatewayState>,
    portal_request: Option<PortalRequest>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Piece>,
    ends: Named,
) {
    let len = request.headers().get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    let request = request.map(|stream| Incoming { stream, len });
    let limit = state.tunnel.handshake_timeout;
    let answering = async {
        match &portal_request {
            Some(portal_request) => upgrade::relay(portal_request, request, ends, &state).await,
            None => state.site.answer(request, ends).await,
        }
    };
    let answered = tokio::select! {
        answered = timeout(limit, Box::pin(answering)) => answered,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let Ok(response) = answered else { return respond.send_reset(Reason::CANCEL) };
    let (mut head, body) = response.into_parts();
    without_connection(&mut head.headers);
    if !head.headers.contains_key(DATE)
        && let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(state.clock.system().now().into()))
    {
        head.headers.insert(DATE, now);
    }
    let ends = body.is_end_stream();
    match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(_) if ends => {}
        Ok(send) => deliver(send, body, limit).await,
        Err(error) => tracing::debug!(%error, "failed to send a response"),
    }
}

/// Sends a body as the client takes it. The stream is reset if it takes nothing for a time or if the body breaks off.
async fn deliver(mut send: SendStream<Piece>, mut body: Body, limit: Duration) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = poll_fn(|cx| send.poll_reset(cx)) => return,
        };
        let mut bytes = match frame {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => {
                tracing::debug!(%error, "response body ended early");
                return send.send_reset(Reason::INTERNAL_ERROR);
            }
            None => break,
        };
        while !bytes.is_empty() {
            send.reserve_capacity(bytes.len());
            let room = poll_fn(|cx| match send.capacity() {
                0 => send.poll_capacity(cx),
                room => Poll::Ready(Some(Ok(room))),
            });
            let Ok(Some(Ok(room))) = timeout(limit, room).await else { return send.send_reset(Reason::CANCEL) };
            let piece = bytes.split_to(room.min(bytes.len()));
            if send.send_data(piece.into(), false).is_err() {
                return;
            }
        }
    }
    if let Err(error) = send.send_data(Piece::default(), true) {
        tracing::debug!(%error, "failed to send a response");
    }
}
