//! Requests that are repeated with the same `Idempotency-Key`.

use reqwest::header::{ETAG, RETRY_AFTER};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::control::{ADMIN_KEY, Control, start_with_region};
use crate::support::database::{BOTH, Kind, connect};
use crate::support::wait::eventually;

/// What a request was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    is_replayed: bool,
    etag: Option<String>,
    retry_after: Option<String>,
    body: Value,
}

impl Answer {
    /// Status, code and the field at fault.
    fn problem(&self) -> (u16, &str, Option<&str>) {
        let field = self.body["errors"][0]["field"].as_str();
        (self.status, self.body["code"].as_str().unwrap_or_default(), field)
    }
}

async fn post_as(administrator: &str, control: &Control, path: &str, keys: &[&str], body: &Value) -> Answer {
    let request = control.http.post(format!("{}/api/v1/admin/{path}", control.url)).bearer_auth(administrator);
    let request = keys.iter().fold(request, |request, key| request.header("Idempotency-Key", *key));
    let response = request.json(body).send().await.unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (etag, retry_after, replayed) =
        (header(ETAG.as_str()), header(RETRY_AFTER.as_str()), header("idempotency-replayed"));
    Answer {
        status: response.status().as_u16(),
        is_replayed: replayed.as_deref() == Some("true"),
        etag,
        retry_after,
        body: response.json().await.unwrap(),
    }
}

async fn post(control: &Control, path: &str, key: &str, body: &Value) -> Answer {
    post_as(ADMIN_KEY, control, path, &[key], body).await
}

/// Waits until a statement gives a row.
async fn appears(client: &Client, sql: &str) {
    eventually(|| async {
        if client.query(sql, &[]).await.unwrap().is_empty() { Err(sql.to_owned()) } else { Ok(()) }
    })
    .await;
}

