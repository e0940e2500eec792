//! Both databases: schema, query plans, faults, poolers and restored backups.

mod faults;
mod pgbouncer;
mod query_plans;
mod restore;
mod schema;
