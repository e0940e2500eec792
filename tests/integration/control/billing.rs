//! Plans, subscriptions, payments and changes of plan on both databases.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::billing_api::BillingApi;
use crate::support::control::{REGION, admin_env, id};
use crate::support::database::{BOTH, Kind};
use crate::support::process::run;
use crate::support::subscriber::Subscriber;
use crate::support::times::{days, now, parse_rfc3339};
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_renews_once() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let subscriber = Subscriber::create(&billing.api.control, json!({})).await;
        let before = billing.subscription(&subscriber).await;
        let payment = json!({ "days": 30, "payment_id": "invoice 7" });
        let wishes = (0..10).map(|_| billing.verb(&subscriber, "renew", payment.clone()));
        let answers = futures_util::future::join_all(wishes).await;
        assert!(answers.iter().all(|(status, _)| *status == 200), "{kind:?} {answers:?}");
        let first: Vec<_> = answers.iter().filter(|(_, answer)| answer["repeated"] == false).collect();
        assert_eq!(first.len(), 1, "{kind:?} {answers:?}");
        assert!(first[0].1["delivery"].is_object(), "{}", first[0].1);
        let after = billing.subscription(&subscriber).await;
        assert_eq!(parse_rfc3339(&after["valid_until"]), parse_rfc3339(&before["valid_until"]) + days(30), "{kind:?}");
        assert!(answers.iter().all(|(_, answer)| answer["valid_until"] == after["valid_until"]));
        let other = Subscriber::create(&billing.api.control, json!({})).await;
        for (whose, verb, body) in [
            (&subscriber, "renew", json!({ "days": 31, "payment_id": "invoice 7" })),
            (&other, "renew", payment.clone()),
            (&subscriber, "top-up", json!({ "gb": 1, "payment_id": "invoice 7" })),
        ] {
            let (status, problem) = billing.verb(whose, verb, body).await;
            assert_eq!((status, &problem["code"]), (409, &json!("PAYMENT_USED")));
        }
        for (body, field) in [
            (json!({ "days": 30, "payment_id": "" }), "payment_id"),
            (json!({ "days": 30, "payment_id": "x".repeat(256) }), "payment_id"),
            (json!({ "days": 0, "payment_id": "y" }), "days"),
            (json!({ "payment_id": "y" }), "days"),
        ] {
            let (status, problem) = billing.verb(&subscriber, "renew", body).await;
            assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!(field)), "{problem}");
        }
        let nobody = format!("subscriptions/{}/renew", Uuid::now_v7());
        assert_eq!(billing.ask(Method::POST, &nobody, json!({ "days": 1, "payment_id": "z" })).await.0, 404);
        assert_eq!(billing.subscription(&subscriber).await["valid_until"], after["valid_until"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_after_the_end_starts_now() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let subscriber = billing.customer(json!({}), now() - days(40), now() - days(10)).await;
        assert_eq!(billing.subscription(&subscriber).await["state"], "expired");
        assert_eq!(billing.api.validate(&subscriber, json!({})).await["code"], "SUBSCRIPTION_EXPIRED");
        let (status, answer) = billing.verb(&subscriber, "renew", json!({ "days": 5, "payment_id": "p" })).await;
        assert_eq!((status, &answer["state"]), (200, &json!("active")), "{answer}");
        let until = parse_rfc3339(&answer["valid_until"]);
        assert!(
            until >= now() + days(5) - Duration::from_mins(1) && until <= now() + days(5) + Duration::from_secs(1),
            "{until}"
        );
        assert_eq!(billing.api.validate(&subscriber, json!({})).await["ok"], true);
        billing.api.control.update("subscriptions", &subscriber.subscription, json!({ "status": "expired" })).await;
        assert_eq!(billing.subscription(&subscriber).await["state"], "expired");
        let (_, answer) = billing.verb(&subscriber, "renew", json!({ "days": 1, "payment_id": "q" })).await;
        assert_eq!((&answer["state"], &answer["status"]), (&json!("active"), &json!("active")));
        assert_eq!(parse_rfc3339(&answer["valid_until"]), until + days(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscription_state_is_derived_from_the_clock() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let grace = json!({ "grace_hours": 1 });
        for (plan, from, until, state, ok) in [
            (json!({}), now() + days(1), now() + days(2), "pending", false),
            (json!({}), now() - days(1), now() + days(1), "active", true),
            (grace.clone(), now() - days(1), now() - Duration::from_mins(30), "grace", true),
            (grace, now() - days(1), now() - Duration::from_secs(3601), "expired", false),
            (json!({}), now() - days(1), now() - Duration::from_secs(1), "expired", false),
        ] {
            let subscriber = billing.customer(plan, from, until).await;
            let row = billing.subscription(&subscriber).await;
            assert_eq!((&row["state"], &row["status"]), (&json!(state), &json!("active")), "{kind:?} {row}");
            assert_eq!(billing.api.validate(&subscriber, json!({})).await["ok"], ok, "{kind:?} {state}");
        }
        let subscriber = billing.customer(json!({}), now() - days(1), now() + Duration::from_secs(2)).await;
        eventually(|| async {
            let row = billing.subscription(&subscriber).await;
            if row["state"] == "expired" && row["status"] == "active" { Ok(()) } else { Err(row.to_string()) }
        })
        .await;
        assert_eq!(billing.api.validate(&subscriber, json!({})).await["code"], "SUBSCRIPTION_EXPIRED");
        let listed = billing.api.control.list("subscriptions").await;
        assert_eq!(listed.len(), 6);
        assert!(listed.iter().all(|row| row["state"].is_string() && row["served_until"].is_string()));
        let in_grace = listed.iter().find(|row| row["state"] == "grace").unwrap();
        assert_eq!(
            parse_rfc3339(&in_grace["served_until"]),
            parse_rfc3339(&in_grace["valid_until"]) + Duration::from_hours(1)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_up_readmits_a_user_and_applies_once() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let subscriber = Subscriber::create(&billing.api.control, json!({ "traffic_limit_gb": 0.000_01 })).await;
        let session = billing.api.begin(&subscriber).await;
        assert_eq!(billing.report(&subscriber, &session, 10_000).await["code"], "LIMIT_REACHED");
        assert_eq!(billing.api.validate(&subscriber, json!({})).await["code"], "LIMIT_REACHED");
        let payment = json!({ "gb": 0.000_005, "payment_id": "extra" });
        for repeated in [false, true, true] {
            let (status, answer) = billing.verb(&subscriber, "top-up", payment.clone()).await;
            assert_eq!((status, &answer["repeated"]), (200, &json!(repeated)), "{answer}");
            let quota = &answer["quota"];
            assert_eq!((&quota["bonus_bytes"], &quota["remaining_bytes"]), (&json!(5000), &json!(5000)), "{answer}");
            assert_eq!((&quota["limit_bytes"], &quota["used_bytes"]), (&json!(10_000), &json!(10_000)));
        }
        let answer = billing.api.validate(&subscriber, json!({})).await;
        assert_eq!((&answer["ok"], &answer["remaining_bytes"]), (&json!(true), &json!(5000)));
        let (status, problem) = billing.verb(&subscriber, "top-up", json!({ "gb": 1, "payment_id": "extra" })).await;
        assert_eq!((status, &problem["code"]), (409, &json!("PAYMENT_USED")));
        for gigabytes in [json!(0), json!(-1), json!("NaN"), json!(1e7)] {
            let body = json!({ "gb": gigabytes, "payment_id": "odd" });
            assert_eq!(billing.verb(&subscriber, "top-up", body).await.0, 422);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_subscription_ends_its_sessions_and_takes_no_payment() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let subscriber = Subscriber::create(&billing.api.control, json!({})).await;
        let session = billing.api.begin(&subscriber).await;
        let paid = json!({ "days": 1, "payment_id": "before" });
        assert_eq!(billing.verb(&subscriber, "renew", paid.clone()).await.0, 200);
        let (status, cancelled) = billing.verb(&subscriber, "cancel", json!({})).await;
        assert_eq!((status, &cancelled["state"]), (200, &json!("cancelled")), "{cancelled}");
        assert_eq!(cancelled["effect"], json!({ "sessions_ended": 1 }));
        let verdict = billing.report(&subscriber, &session, 10).await;
        assert_eq!((&verdict["continue"], &verdict["code"]), (&json!(false), &json!("NO_SUBSCRIPTION")));
        let (_, again) = billing.verb(&subscriber, "cancel", json!({})).await;
        assert_eq!(
            (&again["cancelled_at"], &again["effect"]),
            (&cancelled["cancelled_at"], &cancelled["effect"]),
            "{kind:?}"
        );
        let (status, problem) = billing.verb(&subscriber, "renew", json!({ "days": 1, "payment_id": "after" })).await;
        assert_eq!((status, &problem["code"]), (409, &json!("CANCELLED")));
        let (status, problem) = billing.verb(&subscriber, "top-up", json!({ "gb": 1, "payment_id": "more" })).await;
        assert_eq!((status, &problem["code"]), (409, &json!("CANCELLED")));
        assert_eq!(billing.verb(&subscriber, "renew", paid).await.1["repeated"], true);
        let lucky = Subscriber::create(&billing.api.control, json!({})).await;
        billing.api.begin(&lucky).await;
        let spare = json!({ "user_id": lucky.user, "plan_id": lucky.plan, "days": 3 });
        let spare = billing.api.control.create("subscriptions", spare).await;
        assert_eq!((&spare["state"], spare["delivery"].is_object()), (&json!("active"), true), "{spare}");
        let (_, cancelled) = billing.verb(&lucky, "cancel", json!({})).await;
        assert_eq!(cancelled["effect"], json!({ "sessions_ended": 0 }), "they move to the other subscription");
        let back =
            billing.api.control.update("subscriptions", &lucky.subscription, json!({ "status": "active" })).await;
        assert_eq!((&back["state"], &back["cancelled_at"]), (&json!("active"), &Value::Null));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_plan_states_its_effect_first() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let large = json!({ "traffic_limit_gb": 1, "max_devices": 5, "rate_limit_mbps": 100 });
        let subscriber = Subscriber::create(&billing.api.control, large).await;
        billing.api.control.create("devices", json!({ "user_id": subscriber.user })).await;
        let session = billing.api.begin(&subscriber).await;
        billing.report(&subscriber, &session, 1000).await;
        let small = json!({ "name": "small", "traffic_limit_gb": 0.5, "max_devices": 1, "max_sessions": 2 });
        let small = id(&billing.api.control.create("plans", small).await);
        let dry = json!({ "plan_id": small, "dry_run": true });
        let (status, answer) = billing.verb(&subscriber, "change-plan", dry).await;
        assert_eq!((status, &answer["plan_id"]), (200, &json!(subscriber.plan)), "{answer}");
        assert_eq!(answer["delivery"], Value::Null, "nothing happened");
        let effect = answer["effect"].clone();
        assert_eq!(effect["to"], "small");
        assert_eq!(effect["limit_bytes"], json!({ "from": 1_000_000_000u64, "to": 500_000_000u64 }));
        assert_eq!((&effect["used_bytes"], &effect["remaining_bytes"]), (&json!(1000), &json!(499_999_000)));
        assert_eq!((&effect["new_period"], &effect["used_before_bytes"]), (&json!(false), &json!(1000)));
        assert_eq!((&effect["devices_over"], &effect["sessions"]), (&json!(1), &json!(1)));
        billing.api.control.create("regions", json!({ "code": "as-1" })).await;
        let far = id(&billing.api.control.create("plans", json!({ "name": "far", "regions": ["as-1"] })).await);
        let (_, answer) = billing.verb(&subscriber, "change-plan", json!({ "plan_id": far, "dry_run": true })).await;
        assert_eq!(answer["effect"]["regions"], json!({ "from": [], "to": ["as-1"] }));
        assert_eq!((&effect["sessions_elsewhere"], &answer["effect"]["sessions_elsewhere"]), (&json!(0), &json!(1)));
        assert_eq!(effect["max_devices"], json!({ "from": 5, "to": 1 }));
        assert_eq!(effect["max_sessions"], json!({ "from": null, "to": 2 }));
        assert_eq!(effect["rate_limit_mbps"], json!({ "from": 100, "to": null }));
        assert_eq!(billing.subscription(&subscriber).await["plan_id"], json!(subscriber.plan));
        let (_, answer) = billing.verb(&subscriber, "change-plan", json!({ "plan_id": small })).await;
        assert_eq!((&answer["plan_id"], &answer["effect"]), (&json!(small), &effect));
        assert!(answer["delivery"].is_object(), "{answer}");
        assert_eq!(billing.api.validate(&subscriber, json!({})).await["remaining_bytes"], 499_999_000);
        let weekly = json!({ "name": "weekly", "traffic_limit_gb": 0.5, "period": "days", "period_days": 7 });
        let weekly = id(&billing.api.control.create("plans", weekly).await);
        let dry = json!({ "plan_id": weekly, "dry_run": true });
        let (_, answer) = billing.verb(&subscriber, "change-plan", dry).await;
        let effect = &answer["effect"];
        assert_eq!((&effect["new_period"], &effect["used_before_bytes"]), (&json!(true), &json!(1000)));
        assert_eq!((&effect["used_bytes"], &effect["remaining_bytes"]), (&json!(0), &json!(500_000_000)));
        assert_eq!(effect["period_start"], billing.subscription(&subscriber).await["starts_at"]);
        let nowhere = json!({ "plan_id": Uuid::now_v7() });
        let (status, problem) = billing.verb(&subscriber, "change-plan", nowhere).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("plan_id")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_days_start_with_the_subscription() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        let plan = json!({ "traffic_limit_gb": 1, "period": "days", "period_days": 7 });
        let begun = now() - days(8);
        let subscriber = billing.customer(plan, begun, now() + days(20)).await;
        let session = billing.api.begin(&subscriber).await;
        billing.report(&subscriber, &session, 3000).await;
        let (_, answer) = billing.verb(&subscriber, "top-up", json!({ "gb": 1, "payment_id": "p" })).await;
        let quota = &answer["quota"];
        assert_eq!(parse_rfc3339(&quota["period_start"]), begun + days(7), "{quota}");
        assert_eq!(parse_rfc3339(&quota["period_end"]), begun + days(14), "{quota}");
        assert_eq!((&quota["used_bytes"], &quota["remaining_bytes"]), (&json!(3000), &json!(1_999_997_000u64)));
        let plans = async |method, path: &str, body| billing.ask(method, path, body).await;
        for body in [
            json!({ "name": "a", "period": "days" }),
            json!({ "name": "a", "period": "month", "period_days": 7 }),
            json!({ "name": "a", "period": "days", "period_days": 0 }),
        ] {
            let (status, problem) = plans(Method::POST, "plans", body).await;
            assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("period_days")), "{problem}");
        }
        let path = format!("plans/{}", subscriber.plan);
        let (status, _) = plans(Method::PATCH, &path, json!({ "period": "month", "period_days": 3 })).await;
        assert_eq!(status, 422);
        let (_, changed) = plans(Method::PATCH, &path, json!({ "period": "month" })).await;
        assert_eq!((&changed["period"], &changed["period_days"]), (&json!("month"), &Value::Null));
        let (status, _) = plans(Method::PATCH, &path, json!({ "period": "days" })).await;
        assert_eq!(status, 422);
        assert_eq!(billing.api.control.get("plans", &subscriber.plan).await["period"], "month", "nothing of it stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_allows_its_regions_only() {
    for kind in BOTH {
        let billing = BillingApi::start(kind).await;
        billing.api.control.create("regions", json!({ "code": "us-1" })).await;
        let subscriber = Subscriber::create(&billing.api.control, json!({ "regions": ["us-1"] })).await;
        let row = billing.api.control.get("plans", &subscriber.plan).await;
        assert_eq!(
            (&row["regions"], &row["fail_open_mb"], &row["grace_hours"]),
            (&json!(["us-1"]), &json!(100), &json!(0))
        );
        assert_eq!(billing.api.validate(&subscriber, json!({})).await["code"], "UNKNOWN_REGION");
        let both = json!({ "regions": ["us-1", REGION, "us-1"] });
        let changed = billing.api.control.update("plans", &subscriber.plan, both).await;
        assert_eq!(changed["regions"], json!([REGION, "us-1"]));
        assert!(changed["delivery"].is_object(), "{changed}");
        assert_eq!(billing.api.validate(&subscriber, json!({})).await["ok"], true);
        billing.api.control.create("plans", json!({ "name": "anywhere" })).await;
        let listed = billing.api.control.list("plans").await;
        let regions: Vec<&Value> = listed.iter().map(|plan| &plan["regions"]).collect();
        assert_eq!(regions, [&json!([REGION, "us-1"]), &json!([])]);
        billing.api.control.update("plans", &subscriber.plan, json!({ "price": 5 })).await;
        assert_eq!(billing.api.control.get("plans", &subscriber.plan).await["regions"], json!([REGION, "us-1"]));
        let cleared = billing.api.control.update("plans", &subscriber.plan, json!({ "regions": [] })).await;
        assert_eq!(cleared["regions"], json!([]));
        let (status, problem) = billing.ask(Method::POST, "plans", json!({ "name": "x", "regions": ["mars"] })).await;
        assert_eq!((status, &problem["errors"][0]), (422, &json!({ "field": "regions", "code": "UNKNOWN" })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_command_renews_and_cancels() {
    let billing = BillingApi::start(Kind::Sqlite).await;
    let subscriber = Subscriber::create(&billing.api.control, json!({ "traffic_limit_gb": 1 })).await;
    let env = admin_env(&billing.api.control);
    let admin = async |verb: &str, fields: &[&str]| {
        let words: [&str; 5] = ["admin", "subscriptions", verb, &subscriber.subscription, "--json"];
        let args: Vec<&str> = words.iter().chain(fields).copied().collect();
        let (code, stdout, stderr) = run(&args, &env).await;
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()
    };
    assert_eq!(admin("renew", &["days=30", "payment_id=X"]).await["repeated"], false);
    assert_eq!(admin("renew", &["days=30", "payment_id=X"]).await["repeated"], true);
    assert_eq!(admin("top-up", &["gb=0.5", "payment_id=Y"]).await["quota"]["bonus_bytes"], 500_000_000);
    let plan = format!("plan_id={}", subscriber.plan);
    assert_eq!(admin("change-plan", &[plan.as_str(), "dry_run=true"]).await["effect"]["new_period"], false);
    assert_eq!(admin("cancel", &[]).await["state"], "cancelled");
}
