use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use super::{Conn, admission, events, lock_user};
use crate::api::DeviceView;
use crate::control::domain::device_limit;
use crate::control::domain::enrollment::{
    CodeUse, Enrolling, Granted, Held, RefreshTokenDeriver, Refreshing, Refused, TokenUse, family_of,
};
use crate::control::model::NewEvent;
use crate::control::model::id::{DeviceId, FamilyId, UserId};
use crate::control::model::schema::{activation_codes, devices, refresh_families, users};
use crate::control::model::state::DeviceStatus;
use crate::control::model::types::{SqlTime, Time};
use crate::control::model::{ActivationCode, Device, RefreshFamily, User};
use crate::digest::sha256_hex;
use crate::frame::SessionCode;

const LISTED: i64 = 100;
const FORGOTTEN_AT_ONCE: i64 = 10_000;

/// Trades an activation code for a device with a refresh token. A refusal leaves the code as it was.
pub(crate) async fn enroll(
    conn: &mut Conn,
    wish: &Enrolling,
    deriver: &RefreshTokenDeriver,
) -> QueryResult<Result<Granted, Refused>> {
    transaction!(conn, async |conn: &mut Conn| {
        let hash = wish.code_hash();
        let Some((code, _)) = code_of(conn, &hash).await? else { return Ok(Err(Refused::Code)) };
        lock_user(conn, code.user_id).await?;
        let Some((code, user)) = code_of(conn, &hash).await? else { return Ok(Err(Refused::Code)) };
        match wish.judge(&code, &user) {
            Ok(CodeUse::Spend) => spend(conn, wish, deriver, &code).await,
            Ok(CodeUse::Repeat(device)) => repeat(conn, wish, deriver, device).await,
            Err(refused) => Ok(Err(refused)),
        }
    })
    .await
}

async fn code_of(conn: &mut Conn, hash: &str) -> QueryResult<Option<(ActivationCode, User)>> {
    activation_codes::table
        .inner_join(users::table.on(users::id.eq(activation_codes::user_id)))
        .filter(activation_codes::code_hash.eq(hash))
        .select((ActivationCode::as_select(), User::as_select()))
        .first(conn)
        .await
        .optional()
}

async fn repeat(
    conn: &mut Conn,
    wish: &Enrolling,
    deriver: &RefreshTokenDeriver,
    device: DeviceId,
) -> QueryResult<Result<Granted, Refused>> {
    let (family, token) = deriver.first(&wish.code, device);
    let held = held(conn, family).await?;
    Ok(match held.filter(|held| wish.may_repeat(held)) {
        Some(held) => Ok(Granted::of(token, &held.family, &held.device)),
        None => Err(Refused::Code),
    })
}

async fn spend(
    conn: &mut Conn,
    wish: &Enrolling,
    deriver: &RefreshTokenDeriver,
    code: &ActivationCode,
) -> QueryResult<Result<Granted, Refused>> {
    let known: Option<Device> = devices::table
        .filter(devices::user_id.eq(code.user_id).and(devices::device_uuid.eq(&wish.device_uuid)))
        .select(Device::as_select())
        .first(conn)
        .await
        .optional()?;
    let own = known.as_ref().map(|device| device.id);
    let leaving = wish.replace.filter(|device| Some(*device) != own);
    let mut revoked = None;
    if let Some(device) = leaving {
        let status: Option<DeviceStatus> = devices::table
            .filter(devices::id.eq(device).and(devices::user_id.eq(code.user_id)))
            .select(devices::status)
            .first(conn)
            .await
            .optional()?;
        let Some(status) = status else { return Ok(Err(Refused::Replace)) };
        revoked = (status == DeviceStatus::Active).then_some(device);
    }
    let uncounted: Vec<DeviceId> = own.into_iter().chain(leaving).collect();
    if let Some(others) = crowd(conn, wish, code.user_id, uncounted).await? {
        return Ok(Err(Refused::DeviceLimit(others)));
    }
    let device = match known {
        Some(device) => take_over(conn, wish, device).await?,
        None => create_device(conn, wish, code.user_id).await?,
    };
    let change = (activation_codes::used_at.eq(wish.now), activation_codes::device_id.eq(device.id));
    diesel::update(activation_codes::table.find(code.id)).set(change).execute(conn).await?;
    let (family, token) = deriver.first(&wish.code, device.id);
    let row = RefreshFamily {
        id: family,
        device_id: device.id,
        token_hash: sha256_hex(token.as_bytes()),
        previous_hash: None,
        issued_at: wish.now,
        expires_at: wish.now.after(wish.refresh_ttl),
    };
    diesel::insert_into(refresh_families::table).values(&row).execute(conn).await?;
    if let Some(device) = revoked {
        revoke(conn, device, wish.now).await?;
    }
    Ok(Ok(Granted::of(token, &row, &device)))
}

