#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::decimal_bitwise_operands,
    clippy::expect_used,
    clippy::items_after_statements,
    clippy::large_futures,
    clippy::large_stack_arrays,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unused_io_amount,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a benchmark fails by panicking and says things shortly"
)]

#[path = "../../tests/integration"]
mod integration {
    pub(crate) mod support;
}

mod bulk;
mod cipher;
mod distance;
mod field;
mod file_limit;
mod flood;
mod floor;
mod handshake;
mod idle;
mod latency;
mod line;
mod measure;
mod peers;
mod rate;
mod report;
mod resume;
mod session;
mod streams;
mod throughput;
mod transports;
mod tunnels;

use integration::support;
use tikv_jemallocator::Jemalloc;

use field::Field;
use report::Report;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const MEASURES: [&str; 11] =
    ["bulk", "latency", "streams", "tunnels", "transports", "resume", "idle", "floor", "flood", "rate", "line"];
const OF_THE_FIELD: [&str; 4] = ["bulk", "latency", "streams", "tunnels"];
const FILES_NEEDED: u64 = 4_096;
/// If set, a missed goal is a failure.
const STRICT: &str = "HTTVPS_BENCH_STRICT";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if words == [floor::ALONE] {
        return floor::alone();
    }
    if let Some(unknown) = words.iter().find(|word| !MEASURES.contains(&word.as_str())) {
        eprintln!("no measure {unknown}; there are {}", MEASURES.join(", "));
        std::process::exit(2);
    }
    file_limit::raise(FILES_NEEDED, "`idle` and `tunnels`");
    tokio::runtime::Runtime::new().unwrap().block_on(run(&words));
}

async fn run(words: &[String]) {
    let wants = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let mut report = Report::default();
    if OF_THE_FIELD.into_iter().any(wants) {
        let field = Field::build().await;
        if wants("bulk") {
            bulk::run(&field.subjects, &mut report).await;
        }
        if wants("latency") {
            latency::run(&field.subjects, &mut report).await;
        }
        if wants("streams") {
            streams::run(&field.subjects, &mut report).await;
        }
        if wants("tunnels") {
            tunnels::run(&field, &mut report).await;
        }
    }
    if wants("transports") {
        transports::run(&mut report).await;
    }
    if wants("resume") {
        resume::run(&mut report).await;
    }
    if wants("idle") {
        idle::run(&mut report).await;
    }
    if wants("floor") {
        floor::run(&mut report);
    }
    if wants("flood") {
        flood::run(&mut report).await;
    }
    if wants("rate") {
        rate::run(&mut report).await;
    }
    if wants("line") {
        distance::run(&mut report).await;
    }
    report.print_table();
    let missed = report.missed();
    if std::env::var_os(STRICT).is_some() && !missed.is_empty() {
        eprintln!("missed: {}", missed.join(", "));
        std::process::exit(1);
    }
}
