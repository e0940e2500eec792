use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body as _;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_http::services::{ServeDir, ServeFile};
use tower_http::set_status::SetStatus;

use crate::config::Decoy;
use crate::gateway::body::{Body, boxed};

/// What the site answers with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Situation {
    /// The site is here.
    Normal,
    /// The site is elsewhere and not to be reached.
    Down,
    /// Clear text came where TLS is spoken.
    ClearText,
}

/// Pages that the gateway has itself: a folder of files, and what a common server says of errors.
pub(super) struct Pages {
    files: Option<ServeDir<SetStatus<ServeFile>>>,
    server: String,
    idle: Duration,
}

impl Pages {
    pub(super) fn new(config: &Decoy) -> Self {
        let files = (!config.files.is_empty()).then(|| {
            let missing = ServeFile::new(std::path::Path::new(&config.files).join("404.html"));
            ServeDir::new(&config.files).not_found_service(missing)
        });
        Self { files, server: config.server.clone(), idle: config.idle_timeout }
    }

    /// The page that a request asks for.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: Send + 'static,
    {
        let found = match &self.files {
            Some(files) => files.clone().try_call(request).await,
            None => return self.error(StatusCode::NOT_FOUND),
        };
        let response = match found {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(%error, "failed to read a file of the site");
                return self.error(StatusCode::INTERNAL_SERVER_ERROR);
            }
        };
        if response.status().is_client_error() && response.body().is_end_stream() {
            return self.error(response.status());
        }
        self.signed(response.map(boxed))
    }

    /// What a common server says of an error.
    pub(super) fn error(&self, status: StatusCode) -> Response<Body> {
        let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
        self.page(status, &title, "")
    }

    fn page(&self, status: StatusCode, title: &str, text: &str) -> Response<Body> {
        let server = &self.server;
        let page = format!(
            "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n{text}<hr>\
             <center>{server}</center>\r\n</body>\r\n</html>\r\n"
        );
        let mut response = Response::new(boxed(Full::new(Bytes::from(page))));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        self.signed(response)
    }

    fn signed(&self, mut response: Response<Body>) -> Response<Body> {
        if let Ok(server) = HeaderValue::from_str(&self.server)
            && !self.server.is_empty()
        {
            response.headers_mut().insert(SERVER, server);
        }
        response
    }

    /// Serves a connection with a common server's timeout, every request as the situation has it.
    pub(super) async fn serve<S>(&self, socket: S, situation: Situation)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(move |request| async move {
            Ok::<_, Infallible>(match situation {
                Situation::Normal => self.answer(request).await,
                Situation::Down => self.error(StatusCode::BAD_GATEWAY),
                Situation::ClearText => self.clear_text(),
            })
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(socket), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "site connection closed with an error");
        }
    }

    fn clear_text(&self) -> Response<Body> {
        let title = "400 The plain HTTP request was sent to HTTPS port";
        let text = "<center>The plain HTTP request was sent to HTTPS port</center>\r\n";
        let mut response = self.page(StatusCode::BAD_REQUEST, title, text);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}
