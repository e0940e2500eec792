//! A deployment whose footprint before a drill is recorded for comparison afterwards.

use std::time::Duration;

use serde_json::json;

use super::load::{Crowd, Tally};
use super::scale;
use crate::support::database::{self, Kind};
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::in_process::TunnelDialer;
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::procfs;
use crate::support::wait::eventually;

/// Pooled connections may stay open.
const KEPT_DESCRIPTORS: usize = 16;
const KEPT_KIB: u64 = 32 * 1024;

pub(super) struct DrillDeployment {
    name: &'static str,
    kind: Kind,
    pub(super) deployment: Deployment,
    pub(super) source: Destination,
    before: Option<Footprint>,
}

/// What an idle deployment holds.
#[derive(Clone, Copy, Debug)]
struct Footprint {
    gateway: Held,
    control: Held,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    kib: u64,
}

/// What was billed, and what the destination sent and received, at a moment of rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    billed: (u64, u64),
    moved: (u64, u64),
}

impl Held {
    fn of(process: &Process) -> Self {
        let pid = process.pid();
        Self { descriptors: procfs::descriptors(pid), kib: procfs::resident_kib(pid) }
    }

    fn is_back_at(self, before: Self) -> bool {
        self.descriptors <= before.descriptors + KEPT_DESCRIPTORS && self.kib <= before.kib + before.kib / 4 + KEPT_KIB
    }
}

impl DrillDeployment {
    /// Builds a deployment, warms it up and lets it settle.
    pub(super) async fn build(name: &'static str, kind: Kind, more: &[(&str, &str)]) -> Self {
        let deployment = Deployment::build(kind, &[CHACHA], json!({}), more).await;
        Self::of(name, kind, deployment, Destination::start(Behavior::Source)).await
    }

    pub(super) async fn of(name: &'static str, kind: Kind, deployment: Deployment, source: Destination) -> Self {
        for node in deployment.control.list("nodes").await {
            let id = node["id"].as_str().unwrap();
            deployment.control.update("nodes", id, json!({ "max_sessions": 100_000 })).await;
        }
        let mut drill = Self { name, kind, deployment, source, before: None };
        Crowd::gather(&drill.dialer(), drill.source.address, 16, 4).await.leave().await;
        drill.is_at_rest().await;
        drill.before = Some(drill.footprint());
        drill
    }

    pub(super) fn dialer(&self) -> TunnelDialer {
        TunnelDialer::of(&self.deployment, &self.deployment.subscriber)
    }

    /// Waits until a role's `/readyz` reports the wanted state; returns its text.
    pub(super) async fn ready_is(&self, role: &str, wanted: bool) -> String {
        let process = if role == "gateway" {
            self.deployment.gateway()
        } else {
            self.deployment.control.process.as_ref().unwrap()
        };
        let url = format!("{}/readyz", process.line(&format!("ops-{role}")));
        eventually(|| async {
            let response = self.deployment.control.http.get(&url).send().await.map_err(|error| error.to_string())?;
            let ready = response.status().is_success();
            let text = response.text().await.map_err(|error| error.to_string())?;
            if ready == wanted { Ok(text) } else { Err(format!("{role}, ready {ready}: {text}")) }
        })
        .await
    }

    pub(super) async fn crowd(&self) -> Crowd {
        let scale = scale();
        let crowd = Crowd::gather(&self.dialer(), self.source.address, scale.idle, scale.busy).await;
        tokio::time::sleep(scale.phase).await;
        crowd
    }

    fn footprint(&self) -> Footprint {
        let control = self.deployment.control.process.as_ref().unwrap();
        Footprint { gateway: Held::of(self.deployment.gateway()), control: Held::of(control) }
    }

    /// Bytes up and down that were billed to all sessions.
    async fn billed(&self) -> (u64, u64) {
        if self.kind == Kind::Sqlite {
            return self.deployment.totals().await;
        }
        let database = database::connect(self.deployment.control.database()).await;
        let sums = "(SELECT coalesce(sum(bytes_up), 0)::bigint, coalesce(sum(bytes_down), 0)::bigint FROM";
        let row = |table: &str| format!("SELECT * FROM {sums} {table}) AS sums(up, down)");
        let sessions = database.query_one(&row("sessions"), &[]).await.unwrap();
        let periods = database.query_one(&row("usage_periods"), &[]).await.unwrap();
        let sums =
            |row: &tokio_postgres::Row| (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned());
        assert_eq!(sums(&sessions), sums(&periods), "sessions and periods");
        sums(&sessions)
    }

