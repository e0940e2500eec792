use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING, UPGRADE};
use hyper::{Request, Response};
use tokio::time::timeout;

use crate::gateway::{Shared, portal, upgrade};
use crate::net::http2::Piece;
use crate::net::proxy_protocol::Named;

/// Fields that HTTP/2 does not have (RFC 9113, section 8.2.2).
const CONNECTION_SPECIFIC: [HeaderName; 3] = [CONNECTION, TRANSFER_ENCODING, UPGRADE];

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

/// Answers what is no tunnel: the portal's requests from the control plane, others as the site does.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Piece>,
    ends: Named,
) {
    let len = request.headers().get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    let request = request.map(|stream| Incoming { stream, len });
    let response = if portal::may(&request, &shared) {
        match timeout(shared.tunnel.handshake_timeout, upgrade::relay(request, ends, &shared)).await {
            Ok(response) => response,
            Err(_) => return respond.send_reset(Reason::CANCEL),
        }
    } else {
        shared.site.answer(request, ends).await
    };
    let (mut head, body) = response.into_parts();
    for name in CONNECTION_SPECIFIC {
        head.headers.remove(name);
    }
    let ends = body.is_end_stream();
    match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(_) if ends => {}
        Ok(send) => deliver(send, body, shared.tunnel.handshake_timeout).await,
        Err(error) => tracing::debug!(%error, "a response was not taken"),
    }
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
