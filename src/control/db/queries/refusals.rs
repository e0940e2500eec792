use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};
use diesel_async::RunQueryDsl;

use super::{Conn, admission, billing};
use crate::api::{RefusalNote, VERSION_MAX};
use crate::control::db::prepared::places;
use crate::control::domain::diagnosis::{DeviceSnapshot, Exit};
use crate::control::model::calendar::Calendar;
use crate::control::model::id::{DeviceId, GatewayId, NodeId, RefusalId};
use crate::control::model::schema::{devices, gateway_nodes, outline_nodes, refusals, regions, sessions, users};
use crate::control::model::state::{DeviceStatus, NodeHealth, NodeState};
use crate::control::model::types::{SqlTime, SqlUuid, Time};
use crate::control::model::{Device, Gateway, OutlineNode, RefusalRow, Session, SubscriptionAndPlan, User};
use crate::frame::SessionCode;

/// Refusals that are kept of a device.
const KEPT: i64 = 20;
/// Most refusals taken at once.
const AT_ONCE: usize = 100;
const SESSIONS: i64 = 10;
const NODES: i64 = 10_000;
const SUPPORT_ID_MAX: usize = 32;

/// Takes refusals that a gateway decided; those of unknown devices and those already known are left out.
pub(crate) async fn note(conn: &mut Conn, gateway: GatewayId, mut notes: Vec<RefusalNote>) -> QueryResult<()> {
    notes.truncate(AT_ONCE);
    if notes.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO refusals (id, device_id, gateway_node_id, code, client_version, support_id, created_at) \
         SELECT v.column1, v.column2, v.column3, v.column4, v.column5, v.column6, v.column7 \
         FROM (VALUES {}) AS v JOIN devices ON devices.id = v.column2 WHERE NOT EXISTS \
         (SELECT 1 FROM refusals r WHERE r.support_id = v.column6 AND r.device_id = v.column2)",
        places(notes.len(), 7),
    );
    transaction!(conn, async |conn: &mut Conn| {
        let mut query = diesel::sql_query(sql.as_str()).into_boxed();
        for note in &notes {
            query = query
                .bind::<SqlUuid, _>(RefusalId::fresh())
                .bind::<SqlUuid, _>(DeviceId::from(note.device_id))
                .bind::<SqlUuid, _>(gateway)
                .bind::<Text, _>(note.code.as_str())
                .bind::<Nullable<Text>, _>(note.client_version.as_deref().map(|text| clean(text, VERSION_MAX)))
                .bind::<Text, _>(clean(&note.support_id, SUPPORT_ID_MAX))
                .bind::<SqlTime, _>(Time(note.at));
        }
        query.execute(conn).await?;
        let mut devices: Vec<DeviceId> = notes.iter().map(|note| DeviceId::from(note.device_id)).collect();
        devices.sort_unstable();
        devices.dedup();
        forget(conn, &devices).await
    })
    .await
}

/// Takes a refusal that the control plane decided.
pub(crate) async fn refused(
    conn: &mut Conn,
    device: DeviceId,
    gateway: GatewayId,
    code: SessionCode,
    client_version: Option<String>,
    support_id: &str,
    now: Time,
) -> QueryResult<()> {
    let note =
        RefusalNote { device_id: device.uuid(), code, client_version, support_id: support_id.to_owned(), at: now.0 };
    self::note(conn, gateway, vec![note]).await
}

fn clean(text: &str, most: usize) -> String {
    text.chars().filter(char::is_ascii_graphic).take(most).collect()
}

async fn forget(conn: &mut Conn, devices: &[DeviceId]) -> QueryResult<()> {
    let sql = format!(
        "DELETE FROM refusals WHERE id IN (SELECT ranked.id FROM (SELECT id, ROW_NUMBER() OVER \
         (PARTITION BY device_id ORDER BY created_at DESC, id DESC) AS nth FROM refusals \
         WHERE device_id IN (VALUES {})) AS ranked WHERE ranked.nth > {KEPT})",
        places(devices.len(), 1),
    );
    let mut query = diesel::sql_query(sql).into_boxed();
    for device in devices {
        query = query.bind::<SqlUuid, _>(*device);
    }
    query.execute(conn).await?;
    Ok(())
}