    /// Waits until no session, stream or reservation is left, so that nothing more is billed.
    pub(super) async fn is_at_rest(&self) {
        eventually(|| async {
            for gauge in ["httvps_sessions", "httvps_streams", "httvps_usage_unreported_bytes", "httvps_waiting_bytes"]
            {
                match self.deployment.metric(gauge).await {
                    0 => {}
                    value => return Err(format!("{}: {gauge} is {value}", self.name)),
                }
            }
            let live = self.live_rows().await;
            if live == [0, 0, 0] { Ok(()) } else { Err(format!("{}: rows, places, leases: {live:?}", self.name)) }
        })
        .await;
    }

    /// Live sessions, occupied places on nodes, and leased bytes.
    async fn live_rows(&self) -> [i64; 3] {
        if self.kind == Kind::Sqlite {
            let live = self.deployment.control.list("sessions").await;
            let live = live.iter().filter(|session| session["state"] == "active" || session["state"] == "reserved");
            let places = self.deployment.control.list("nodes").await;
            let places = places.iter().map(|node| node["active_sessions"].as_i64().unwrap()).sum();
            return [i64::try_from(live.count()).unwrap(), places, 0];
        }
        let database = database::connect(self.deployment.control.database()).await;
        let query = "SELECT (SELECT count(*) FROM sessions WHERE ended_at IS NULL), \
                     (SELECT coalesce(sum(active_sessions), 0)::bigint FROM outline_nodes), \
                     (SELECT coalesce(sum(lease_bytes), 0)::bigint FROM sessions)";
        let row = database.query_one(query, &[]).await.unwrap();
        [row.get(0), row.get(1), row.get(2)]
    }

    /// Reads the counters at rest.
    pub(super) async fn mark(&self) -> Mark {
        self.is_at_rest().await;
        Mark { billed: self.billed().await, moved: (self.source.got(), self.source.gave()) }
    }

    /// Checks that what the destination received and sent is billed, to the byte.
    pub(super) async fn exact(&self) {
        self.is_at_rest().await;
        assert_eq!(self.billed().await, (self.source.got(), self.source.gave()), "{}: billed and moved", self.name);
    }

    /// The same for traffic since a mark.
    pub(super) async fn exact_since(&self, mark: Mark) {
        let now = self.mark().await;
        let since = |now: (u64, u64), then: (u64, u64)| (now.0 - then.0, now.1 - then.1);
        assert_eq!(since(now.billed, mark.billed), since(now.moved, mark.moved), "{}: billed and moved", self.name);
    }

    /// After cut streams: no more is billed than the destination sent, and no less than clients received.
    pub(super) async fn between(&self, tally: &Tally, lost: u64) -> Mark {
        let mark = self.mark().await;
        let ((up, down), (got, gave)) = (mark.billed, mark.moved);
        assert!(down <= gave && tally.got <= down + lost, "{}: {down} billed, {gave} given, {tally:?}", self.name);
        assert!(up + lost >= got, "{}: {up} billed, {got} arrived", self.name);
        mark
    }

    /// Ends the drill: the crowd saw no failure, totals are exact, and nothing is left behind.
    pub(super) async fn ends_without_failure(self, crowd: Crowd, served: Duration) {
        let tally = crowd.leave().await;
        assert_eq!(tally.failures, 0, "{tally:?}");
        self.exact().await;
        let said = format!("served meanwhile within {}, slowest {}", seconds(served), seconds(tally.slowest));
        self.ends_clean(&said).await;
    }

    /// Checks that descriptors and memory are back where they were, and prints the result.
    pub(super) async fn ends_clean(self, said: &str) {
        let before = self.before.unwrap();
        let gone = tokio::time::Instant::now();
        self.is_at_rest().await;
        eventually(|| async {
            let now = self.footprint();
            if now.gateway.is_back_at(before.gateway) && now.control.is_back_at(before.control) {
                Ok(())
            } else {
                Err(format!("{}: {now:?}, before {before:?}", self.name))
            }
        })
        .await;
        let (now, took) = (self.footprint(), gone.elapsed());
        println!(
            "drill {}: {said}; at rest after {:.1} s, gateway {} MiB (before: {}), control plane {} MiB ({})",
            self.name,
            took.as_secs_f64(),
            now.gateway.kib / 1024,
            before.gateway.kib / 1024,
            now.control.kib / 1024,
            before.control.kib / 1024,
        );
        if let Some(gateway) = self.deployment.gateway {
            assert_eq!(gateway.stop().await.code, Some(0));
        }
    }
}

/// A duration as written in the table of docs/08.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
