//! Lists: filters, orders, pages and counts.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::control::{ADMIN_KEY, Control, id};
use crate::support::database::BOTH;
use crate::support::gateway_api::GatewayApi;
use crate::support::subscriber::Subscriber;

async fn refused(control: &Control, path: &str) -> (u16, Value, Value) {
    let path = format!("/api/v1/admin/{path}");
    let (status, problem) = control.ask(Method::GET, &path, ADMIN_KEY, None).await;
    (status.as_u16(), problem["errors"][0]["field"].clone(), problem["errors"][0]["code"].clone())
}

async fn texts(control: &Control, path: &str, member: &str) -> Vec<String> {
    let rows = control.list(path).await;
    rows.iter().map(|row| row[member].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_found_by_what_they_are_known_by() {
    for kind in BOTH {
        let control = Control::start(kind).await;
        for (identifier, status) in [
            ("Ann@Example.com", "active"),
            ("ann.lee@example.com", "pending"),
            ("+49 30 123-4567", "active"),
            ("777", "active"),
            ("b\u{e9}a@example.com", "active"),
        ] {
            control.create("users", json!({ "identifier": identifier, "status": status })).await;
        }
        let found = async |query: &str| texts(&control, &format!("users?{query}"), "identifier").await;
        assert_eq!(found("identifier=%20ANN%40example.com").await, ["ann@example.com"], "{kind:?}");
        assert_eq!(found("identifier=004930%2F1234567").await, ["+49301234567"]);
        assert_eq!(found("identifier=be%CC%81a@example.com").await, ["b\u{e9}a@example.com"]);
        assert_eq!(found("identifier=nobody").await, [] as [&str; 0]);
        assert_eq!(found("identifier_prefix=ann").await, ["ann@example.com", "ann.lee@example.com"]);
        assert_eq!(found("identifier_prefix=ann&status=pending").await, ["ann.lee@example.com"]);
        assert_eq!(found("identifier_prefix=%25").await, [] as [&str; 0]);
        assert_eq!(found("identifier_kind=phone").await, ["+49301234567"]);
        let (status, taken) = control
            .ask(Method::POST, "/api/v1/admin/users", ADMIN_KEY, Some(&json!({ "identifier": "ANN@example.com " })))
            .await;
        let ann = id(&control.list("users?identifier=ann@example.com").await[0]);
        assert_eq!((status.as_u16(), &taken["code"], &taken["existing"]), (409, &json!("CONFLICT"), &json!(ann)));
        let detail = format!("a user with this e-mail address exists: {ann}");
        assert_eq!(taken["detail"], detail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_in_any_order() {
    for kind in BOTH {
        let control = Control::start(kind).await;
        let mut names: Vec<String> = (0..23).map(|at| format!("plan {:02}", at * 7 % 23)).collect();
        for name in &names {
            control.create("plans", json!({ "name": name })).await;
        }
        let page = async |query: &str| control.admin(Method::GET, &format!("plans?{query}"), Value::Null).await;
        let first = page("limit=23&count=true").await;
        assert_eq!((&first["next"], &first["total"]), (&Value::Null, &json!(23)), "{kind:?}");
        for limit in [1, 5, 22, 200] {
            for (sort, descending) in [("id", false), ("-id", true), ("name", false), ("-name", true)] {
                let by_name = sort.ends_with("name");
                let listed = texts(&control, &format!("plans?sort={sort}&limit={limit}"), "name").await;
                let mut expected = names.clone();
                if by_name {
                    expected.sort();
                }
                if descending {
                    expected.reverse();
                }
                assert_eq!(listed, expected, "{kind:?} {sort} {limit}");
            }
        }
        let next = page("limit=5&sort=name").await["next"].as_str().unwrap().to_owned();
        names.sort();
        control.create("plans", json!({ "name": "plan 00 and a half" })).await;
        let listed = page(&format!("limit=5&sort=name&cursor={next}")).await;
        assert_eq!(listed["items"][0]["name"], json!(names[5]), "what was made before the cursor moves nothing");
        let invalid = json!("INVALID");
        for (query, field, code) in [
            (format!("cursor={next}"), "cursor", &invalid),
            ("cursor=abc".into(), "cursor", &invalid),
            ("sort=price".into(), "sort", &invalid),
            ("limit=0".into(), "limit", &json!("OUT_OF_RANGE")),
            ("limit=201".into(), "limit", &json!("OUT_OF_RANGE")),
            ("limit=x".into(), "limit", &invalid),
            ("status=active".into(), "status", &json!("UNKNOWN")),
        ] {
            let answer = refused(&control, &format!("plans?{query}")).await;
            assert_eq!(answer, (422, json!(field), code.clone()), "{query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_gateways_are_filtered() {
    for kind in BOTH {
        let api = GatewayApi::start(kind, &[10, 10], &[]).await;
        let control = &api.control;
        let (ann, bob) = (Subscriber::create(control, json!({})).await, Subscriber::create(control, json!({})).await);
        let mut sessions = Vec::new();
        for subscriber in [&ann, &ann, &bob] {
            sessions.push(api.begin(subscriber).await);
        }
        control.admin(Method::DELETE, &format!("sessions/{}", sessions[0]), Value::Null).await;
        let found = async |query: &str| texts(control, &format!("sessions?{query}"), "id").await;
        assert_eq!(found(&format!("user_id={}", ann.user)).await, sessions[..2], "{kind:?}");
        assert_eq!(found(&format!("device_id={}&state=killed", ann.device)).await, sessions[..1]);
        assert_eq!(found("gateway_id=gw-1&state=reserved").await, sessions[1..]);
        assert_eq!(found("started_after=2099-01-01T00:00:00Z").await, [] as [&str; 0]);
        assert_eq!(found("started_before=2099-01-01T00:00:00%2B01:00").await, sessions);
        let node = control.get("sessions", &sessions[2]).await["outline_node_id"].as_str().unwrap().to_owned();
        assert!(found(&format!("node_id={node}")).await.contains(&sessions[2]));
        let answer = refused(control, "sessions?gateway_id=nowhere").await;
        assert_eq!(answer, (422, json!("gateway_id"), json!("UNKNOWN")));
        let answer = refused(control, "sessions?started_after=yesterday").await;
        assert_eq!(answer, (422, json!("started_after"), json!("INVALID")));
        assert_eq!(control.list("gateways?status=unknown&region=eu-1").await.len(), 1);
        assert_eq!(control.list("gateways?status=online").await.len(), 0);
        control.update("nodes", &api.nodes[0], json!({ "state": "draining" })).await;
        assert_eq!(texts(control, "nodes?status=draining", "id").await, [api.nodes[0].clone()]);
        assert_eq!(texts(control, "nodes?status=active", "id").await, [api.nodes[1].clone()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_found_by_what_they_are_now() {
    for kind in BOTH {
        let control = Control::start(kind).await;
        let user = id(&control.create("users", json!({ "identifier": "a@b.c" })).await);
        for (plan, grace) in [("short", 0), ("long", 48)] {
            control.create("plans", json!({ "name": plan, "grace_hours": grace })).await;
        }
        let day = time::Duration::DAY;
        let now = httvps::clock::Clock::system().now();
        let at = |days: i32| {
            let moment = now + day * days;
            moment.format(&time::format_description::well_known::Rfc3339).unwrap()
        };
        let mut made = Vec::new();
        for (plan, from, until) in
            [("short", -9, 9), ("short", -9, -1), ("long", -9, -1), ("long", -9, -3), ("long", 3, 9)]
        {
            let body = json!({ "user_id": user, "plan_id": plan, "starts_at": at(from), "valid_until": at(until) });
            made.push(id(&control.create("subscriptions", body).await));
        }
        let cancelled = json!({ "user_id": user, "plan_id": "long", "days": 30 });
        let cancelled = id(&control.create("subscriptions", cancelled).await);
        control.create(&format!("subscriptions/{cancelled}/cancel"), json!({})).await;
        made.push(cancelled);
        for (state, expected) in [
            ("active", vec![0]),
            ("grace", vec![2]),
            ("expired", vec![1, 3]),
            ("pending", vec![4]),
            ("cancelled", vec![5]),
        ] {
            let expected: Vec<String> = expected.into_iter().map(|at: usize| made[at].clone()).collect();
            let path = format!("subscriptions?state={state}");
            assert_eq!(texts(&control, &path, "id").await, expected, "{kind:?} {state}");
            for row in control.list(&path).await {
                assert_eq!(row["state"], state);
            }
        }
        let ending = format!("subscriptions?ends_after={}&ends_before={}&plan_id=long", at(-2), at(0));
        assert_eq!(texts(&control, &ending, "id").await, [made[2].clone()]);
        let soonest = texts(&control, "subscriptions?sort=valid_until&limit=1", "id").await;
        assert_eq!(soonest[0], made[3]);
    }
}
