//! A device's signed configuration.

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Method;
use serde_json::Value;

use crate::support::control::Control;

pub(crate) const CONFIG: &str = "/api/v1/client/config";
pub(crate) const KEYS: &str = "/.well-known/jwks.json";

/// Verifies a signed configuration and returns its payload.
pub(crate) async fn verify(control: &Control, jws: &str) -> Value {
    let header = jsonwebtoken::decode_header(jws).unwrap();
    assert_eq!(header.typ.as_deref(), Some("httvps-config+jwt"));
    let (_, keys) = control.ask(Method::GET, KEYS, "", None).await;
    let keys: JwkSet = serde_json::from_value(keys).unwrap();
    let key = DecodingKey::from_jwk(keys.find(header.kid.as_deref().unwrap()).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_issuer(&["httvps"]);
    validation.set_audience(&["httvps-client"]);
    jsonwebtoken::decode::<Value>(jws, &key, &validation).unwrap().claims
}

/// Fetches a device's configuration from the control plane.
pub(crate) async fn configuration(control: &Control, token: &str) -> (String, Value) {
    let response = control.http.get(format!("{}{CONFIG}", control.url)).bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let jws = response.text().await.unwrap();
    let payload = verify(control, &jws).await;
    (jws, payload)
}