/// The newest refusals of a device, the newest first.
pub(crate) async fn last(conn: &mut Conn, device: DeviceId, limit: i64) -> QueryResult<Vec<RefusalRow>> {
    refusals::table
        .filter(refusals::device_id.eq(device))
        .order((refusals::created_at.desc(), refusals::id.desc()))
        .limit(limit)
        .select(RefusalRow::as_select())
        .load(conn)
        .await
}

/// The refusals that a client may mean with a support id.
pub(crate) async fn by_support_id(conn: &mut Conn, support_id: &str, limit: i64) -> QueryResult<Vec<RefusalRow>> {
    refusals::table
        .filter(refusals::support_id.eq(support_id))
        .order((refusals::created_at.desc(), refusals::id.desc()))
        .limit(limit)
        .select(RefusalRow::as_select())
        .load(conn)
        .await
}

/// Everything that bears on a device's traffic.
pub(crate) async fn device_snapshot(
    conn: &mut Conn,
    device: DeviceId,
    calendar: &Calendar,
    now: Time,
) -> QueryResult<DeviceSnapshot> {
    let (device, user): (Device, User) = devices::table
        .inner_join(users::table.on(users::id.eq(devices::user_id)))
        .filter(devices::id.eq(device))
        .select((Device::as_select(), User::as_select()))
        .first(conn)
        .await?;
    let subscription = admission::subscription(conn, user.id, now).await?.map(SubscriptionAndPlan::from);
    let (mut quota, mut allowed) = (None, Vec::new());
    if let Some(SubscriptionAndPlan { subscription, plan }) = &subscription {
        quota = Some(billing::quota(conn, subscription, plan, calendar, now).await?);
        allowed = billing::allowed_regions(conn, &[plan.id]).await?.remove(&plan.id).unwrap_or_default();
    }
    let older_devices = older(conn, &device).await?;
    let refusals = last(conn, device.id, KEPT).await?;
    let sessions: Vec<Session> = sessions::table
        .filter(sessions::device_id.eq(device.id))
        .order(sessions::started_at.desc())
        .limit(SESSIONS)
        .select(Session::as_select())
        .load(conn)
        .await?;
    let mut ids: Vec<GatewayId> = sessions.iter().map(|session| session.gateway_node_id).collect();
    ids.extend(refusals.iter().filter_map(|refusal| refusal.gateway_node_id));
    let gateways: Vec<Gateway> =
        gateway_nodes::table.filter(gateway_nodes::id.eq_any(ids)).select(Gateway::as_select()).load(conn).await?;
    let ids: Vec<NodeId> = sessions.iter().filter_map(|session| session.outline_node_id).collect();
    let nodes: Vec<OutlineNode> =
        outline_nodes::table.filter(outline_nodes::id.eq_any(ids)).select(OutlineNode::as_select()).load(conn).await?;
    let pool = pool(conn).await?;
    Ok(DeviceSnapshot {
        device,
        user,
        subscription,
        allowed,
        quota,
        older_devices,
        sessions,
        gateways,
        nodes,
        pool,
        refusals,
    })
}

async fn older(conn: &mut Conn, device: &Device) -> QueryResult<i64> {
    let older = devices::created_at
        .lt(device.created_at)
        .or(devices::created_at.eq(device.created_at).and(devices::id.lt(device.id)));
    devices::table
        .filter(devices::user_id.eq(device.user_id).and(devices::status.eq(DeviceStatus::Active)).and(older))
        .count()
        .get_result(conn)
        .await
}

async fn pool(conn: &mut Conn) -> QueryResult<Vec<Exit>> {
    let rows: Vec<(String, NodeState, NodeHealth, i32, i32)> = outline_nodes::table
        .inner_join(regions::table.on(regions::id.eq(outline_nodes::region_id)))
        .select((
            regions::code,
            outline_nodes::state,
            outline_nodes::health_status,
            outline_nodes::active_sessions,
            outline_nodes::max_sessions,
        ))
        .limit(NODES)
        .load(conn)
        .await?;
    let exit = |(region, state, health, sessions, max_sessions)| Exit { region, state, health, sessions, max_sessions };
    Ok(rows.into_iter().map(exit).collect())
}
