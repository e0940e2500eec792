//! Migrations produce the same schema on both databases, can run twice, and by two processes at once.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::database::{self, BOTH, Kind};
use crate::support::environment::env;
use crate::support::process::run;

async fn columns(kind: Kind, url: &str) -> BTreeSet<String> {
    if kind == Kind::Postgres {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql = "SELECT table_name || '.' || column_name || ' ' || is_nullable FROM information_schema.columns \
            WHERE table_schema = 'public' AND table_name NOT LIKE '\\_\\_%'";
        return client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    }
    use diesel::prelude::*;
    #[derive(QueryableByName)]
    struct Line {
        #[diesel(sql_type = diesel::sql_types::Text)]
        line: String,
    }
    let mut conn = SqliteConnection::establish(url.strip_prefix("sqlite://").unwrap()).unwrap();
    let sql = "SELECT m.name || '.' || p.name || ' ' || CASE WHEN p.\"notnull\" THEN 'NO' ELSE 'YES' END AS line \
        FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table' AND m.name NOT LIKE '\\_\\_%' ESCAPE '\\'";
    let rows: Vec<Line> = diesel::sql_query(sql).load(&mut conn).unwrap();
    rows.into_iter().map(|row| row.line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_databases_have_the_same_tables_and_columns() {
    let mut all = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    for kind in BOTH {
        let url = database::fresh(kind, folder.path()).await;
        let (code, _, stderr) = run(&["migrate"], &env(&[("DATABASE__URL", &url)])).await;
        assert_eq!(code, Some(0), "{stderr}");
        all.push(columns(kind, &url).await);
    }
    assert!(all[0].len() > 80 && all[0].contains("outline_nodes.ss_password NO"), "{:?}", all[0]);
    assert_eq!(all[0].symmetric_difference(&all[1]).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_twice_and_concurrently() {
    for kind in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let url = database::fresh(kind, folder.path()).await;
        let env = env(&[("DATABASE__URL", &url)]);
        let (_, before, _) = run(&["migrate", "--status", "--json"], &env).await;
        let before: Value = serde_json::from_str(&before).unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres");
        let all = std::fs::read_dir(folder).unwrap().count();
        assert_eq!((&before["current"], before["pending"].as_array().unwrap().len()), (&Value::Null, all));
        let runs = [run(&["migrate"], &env), run(&["migrate"], &env), run(&["migrate"], &env)];
        let done = futures_util::future::join_all(runs).await;
        assert!(done.iter().all(|(code, ..)| *code == Some(0)), "{done:?}");
        let applied = done.iter().filter(|(_, stdout, _)| stdout.starts_with("applied ")).count();
        assert_eq!(applied, 1, "{done:?}");
        let (code, stdout, _) = run(&["migrate"], &env).await;
        assert_eq!((code, stdout.as_str()), (Some(0), "up to date\n"));
        let (_, after, _) = run(&["migrate", "--status", "--json"], &env).await;
        let after: Value = serde_json::from_str(&after).unwrap();
        assert_eq!(after["current"], after["latest"]);
        assert_eq!(after["pending"], Value::Array(Vec::new()));
    }
}
