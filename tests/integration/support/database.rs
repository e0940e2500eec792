//! A separate database for each test.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

pub(crate) const BOTH: [Kind; 2] = [Kind::Sqlite, Kind::Postgres];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The URL of a fresh, empty database.
pub(crate) async fn fresh(kind: Kind, folder: &Path) -> String {
    if kind == Kind::Sqlite {
        return format!("sqlite://{}", folder.join("control.db").display());
    }
    let server = std::env::var("HTTVPS_TEST_POSTGRES").expect("`make test` starts PostgreSQL for the tests");
    let name = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let client = connect(&format!("{server}/postgres")).await;
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    format!("{server}/{name}")
}

/// A direct connection to PostgreSQL.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