/// The user's active devices, if they leave no room for another; some do not count.
async fn crowd(
    conn: &mut Conn,
    wish: &Enrolling,
    user: UserId,
    uncounted: Vec<DeviceId>,
) -> QueryResult<Option<Vec<DeviceView>>> {
    let paid = admission::subscription(conn, user, wish.now).await?;
    let serving = paid.filter(|(subscription, plan)| subscription.serves(plan, wish.now));
    let Some((_, plan)) = serving.filter(|(_, plan)| plan.max_devices.is_some()) else { return Ok(None) };
    let count: i64 = devices::table
        .filter(devices::user_id.eq(user).and(devices::status.eq(DeviceStatus::Active)))
        .filter(devices::id.ne_all(uncounted))
        .count()
        .get_result(conn)
        .await?;
    if device_limit::has_room(&plan, count) {
        return Ok(None);
    }
    let rows: Vec<Device> = devices::table
        .filter(devices::user_id.eq(user).and(devices::status.eq(DeviceStatus::Active)))
        .filter(devices::device_uuid.ne(&wish.device_uuid))
        .select(Device::as_select())
        .order(devices::id)
        .limit(LISTED)
        .load(conn)
        .await?;
    Ok(Some(rows.into_iter().map(view).collect()))
}

fn view(device: Device) -> DeviceView {
    DeviceView {
        id: device.id.uuid(),
        platform: device.platform,
        name: device.name,
        created_at: device.created_at.0,
        last_seen_at: device.last_seen_at.map(|seen| seen.0),
    }
}

/// The installation has a device already: it becomes active, and its older tokens are void.
async fn take_over(conn: &mut Conn, wish: &Enrolling, device: Device) -> QueryResult<Device> {
    let name = if wish.name.is_empty() { &device.name } else { &wish.name };
    let change = (
        devices::status.eq(DeviceStatus::Active),
        devices::platform.eq(&wish.platform),
        devices::name.eq(name),
        devices::client_version.eq(wish.client_version.clone()),
    );
    diesel::update(devices::table.find(device.id)).set(change).execute(conn).await?;
    diesel::delete(refresh_families::table.filter(refresh_families::device_id.eq(device.id))).execute(conn).await?;
    Ok(device)
}

async fn create_device(conn: &mut Conn, wish: &Enrolling, user: UserId) -> QueryResult<Device> {
    let row = Device {
        id: DeviceId::fresh(),
        user_id: user,
        device_uuid: wish.device_uuid.clone(),
        platform: wish.platform.clone(),
        name: wish.name.clone(),
        client_version: wish.client_version.clone(),
        status: DeviceStatus::Active,
        created_at: wish.now,
        last_seen_at: None,
        revision: 0,
    };
    diesel::insert_into(devices::table).values(&row).execute(conn).await?;
    Ok(row)
}

