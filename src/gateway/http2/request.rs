use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::CONTENT_LENGTH;
use hyper::{Request, Response, StatusCode};
use tokio::time::timeout;

use crate::gateway::{Shared, portal};
use crate::net::http2::Piece;

/// The body of a request.
pub(super) struct Incoming {
    stream: RecvStream,
    len: Option<u64>,
}

impl Body for Incoming {
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

/// Answers what is no tunnel: below the tunnel's path the portal, for everything else the site.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Piece>,
    from: IpAddr,
) {
    let len = request.headers().get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    let request = request.map(|stream| Incoming { stream, len });
    let is_below = request.uri().path().strip_prefix(&shared.tunnel.path).is_some_and(|rest| rest.starts_with('/'));
    let response = if is_below {
        match timeout(shared.tunnel.handshake_timeout, below(&shared, request, from)).await {
            Ok(response) => response,
            Err(_) => return respond.send_reset(Reason::CANCEL),
        }
    } else {
        site(request)
    };
    let (head, body) = response.into_parts();
    let ends = body.is_end_stream();
    match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(_) if ends => {}
        Ok(send) => deliver(send, body, shared.tunnel.handshake_timeout).await,
        Err(error) => tracing::debug!(%error, "a response was not taken"),
    }
}

/// The control plane's answer, or the site's.
async fn below(shared: &Shared, request: Request<Incoming>, from: IpAddr) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Some(body) = portal::collect(body, shared.portal.body_max()).await else {
        return site(Request::from_parts(head, Full::<Bytes>::default()));
    };
    let request = Request::from_parts(head, Full::new(body));
    match Box::pin(portal::answer(request.clone(), from, shared)).await {
        Some(response) => response,
        None => site(request),
    }
}

/// What everybody gets who is no client.
fn site<B: Body<Data = Bytes>>(_: Request<B>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// Sends a body as the client takes it, or resets the stream if it takes nothing for a time.
async fn deliver<B>(mut send: SendStream<Piece>, mut body: B, patience: Duration)
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(mut bytes) = frame.into_data() else { continue };
        while !bytes.is_empty() {
            send.reserve_capacity(bytes.len());
            let room = poll_fn(|cx| match send.capacity() {
                0 => send.poll_capacity(cx),
                room => Poll::Ready(Some(Ok(room))),
            });
            let Ok(Some(Ok(room))) = timeout(patience, room).await else { return send.send_reset(Reason::CANCEL) };
            let piece = bytes.split_to(room.min(bytes.len()));
            if send.send_data(piece.into(), false).is_err() {
                return;
            }
        }
    }
    if let Err(error) = send.send_data(Piece::default(), true) {
        tracing::debug!(%error, "a response was not taken");
    }
}
