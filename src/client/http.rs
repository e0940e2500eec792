//! HTTP CONNECT (RFC 9110, section 9.3.6).

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::connection::Connection;
use super::local;
use crate::frame::Target;

pub(super) async fn serve(socket: TcpStream, connection: Arc<Connection>) -> io::Result<()> {
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(connect(request, connection).await) }
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)
}

async fn connect(mut request: Request<Incoming>, connection: Arc<Connection>) -> Response<Empty<Bytes>> {
    let answer = |status| {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::CONNECT {
        return answer(StatusCode::METHOD_NOT_ALLOWED);
    }
    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let Ok(target) = Target::parse(&authority) else { return answer(StatusCode::BAD_REQUEST) };
    if connection.tunnel().await.is_err() {
        return answer(StatusCode::BAD_GATEWAY);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Err(error) = carry(upgrade, &target, &connection).await {
            tracing::debug!(%error, "local connection closed with an error");
        }
    });
    answer(StatusCode::OK)
}

/// Takes the program's socket back out of hyper, with what it sent behind its request.
async fn carry(upgrade: OnUpgrade, target: &Target, connection: &Connection) -> io::Result<()> {
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| io::Error::other("the upgraded socket is of another type"))?;
    local::relay(target, parts.io.into_inner(), BytesMut::from(parts.read_buf), connection).await
}
