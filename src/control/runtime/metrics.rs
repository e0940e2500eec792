use prometheus::{Histogram, HistogramVec, IntCounter, IntGauge};

use crate::metrics::Metrics;

/// What the control plane counts.
pub(crate) struct ControlMetrics {
    pub(crate) all: Metrics,
    pub(crate) http: HistogramVec,
    pub(crate) revocation: Histogram,
    pub(crate) unacked: IntCounter,
    pub(crate) pool_in_use: IntGauge,
    pub(crate) pool_size: IntGauge,
    pub(crate) retries: IntCounter,
    pub(crate) implausible: IntCounter,
    pub(crate) split: IntCounter,
}

impl ControlMetrics {
    pub(crate) fn new() -> Self {
        let all = Metrics::new("control");
        Self {
            http: all.seconds_by("httvps_http_request_seconds", "Time to answer a request", &["route", "status"]),
            revocation: all.seconds("httvps_revocation_seconds", "Until every online gateway has acted on a change"),
            unacked: all.counter("httvps_revocations_unacked_total", "Changes that not every gateway acted on in time"),
            pool_in_use: all.gauge("httvps_db_pool_in_use", "Database connections in use"),
            pool_size: all.gauge("httvps_db_pool_size", "Most database connections"),
            retries: all
                .counter("httvps_db_retries_total", "Transactions begun again because others were in their way"),
            implausible: all.counter(
                "httvps_usage_implausible_total",
                "Usage reports refused because no line carries so much in the time",
            ),
            split: all
                .counter("httvps_usage_split_total", "Usage reports taken in parts because one session would not do"),
            all,
        }
    }
}
