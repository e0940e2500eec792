//! A restored database counts as a new one: gateways start over from its state.

use std::time::Instant;

use bytes::Bytes;
use httvps::frame::{Frame, SessionCode, StreamId};
use serde_json::json;

use crate::support::database::Kind;
use crate::support::delivery::{PROMPTLY, RARE_REPORTS, assert_acked, wait_for_followers};
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::raw::RawClient;
use crate::support::raw_session::{open_stream, read_stream, say_hello};
use crate::support::subscriber::Subscriber;

/// The signs of a restored database: another epoch, or a lower sequence number.
const RESTORED: [&str; 2] = [
    "UPDATE installation SET epoch = gen_random_uuid()",
    "DELETE FROM events WHERE seq = (SELECT last_seq FROM installation); \
     UPDATE installation SET last_seq = last_seq - 1; \
     UPDATE gateway_nodes SET acked_seq = (SELECT last_seq FROM installation)",
];

async fn admitted(deployment: &Deployment, subscriber: &Subscriber) -> RawClient {
    let (raw, answer) = say_hello(deployment, subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    raw
}

/// The restored data bans one user and lacks the session of another; the third goes on.
async fn restored(while_it_runs: bool) {
    for sign in RESTORED {
        let mut deployment = Deployment::build(Kind::Postgres, &[CHACHA], json!({}), &RARE_REPORTS).await;
        let banned = Subscriber::create(&deployment.control, json!({})).await;
        let lost = Subscriber::create(&deployment.control, json!({})).await;
        wait_for_followers(&deployment.control, 1).await;
        let mut sessions = [admitted(&deployment, &banned).await, admitted(&deployment, &lost).await];
        let mut kept = admitted(&deployment, &deployment.subscriber).await;
        let echo = Destination::start(Behavior::Echo);
        open_stream(&mut kept, 1, &echo, b"before".to_vec()).await;
        let id = StreamId(1);
        assert_eq!(kept.next_frame().await, Frame::Data { id, payload: Bytes::from("before"), fin: false });
        if !while_it_runs {
            deployment.control.kill().await;
        }
        let (user, device) = (&banned.user, &lost.device);
        let rest = format!(
            "UPDATE users SET status = 'banned' WHERE id = '{user}'; DELETE FROM sessions WHERE device_id = '{device}'"
        );
        deployment.control.rewrite(&format!("{sign}; {rest}")).await;
        if !while_it_runs {
            deployment.control.resume().await;
        }
        let since = Instant::now();
        for (raw, code) in sessions.iter_mut().zip([SessionCode::UserBanned, SessionCode::SessionKilled]) {
            assert_eq!(read_stream(raw).await, (0, Some(code)), "{sign}");
        }
        assert!(since.elapsed() < PROMPTLY, "{sign}: {:?}", since.elapsed());
        let after = Frame::Data { id, payload: Bytes::from("after"), fin: false };
        kept.frames(std::slice::from_ref(&after)).await;
        assert_eq!(kept.next_frame().await, after);
        let answer =
            deployment.control.update("users", &deployment.subscriber.user, json!({ "status": "banned" })).await;
        assert_eq!(read_stream(&mut kept).await, (0, Some(SessionCode::UserBanned)));
        assert_acked(&answer, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_offline_ends_sessions_that_it_does_not_allow() {
    restored(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_online_ends_sessions_that_it_does_not_allow() {
    restored(true).await;
}
