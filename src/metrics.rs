//! Prometheus metrics; each role owns a registry (names: docs/07).

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

static LOG_LINES_LOST: AtomicU64 = AtomicU64::new(0);

/// A log line could not be written.
pub fn lose_log_line() {
    LOG_LINES_LOST.fetch_add(1, Ordering::Relaxed);
}

/// Log lines that could not be written since the process began.
pub fn log_lines_lost() -> u64 {
    LOG_LINES_LOST.load(Ordering::Relaxed)
}

/// A role's registry.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    lost_lines: IntCounter,
}

impl Metrics {
    /// A registry with `httvps_build_info`.
    pub fn new(role: &str) -> Self {
        let registry = Registry::new();
        let lost_lines =
            register(&registry, IntCounter::new("httvps_log_lines_lost_total", "Log lines that could not be written"));
        let metrics = Self { registry, lost_lines };
        let info = metrics.gauges("httvps_build_info", "Version of the running binary", &["version", "role"]);
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), role]).set(1);
        metrics
    }

    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        register(&self.registry, made)
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    /// Gauges by label.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// Gauges with fractions by label.
    pub fn fractions(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, help), labels))
    }

    /// A counter.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    /// Counters by label.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A histogram of seconds.
    pub fn seconds(&self, name: &str, help: &str) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help)))
    }

    /// Histograms of seconds by label.
    pub fn seconds_by(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.register(HistogramVec::new(HistogramOpts::new(name, help), labels))
    }

    /// The text that `/metrics` answers.
    pub fn render(&self) -> String {
        self.lost_lines.inc_by(log_lines_lost().saturating_sub(self.lost_lines.get()));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    match made.and_then(|collector| registry.register(Box::new(collector.clone())).map(|()| collector)) {
        Ok(collector) => collector,
        Err(error) => unreachable!("metric names are constants and unique: {error}"),
    }
}
