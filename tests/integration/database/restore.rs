//! A database that was restored is another one: gateways begin anew with what it says.

use std::time::Instant;

use bytes::Bytes;
use httvps::frame::{Frame, SessionCode, StreamId};
use serde_json::json;

use crate::support::database::Kind;
use crate::support::delivery::{AT_ONCE, RARELY, assert_acked, followed_by};
use crate::support::deployment::World;
use crate::support::destination::{Destination, Manner};
use crate::support::node::CHACHA;
use crate::support::raw::Raw;
use crate::support::raw_session::{enter, open, read};
use crate::support::subscriber::Subscriber;

/// What shows that a database was restored: another epoch with numbers as before, or an older number.
const RESTORED: [&str; 2] = [
    "UPDATE installation SET epoch = gen_random_uuid()",
    "DELETE FROM events WHERE seq = (SELECT last_seq FROM installation); \
     UPDATE installation SET last_seq = last_seq - 1; \
     UPDATE gateway_nodes SET acked_seq = (SELECT last_seq FROM installation)",
];

async fn admitted(world: &World, subscriber: &Subscriber) -> Raw {
    let (raw, answer) = enter(world, subscriber).await;
    assert!(matches!(answer, Frame::HelloOk(_)), "{answer:?}");
    raw
}

/// One user is banned in what was restored, another's session is not in it; the third goes on.
async fn restored(while_it_runs: bool) {
    for sign in RESTORED {
        let mut world = World::build(Kind::Postgres, &[CHACHA], json!({}), &RARELY).await;
        let banned = Subscriber::create(&world.control, json!({})).await;
        let lost = Subscriber::create(&world.control, json!({})).await;
        followed_by(&world.control, 1).await;
        let mut sessions = [admitted(&world, &banned).await, admitted(&world, &lost).await];
        let mut kept = admitted(&world, &world.subscriber).await;
        let echo = Destination::start(Manner::Echo);
        open(&mut kept, 1, &echo, b"before".to_vec()).await;
        let id = StreamId(1);
        assert_eq!(kept.next_frame().await, Frame::Data { id, payload: Bytes::from("before"), fin: false });
        if !while_it_runs {
            world.control.kill().await;
        }
        let (user, device) = (&banned.user, &lost.device);
        let rest = format!(
            "UPDATE users SET status = 'banned' WHERE id = '{user}'; DELETE FROM sessions WHERE device_id = '{device}'"
        );
        world.control.rewrite(&format!("{sign}; {rest}")).await;
        if !while_it_runs {
            world.control.resume().await;
        }
        let since = Instant::now();
        for (raw, code) in sessions.iter_mut().zip([SessionCode::UserBanned, SessionCode::SessionKilled]) {
            assert_eq!(read(raw).await, (0, Some(code)), "{sign}");
        }
        assert!(since.elapsed() < AT_ONCE, "{sign}: {:?}", since.elapsed());
        let after = Frame::Data { id, payload: Bytes::from("after"), fin: false };
        kept.frames(std::slice::from_ref(&after)).await;
        assert_eq!(kept.next_frame().await, after);
        let answer = world.control.update("users", &world.subscriber.user, json!({ "status": "banned" })).await;
        assert_eq!(read(&mut kept).await, (0, Some(SessionCode::UserBanned)));
        assert_acked(&answer, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_restored_while_the_control_plane_was_away_ends_what_it_does_not_allow() {
    restored(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_changes_under_a_running_control_plane_ends_what_it_does_not_allow() {
    restored(true).await;
}
