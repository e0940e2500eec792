//! `httvps migrate`: the schema and where it stands.

use crate::config::{ConfigError, Database, Source};
use crate::control::db;

/// Why the schema could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("database: {0}")]
    Database(Box<dyn std::error::Error + Send + Sync>),
}

fn database(source: &Source) -> Result<Database, MigrateError> {
    let config: Database = source.section()?;
    db::check(&config).map_err(|invalid| source.locate(&invalid))?;
    Ok(config)
}

/// Applies what is missing; gives its names.
pub async fn run(source: &Source) -> Result<Vec<String>, MigrateError> {
    db::migrate(&database(source)?).await.map_err(MigrateError::Database)
}

/// Compares the schema with this binary.
pub async fn status(source: &Source) -> Result<db::Status, MigrateError> {
    db::status(&database(source)?).await.map_err(MigrateError::Database)
}
