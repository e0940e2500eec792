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

#[path = "../tunnel/file_limit.rs"]
mod file_limit;
#[path = "../tunnel/measure.rs"]
mod measure;
#[path = "../tunnel/report.rs"]
mod report;
#[path = "../tunnel/session.rs"]
mod session;

mod admission;
mod clients;
mod fleet;
mod load;
mod pace;
mod postgres;
mod revocation;
mod site;
mod streams;
mod usage;

use integration::support;

use report::Report;
use site::Site;

const MEASURES: [&str; 4] = ["usage", "admission", "streams", "revocation"];
const FILES_NEEDED: u64 = 11_000;
/// If set, a missed goal is a failure.
const STRICT: &str = "HTTVPS_BENCH_STRICT";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let Some(unknown) = words.iter().find(|word| !MEASURES.contains(&word.as_str())) {
        eprintln!("no measure {unknown}; there are {}", MEASURES.join(", "));
        std::process::exit(2);
    }
    file_limit::raise(FILES_NEEDED, "`streams` and `revocation`");
    let missed = tokio::runtime::Runtime::new().unwrap().block_on(run(&words));
    if std::env::var_os(STRICT).is_some() && !missed.is_empty() {
        eprintln!("missed: {}", missed.join(", "));
        std::process::exit(1);
    }
}

async fn run(words: &[String]) -> Vec<String> {
    let wants = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let site = Site::build(pace::users()).await;
    let mut report = Report::default();
    if wants("usage") {
        usage::run(&site, &mut report).await;
    }
    if wants("admission") {
        admission::run(&site, &mut report).await;
    }
    if wants("streams") {
        streams::run(&site, &mut report).await;
    }
    if wants("revocation") {
        revocation::run(&site, &mut report).await;
    }
    report.print_table();
    report.missed().into_iter().map(str::to_owned).collect()
}
