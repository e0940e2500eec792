use std::time::Instant;

use tokio_postgres::Client;
use uuid::Uuid;

use crate::site::Site;

const BASE: u128 = 0x01a0_0000_0000_7000_8000_0000_0000_0000;
/// What sessions on limited plans hold.
pub(crate) const LEASE: u64 = 64 << 20;

/// A row's id; it sorts by its number, as UUIDv7 do.
#[derive(Clone, Copy)]
pub(crate) enum Row {
    User = 1,
    Device = 2,
    Subscription = 3,
    Session = 4,
}

impl Row {
    pub(crate) fn id(self, number: u64) -> Uuid {
        Uuid::from_u128(BASE | (self as u128) << 80 | u128::from(number))
    }

    fn sql(self, number: &str) -> String {
        format!("('01a00000-000{}-7000-8000-' || lpad(to_hex({number}), 12, '0'))::uuid", self as u8)
    }
}

/// Three devices per two users.
pub(crate) fn devices(users: u64) -> u64 {
    users + users / 2
}

/// The number of a device's user.
pub(crate) fn owner(device: u64, users: u64) -> u64 {
    if device <= users { device } else { device - users }
}

/// Whether a user's plan has a traffic limit.
pub(crate) fn is_limited(user: u64) -> bool {
    user.is_multiple_of(2)
}

async fn step(sql: &Client, what: &str, statement: &str) {
    let started = Instant::now();
    sql.batch_execute(statement).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    eprintln!("{what}: {:.1} s", started.elapsed().as_secs_f64());
}

/// Users with a device, or two, and a subscription each.
pub(crate) async fn customers(sql: &Client, users: u64, plans: &[String]) {
    let (user, device, subscription) = (Row::User.sql("g"), Row::Device.sql("g"), Row::Subscription.sql("g"));
    let devices = devices(users);
    let owner = Row::User.sql(&format!("CASE WHEN g <= {users} THEN g ELSE g - {users} END"));
    let plans = format!("(ARRAY['{}']::uuid[])[1 + g % {}]", plans.join("', '"), plans.len());
    step(sql, "no checks of foreign keys", "SET session_replication_role = replica").await;
    let statement = format!(
        "INSERT INTO users (id, identifier_kind, identifier, status, created_at, updated_at) \
         SELECT {user}, 'email', 'user-' || g || '@example.com', 'active', now() - interval '90 days', now() \
         FROM generate_series(1, {users}) AS g"
    );
    step(sql, "users", &statement).await;
    let statement = format!(
        "INSERT INTO devices (id, user_id, device_uuid, platform, name, status, created_at) \
         SELECT {device}, {owner}, 'installation-' || g, 'android', 'phone', 'active', now() - interval '60 days' \
         FROM generate_series(1, {devices}) AS g"
    );
    step(sql, "devices", &statement).await;
    let statement = format!(
        "INSERT INTO subscriptions (id, user_id, plan_id, status, starts_at, valid_until, created_at) \
         SELECT {subscription}, {user}, {plans}, 'active', now() - interval '60 days', now() + interval '60 days', \
         now() FROM generate_series(1, {users}) AS g"
    );
    step(sql, "subscriptions", &statement).await;
    let statement = format!(
        "INSERT INTO usage_periods (subscription_id, period_start, bytes_up, bytes_down) \
         SELECT {subscription}, date_trunc('month', now(), 'UTC'), 1000000, 9000000 \
         FROM generate_series(1, {users}) AS g"
    );
    step(sql, "usage", &statement).await;
    let hosts = "UPDATE outline_nodes SET health_status = 'healthy', last_heartbeat_at = now(); \
        UPDATE gateway_nodes SET status = 'online', last_heartbeat_at = now(), version = '0.1.0'";
    step(sql, "nodes and gateways", hosts).await;
    step(sql, "checks of foreign keys", "SET session_replication_role = origin").await;
    step(sql, "statistics", "VACUUM ANALYZE").await;
    step(sql, "checkpoint", "CHECKPOINT").await;
}

impl Site {
    /// Replaces all sessions by live ones, one per user, spread over all gateways and nodes; on limited plans they hold
    /// leases.
    pub(crate) async fn sessions(&self, count: u64) {
        let list = |ids: Vec<&str>| format!("ARRAY['{}']::uuid[]", ids.join("', '"));
        let gateways = list(self.gateways.iter().map(|gateway| gateway.id.as_str()).collect());
        let (session, user, device) = (Row::Session.sql("g"), Row::User.sql("g"), Row::Device.sql("g"));
        let subscription = Row::Subscription.sql("g");
        let statement = format!(
            "TRUNCATE sessions; \
             INSERT INTO sessions (id, user_id, device_id, subscription_id, gateway_node_id, outline_node_id, state, \
             started_at, last_report_at, expires_at, bytes_up, bytes_down, lease_bytes, lease_period) \
             SELECT {session}, {user}, {device}, {subscription}, ({gateways})[1 + g % {}], \
             (ARRAY(SELECT id FROM outline_nodes ORDER BY id))[1 + g % 100], 'active', now() - interval '1 hour', \
             now(), now() + interval '1 day', 0, 0, CASE WHEN g % 2 = 0 THEN {LEASE} ELSE 0 END, \
             CASE WHEN g % 2 = 0 THEN date_trunc('month', now(), 'UTC') END FROM generate_series(1, {count}) AS g; \
             UPDATE outline_nodes SET active_sessions = \
             (SELECT count(*) FROM sessions WHERE outline_node_id = outline_nodes.id)",
            self.gateways.len(),
        );
        step(&self.sql, "sessions", &statement).await;
        step(&self.sql, "their statistics", "VACUUM ANALYZE sessions").await;
    }

    /// The gateway of a session that [`Site::sessions`] made.
    pub(crate) fn gateway_of(&self, session: u64) -> usize {
        usize::try_from(session).unwrap() % self.gateways.len()
    }
}
