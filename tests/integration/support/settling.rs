//! Waiting for the totals and sessions of a deployment.

use crate::support::deployment::World;
use crate::support::wait::eventually;

/// Waits until no session is open; gives what the control plane has counted.
pub(crate) async fn counted(world: &World) -> u64 {
    eventually(|| async {
        let sessions = world.control.list("sessions").await;
        let open = sessions.iter().filter(|session| session["state"] != "ended").count();
        let (up, down) = world.totals().await;
        if open == 0 { Ok(up + down) } else { Err(format!("{open} open sessions, {} bytes", up + down)) }
    })
    .await
}

/// Waits until the control plane has what the gateway has moved.
pub(crate) async fn settles(world: &World) {
    let moved = async |direction: &str| world.metric(&format!("httvps_bytes_total{{direction=\"{direction}\"}}")).await;
    eventually(|| async {
        let (ours, theirs) = ((moved("up").await, moved("down").await), world.totals().await);
        if ours == theirs { Ok(()) } else { Err(format!("{theirs:?} instead of {ours:?}")) }
    })
    .await;
}

/// Waits until so many sessions are open.
pub(crate) async fn open_sessions(world: &World, wanted: u64) {
    eventually(|| async {
        let open = world.metric("httvps_sessions").await;
        if open == wanted { Ok(()) } else { Err(format!("{open} sessions")) }
    })
    .await;
}

pub(crate) async fn readiness(world: &World) -> (u16, String) {
    let ready = format!("{}/readyz", world.gateway().line("ops-gateway"));
    let response = world.control.http.get(&ready).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}
