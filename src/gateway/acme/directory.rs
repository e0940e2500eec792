use std::pin::Pin;

use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::Client;

use crate::config;
use crate::net::tls::{self, TlsError};

/// More than any answer has.
const ANSWER_MAX: usize = 1024 * 1024;

/// Why no directory can be spoken with.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

/// Speaks HTTPS with a directory.
#[derive(Clone)]
pub(super) struct Http(Client);

impl Http {
    /// Trusts the authorities in `ca`, or the system's without one.
    pub(super) fn new(config: &config::Acme, ca: Option<&[u8]>) -> Result<Self, HttpError> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client(ca)?.as_ref().clone())
            .timeout(config.request_timeout)
            .https_only(true)
            .no_proxy()
            .build()?;
        Ok(Self(client))
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let other = |error: reqwest::Error| Error::Other(error.into());
            let request = reqwest::Request::try_from(Request::from_parts(parts, body)).map_err(other)?;
            let response = Response::from(client.execute(request).await.map_err(other)?);
            Ok(response.map(|body| Limited::new(body, ANSWER_MAX)).into())
        })
    }
}