const CLAIMED: &str = "SELECT FROM idempotent_requests WHERE status IS NULL";
const BLOCKED: &str = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_makes_one_row_and_gives_the_same_secret() {
    for kind in BOTH {
        let control = start_with_region(kind, &[]).await;
        let ann = json!({ "identifier": "ann@example.com" });
        let first = post(&control, "users", "ann-1", &ann).await;
        let again = post(&control, "users", "ann-1", &ann).await;
        assert_eq!((first.status, first.is_replayed, again.status, again.is_replayed), (201, false, 201, true));
        assert_eq!((&first.body, &first.etag), (&again.body, &again.etag));
        assert_eq!(first.etag.as_deref(), Some("\"0\""));
        assert_eq!(post(&control, "users", "ann-2", &ann).await.problem().0, 409, "another key is another request");

        let code = json!({ "user_id": first.body["id"] });
        let first = post(&control, "codes", "ann-1", &code).await;
        assert_eq!((first.status, first.is_replayed), (201, false), "a key is of one path");
        assert!(first.body["code"].is_string());
        assert_eq!(post(&control, "codes", "ann-1", &code).await.body, first.body);
        assert_eq!(control.list("codes").await.len(), 1);
        let other = post(&control, "codes", "another", &code).await;
        assert_ne!(other.body["code"], first.body["code"]);

        let region = json!({ "name": "gw-1", "region": "eu-1" });
        let made = post(&control, "gateways", "gw-1", &region).await;
        let again = post(&control, "gateways", "gw-1", &region).await;
        assert_eq!((&made.body["token"], again.is_replayed), (&again.body["token"], true));
        let revoke = format!("gateways/{}/revoke", made.body["id"].as_str().unwrap());
        assert_eq!(post(&control, &revoke, "gw-1", &Value::Null).await.status, 200);
        assert!(post(&control, &revoke, "gw-1", &Value::Null).await.is_replayed);

        if kind == Kind::Postgres {
            let client = connect(control.database()).await;
            for row in client.query("SELECT body FROM idempotent_requests", &[]).await.unwrap() {
                let sealed: &str = row.get(0);
                assert!(!sealed.contains("code") && !sealed.contains(first.body["code"].as_str().unwrap()), "{sealed}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_same_request_of_the_same_administrator_is_a_repetition() {
    for kind in BOTH {
        let control = Control::start_with(kind, &[("CONTROL__BODY_LIMIT", "1 KiB")]).await;
        let ann = json!({ "identifier": "ann@example.com" });
        assert_eq!(post_as("wrong", &control, "users", &["key"], &ann).await.problem().0, 401);
        assert_eq!(post_as("wrong", &control, "users", &["k y"], &ann).await.problem().0, 401);
        assert_eq!(post(&control, "users", "key", &ann).await.status, 201);
        assert_eq!(post_as("wrong", &control, "users", &["key"], &ann).await.problem().0, 401);
        let reused = post(&control, "users", "key", &json!({ "identifier": "bob@example.com" })).await;
        assert_eq!(reused.problem(), (422, "IDEMPOTENCY_KEY_REUSED", Some("Idempotency-Key")));
        assert_eq!(control.list("users").await.len(), 1);

        let bob = json!({ "identifier": "bob@example.com" });
        let long = "k".repeat(256);
        for keys in [&["k y"][..], &[""], &[&long], &["k\u{e9}y"], &["one", "two"]] {
            let refused = post_as(ADMIN_KEY, &control, "users", keys, &bob).await;
            assert_eq!(refused.problem(), (422, "INVALID", Some("Idempotency-Key")), "{keys:?}");
        }
        let large = json!({ "identifier": "b".repeat(2048) });
        assert_eq!(post(&control, "users", "large", &large).await.problem().0, 413);

        let nobody = post(&control, "users", &long[..255], &json!({ "identifier": "" })).await;
        assert_eq!(nobody.problem(), (422, "INVALID", Some("identifier")));
        let corrected = post(&control, "users", &long[..255], &bob).await;
        assert_eq!((corrected.status, corrected.is_replayed), (201, false), "what did nothing leaves its key free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_repetitions_are_carried_out_once() {
    for kind in BOTH {
        let control = Control::start(kind).await;
        for round in 0..20 {
            let user = json!({ "identifier": format!("user-{round}@example.com") });
            let key = format!("round-{round}");
            let all = futures_util::future::join_all((0..20).map(|_| post(&control, "users", &key, &user))).await;
            let made: Vec<&Answer> = all.iter().filter(|answer| answer.status == 201).collect();
            assert_eq!(made.iter().filter(|answer| !answer.is_replayed).count(), 1, "{all:?}");
            assert!(made.iter().all(|answer| answer.body == made[0].body), "{made:?}");
            for waiting in all.iter().filter(|answer| answer.status != 201) {
                assert_eq!(waiting.problem(), (409, "IN_PROGRESS", None));
                assert_eq!(waiting.retry_after.as_deref(), Some("1"));
            }
        }
        assert_eq!(control.list("users").await.len(), 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_forgotten_after_its_time() {
    for kind in BOTH {
        let more = [("CONTROL__REQUEST_TIMEOUT", "900ms"), ("CONTROL__IDEMPOTENCY_TTL", "1s")];
        let control = Control::start_with(kind, &more).await;
        let plan = json!({ "name": "plan" });
        assert_eq!(post(&control, "plans", "key", &plan).await.status, 201);
        eventually(|| async {
            let answer = post(&control, "plans", "key", &plan).await;
            if answer.status == 409 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_outcome_nobody_knows_is_not_repeated() {
    let mut control = Control::start_with(Kind::Postgres, &[("CONTROL__REQUEST_TIMEOUT", "3s")]).await;
    let ann = json!({ "identifier": "ann@example.com" });
    let (holder, watcher) = (connect(control.database()).await, connect(control.database()).await);
    holder.batch_execute("BEGIN; LOCK TABLE users").await.unwrap();
    let (abandoned, waiting) = tokio::join!(post(&control, "users", "slow", &ann), async {
        appears(&watcher, CLAIMED).await;
        post(&control, "users", "slow", &ann).await
    });
    assert_eq!(abandoned.problem(), (504, "GATEWAY_TIMEOUT", None));
    assert_eq!(waiting.problem(), (409, "IN_PROGRESS", None));
    eventually(|| async {
        let answer = post(&control, "users", "slow", &ann).await;
        if answer.problem() == (409, "OUTCOME_UNKNOWN", None) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;

    watcher.batch_execute("DELETE FROM idempotent_requests").await.unwrap();
    let (http, url) = (control.http.clone(), format!("{}/api/v1/admin/users", control.url));
    let request = http.post(url).bearer_auth(ADMIN_KEY).header("Idempotency-Key", "lost").json(&ann);
    let lost = tokio::spawn(request.send());
    appears(&watcher, CLAIMED).await;
    control.kill().await;
    assert!(lost.await.unwrap().is_err());
    holder.batch_execute("ROLLBACK").await.unwrap();
    control.resume().await;
    eventually(|| async {
        let answer = post(&control, "users", "lost", &ann).await;
        assert_eq!(answer.status, 409, "{answer:?}");
        if answer.problem().1 == "OUTCOME_UNKNOWN" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_database_refused_may_run_again() {
    let control = Control::start(Kind::Postgres).await;
    let ann = json!({ "identifier": "ann@example.com" });
    let (holder, watcher) = (connect(control.database()).await, connect(control.database()).await);
    for (end, key, then) in [("cancel", "refused", 201), ("terminate", "broken", 409)] {
        holder.batch_execute("BEGIN; LOCK TABLE users").await.unwrap();
        let (failed, ()) = tokio::join!(post(&control, "users", key, &ann), async {
            appears(&watcher, BLOCKED).await;
            let blocked = BLOCKED.strip_prefix("SELECT").unwrap();
            watcher.batch_execute(&format!("SELECT pg_{end}_backend(pid) {blocked}")).await.unwrap();
        });
        assert_eq!(failed.problem(), (503, "DATABASE_UNAVAILABLE", None), "{end}");
        holder.batch_execute("ROLLBACK").await.unwrap();
        let again = post(&control, "users", key, &ann).await;
        assert_eq!((again.status, again.is_replayed), (then, false), "{end}: {again:?}");
        if then == 409 {
            assert_eq!(again.problem().1, "IN_PROGRESS", "the commit may have reached the database");
        }
    }
}