/// Revokes a device under the lock on its user's row: its tokens are void, its sessions end.
pub(super) async fn revoke(conn: &mut Conn, device: DeviceId, now: Time) -> QueryResult<i64> {
    diesel::update(devices::table.find(device)).set(devices::status.eq(DeviceStatus::Revoked)).execute(conn).await?;
    diesel::delete(refresh_families::table.filter(refresh_families::device_id.eq(device))).execute(conn).await?;
    let stopped = NewEvent::DeviceStopped(device, SessionCode::DeviceBanned);
    events::emit(conn, stopped, now).await
}

/// Trades a refresh token for its successor; one that was used before costs its family.
pub(crate) async fn refresh(
    conn: &mut Conn,
    wish: &Refreshing,
    deriver: &RefreshTokenDeriver,
) -> QueryResult<Result<Granted, Refused>> {
    let Some(family) = family_of(&wish.token) else { return Ok(Err(Refused::Token)) };
    transaction!(conn, async |conn: &mut Conn| {
        let Some(found) = held(conn, family).await? else { return Ok(Err(Refused::Token)) };
        lock_user(conn, found.user.id).await?;
        let Some(found) = held(conn, family).await? else { return Ok(Err(Refused::Token)) };
        match wish.judge(&found) {
            Ok(TokenUse::Rotate) => Ok(Ok(rotate(conn, wish, found, deriver).await?)),
            Ok(TokenUse::Repeat) => {
                Ok(Ok(Granted::of(deriver.next(family, &wish.token), &found.family, &found.device)))
            }
            Ok(TokenUse::Reuse) => {
                diesel::delete(refresh_families::table.find(family)).execute(conn).await?;
                Ok(Err(Refused::Reused(found.device.id)))
            }
            Err(refused) => Ok(Err(refused)),
        }
    })
    .await
}

async fn held(conn: &mut Conn, family: FamilyId) -> QueryResult<Option<Held>> {
    let found: Option<(RefreshFamily, Device, User)> = refresh_families::table
        .inner_join(devices::table.on(devices::id.eq(refresh_families::device_id)))
        .inner_join(users::table.on(users::id.eq(devices::user_id)))
        .filter(refresh_families::id.eq(family))
        .select((RefreshFamily::as_select(), Device::as_select(), User::as_select()))
        .first(conn)
        .await
        .optional()?;
    Ok(found.map(|(family, device, user)| Held { family, device, user }))
}

async fn rotate(conn: &mut Conn, wish: &Refreshing, held: Held, deriver: &RefreshTokenDeriver) -> QueryResult<Granted> {
    let next = deriver.next(held.family.id, &wish.token);
    let row = RefreshFamily {
        token_hash: sha256_hex(next.as_bytes()),
        previous_hash: Some(held.family.token_hash),
        issued_at: wish.now,
        expires_at: wish.now.after(wish.refresh_ttl),
        ..held.family
    };
    diesel::update(refresh_families::table.find(row.id))
        .set((
            refresh_families::token_hash.eq(&row.token_hash),
            refresh_families::previous_hash.eq(&row.previous_hash),
            refresh_families::issued_at.eq(row.issued_at),
            refresh_families::expires_at.eq(row.expires_at),
        ))
        .execute(conn)
        .await?;
    Ok(Granted::of(next, &row, &held.device))
}

/// Deletes families that expired before a moment, and activation codes that expired before another.
pub(crate) async fn forget(conn: &mut Conn, families: Time, codes: Time) -> QueryResult<usize> {
    let mut deleted = 0;
    for (table, before) in [("refresh_families", families), ("activation_codes", codes)] {
        let sql = format!(
            "DELETE FROM {table} WHERE id IN \
             (SELECT id FROM {table} WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)"
        );
        let expired = diesel::sql_query(sql).bind::<SqlTime, _>(before).bind::<BigInt, _>(FORGOTTEN_AT_ONCE);
        deleted += expired.execute(conn).await?;
    }
    Ok(deleted)
}
