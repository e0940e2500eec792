//! docs/03 as a contract: vectors, schemas, limits, and peers that break the rules.

mod abuse;
mod early_data;
mod fuzz_seeds;
mod limits;
mod schemas;
mod vectors;
