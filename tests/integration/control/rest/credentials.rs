//! Every route refuses every credential but its own kind; the routes are those of the router.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::contract::{operations, served};
use crate::support::control::ADMIN_KEY;
use crate::support::database::Kind;
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;

#[tokio::test(flavor = "multi_thread")]
async fn a_route_takes_the_credential_of_its_kind_only() {
    let api = GatewayApi::start(Kind::Sqlite, &[10], &[]).await;
    let subscriber = Subscriber::create(&api.control, json!({})).await;
    let held = [("administrator", ADMIN_KEY), ("gateway", api.token.as_str()), ("device", subscriber.token.as_str())];
    let strangers = [("nobody", None), ("stranger", Some("a key that nobody has given out to anyone"))];
    let all = operations(&served(&api.control).await);
    let guarded = all.iter().filter(|operation| operation.credential.is_some());
    let mut tried = 0;
    for operation in guarded {
        let url = format!("{}{}", api.control.url, operation.path.replace("{id}", &Uuid::now_v7().to_string()));
        let others = held.iter().filter(|(kind, _)| Some(*kind) != operation.credential.as_deref());
        let others = others.map(|(kind, key)| (*kind, Some(*key))).chain(strangers);
        for (kind, key) in others {
            let mut request = api.control.http.request(operation.method.clone(), &url);
            if let Some(key) = key {
                request = request.bearer_auth(key);
            }
            if operation.method != Method::GET {
                request = request.json(&json!({}));
            }
            let status = request.send().await.unwrap().status();
            assert_eq!(status.as_u16(), 401, "{} takes the credential of {kind}", operation.name);
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried}");
    let public: Vec<&str> =
        all.iter().filter(|operation| operation.credential.is_none()).map(|one| one.name.as_str()).collect();
    assert_eq!(public, ["get_keys", "enroll_device", "refresh_tokens", "enroll_gateway"]);
}
