//! The stream of events that a gateway follows.

use httvps::api::{Event, EventKind};
use httvps::frame::SessionCode;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::control::{Control, REGION, id, register_gateway};
use crate::support::database::{BOTH, Kind};
use crate::support::event_follower::Follower;
use crate::support::subscriber::Subscriber;

/// A control plane and a registered gateway whose event stream the test follows.
struct EventApi {
    control: Control,
    gateway: String,
    token: String,
}

impl EventApi {
    async fn start(kind: Kind, more: &[(&str, &str)]) -> Self {
        let control = Control::start_with(kind, more).await;
        control.create("regions", json!({ "code": REGION })).await;
        let node = json!({ "region": REGION, "access_key": "ss://aes-256-gcm:hush@10.0.0.1:8388" });
        let node = id(&control.create("nodes", node).await);
        let (gateway, token) = register_gateway(&control, "gateway").await;
        let probe = json!({ "node_id": node, "healthy": true });
        let (status, _) = control.ask(Method::POST, "/api/v1/outline/heartbeat", &token, Some(&probe)).await;
        assert!(status.is_success());
        Self { control, gateway, token }
    }

    async fn follow(&self, behind: Option<(&str, i64)>) -> Follower {
        Follower::open(&self.control.http, &self.control.url, &self.token, behind).await
    }

    async fn begin(&self, subscriber: &Subscriber) -> Uuid {
        let session = Uuid::now_v7();
        let wish = json!({
            "device_id": subscriber.device, "access_token": subscriber.token, "region": REGION,
            "assign": true, "session_id": session,
        });
        let path = "/api/v1/auth/validate-device";
        let (_, answer) = self.control.ask(Method::POST, path, &self.token, Some(&wish)).await;
        assert_eq!(answer["ok"], true, "{answer}");
        session
    }

    async fn ban(&self, subscriber: &Subscriber) {
        self.control.update("users", &subscriber.user, json!({ "status": "banned" })).await;
    }
}

/// The next event that ends sessions; sequence numbers must keep rising.
async fn next_stop(follower: &mut Follower, last: &mut i64) -> Event {
    loop {
        let event = follower.next().await.expect("the stream goes on");
        assert!(event.seq > *last, "{event:?} after {last}");
        *last = event.seq;
        if event.code.is_some() {
            return event;
        }
    }
}

const NO_WAIT: (&str, &str) = ("EVENTS__ACK_TIMEOUT", "0s");

#[tokio::test(flavor = "multi_thread")]
async fn events_start_with_a_snapshot_arrive_in_order_and_resume() {
    for kind in BOTH {
        let api = EventApi::start(kind, &[NO_WAIT]).await;
        let banned = Subscriber::create(&api.control, json!({})).await;
        let revoked = Subscriber::create(&api.control, json!({})).await;
        let killed = Subscriber::create(&api.control, json!({})).await;
        let sessions = [api.begin(&banned).await, api.begin(&revoked).await, api.begin(&killed).await];
        let mut follower = api.follow(None).await;
        let snapshot = follower.next().await.unwrap();
        assert_eq!((snapshot.kind, snapshot.subject, snapshot.code), (EventKind::Snapshot, None, None));
        let mut listed = snapshot.sessions.clone();
        listed.sort_unstable();
        assert_eq!(listed, sessions, "ids sort by time");
        api.ban(&banned).await;
        api.control.update("devices", &revoked.device, json!({ "status": "revoked" })).await;
        api.control.admin(Method::DELETE, &format!("sessions/{}", sessions[2]), Value::Null).await;
        let expected = [
            (EventKind::UserStopped, banned.user.parse().unwrap(), SessionCode::UserBanned),
            (EventKind::DeviceStopped, revoked.device.parse().unwrap(), SessionCode::DeviceBanned),
            (EventKind::SessionStopped, sessions[2], SessionCode::SessionKilled),
        ];
        for behind in [None, Some((snapshot.epoch.as_str(), snapshot.seq))] {
            if behind.is_some() {
                follower = api.follow(behind).await;
            }
            let mut last = snapshot.seq;
            for (kind, subject, code) in expected {
                let event = next_stop(&mut follower, &mut last).await;
                assert_eq!((event.kind, event.subject, event.code), (kind, Some(subject), Some(code)));
                assert_eq!(event.epoch, snapshot.epoch);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_epoch_or_an_old_number_gets_a_snapshot() {
    for kind in BOTH {
        let api = EventApi::start(kind, &[NO_WAIT, ("EVENTS__BACKLOG", "2")]).await;
        let (banned, other) =
            (Subscriber::create(&api.control, json!({})).await, Subscriber::create(&api.control, json!({})).await);
        let (ended, goes_on) = (api.begin(&banned).await, api.begin(&other).await);
        let mut follower = api.follow(None).await;
        let first = follower.next().await.unwrap();
        api.ban(&banned).await;
        let mut last = first.seq;
        let stop = next_stop(&mut follower, &mut last).await;
        let foreign = Uuid::new_v4().to_string();
        let snapshot = api.follow(Some((&foreign, stop.seq))).await.next().await.unwrap();
        assert_eq!((snapshot.kind, &snapshot.sessions), (EventKind::Snapshot, &vec![goes_on]));
        assert!(snapshot.seq >= stop.seq && !snapshot.sessions.contains(&ended));
        for name in ["one", "two", "three"] {
            let user = id(&api.control.create("users", json!({ "identifier": format!("{name}@example.com") })).await);
            api.control.update("users", &user, json!({ "status": "banned" })).await;
            next_stop(&mut follower, &mut last).await;
        }
        let snapshot = api.follow(Some((&first.epoch, first.seq))).await.next().await.unwrap();
        assert_eq!((snapshot.kind, snapshot.sessions), (EventKind::Snapshot, vec![goes_on]));
        assert_eq!(snapshot.seq, last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_need_a_gateways_token_and_acknowledgements_its_epoch() {
    for kind in BOTH {
        let api = EventApi::start(kind, &[NO_WAIT]).await;
        let stranger = api.control.ask(Method::GET, "/api/v1/gateway/events", "nobody", None).await;
        assert_eq!((stranger.0.as_u16(), &stranger.1["code"]), (401, &json!("UNAUTHORIZED")));
        let snapshot = api.follow(None).await.next().await.unwrap();
        let ack = async |epoch: &str| {
            let body = json!({ "epoch": epoch, "seq": snapshot.seq });
            api.control.ask(Method::POST, "/api/v1/gateway/events/ack", &api.token, Some(&body)).await.0
        };
        assert!(ack("another").await.is_client_error());
        assert!(ack(&snapshot.epoch).await.is_success());
        assert_eq!(api.control.get("gateways", &api.gateway).await["acked_seq"], json!(snapshot.seq));
    }
}
