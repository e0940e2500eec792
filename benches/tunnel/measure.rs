use std::fs;

use futures_util::future::join_all;

pub(crate) const GIB: f64 = 1_073_741_824.0;
pub(crate) const MIB: f64 = 1_048_576.0;
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    ticks(&format!("/proc/{pid}/stat")) / TICKS_PER_SECOND
}

pub(crate) fn thread_cpu_seconds() -> f64 {
    ticks("/proc/thread-self/stat") / TICKS_PER_SECOND
}

fn ticks(path: &str) -> f64 {
    let stat = fs::read_to_string(path).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let (user, system): (u32, u32) = (fields[11].parse().unwrap(), fields[12].parse().unwrap());
    f64::from(user) + f64::from(system)
}

pub(crate) fn resident_kib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn setting(name: &str, default: f64) -> f64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

pub(crate) fn gib() -> f64 {
    setting("HTTVPS_BENCH_GIB", 1.0)
}

pub(crate) fn rounds() -> usize {
    (setting("HTTVPS_BENCH_ROUNDS", 3.0) as usize).max(1)
}

pub(crate) fn percentile(mut samples: Vec<f64>, part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() as f64 * part).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    match samples.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => samples[middle],
        _ => f64::midpoint(samples[middle - 1], samples[middle]),
    }
}

pub(crate) async fn in_lanes<T, F: Future<Output = T>>(count: usize, lanes: usize, one: impl Fn() -> F) -> Vec<T> {
    let one = &one;
    let work = (0..lanes).map(|lane| async move {
        let mut made = Vec::new();
        for _ in (lane..count).step_by(lanes) {
            made.push(one().await);
        }
        made
    });
    join_all(work).await.into_iter().flatten().collect()
}
