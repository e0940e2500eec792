use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};
use uuid::Uuid;

use super::rejection::Rejection;
use crate::frame::SessionCode;
use crate::metrics::Metrics;

/// What a gateway measures.
#[derive(Clone)]
pub(crate) struct GatewayMetrics {
    pub(crate) all: Metrics,
    pub(crate) sessions: IntGauge,
    pub(crate) streams: IntGauge,
    pub(crate) tunnels: IntCounterVec,
    pub(crate) bytes: IntCounterVec,
    pub(crate) refused: IntCounterVec,
    pub(crate) streams_refused: IntCounterVec,
    pub(crate) datagrams_dropped: IntCounterVec,
    pub(crate) tokens: IntCounterVec,
    pub(crate) handshake: Histogram,
    pub(crate) node_dial: HistogramVec,
    pub(crate) node_healthy: IntGaugeVec,
    pub(crate) unreported: IntGauge,
    pub(crate) unflushed: IntGauge,
    pub(crate) clock_offset: GaugeVec,
    pub(crate) waiting: IntGauge,
    pub(crate) control_reachable: IntGauge,
    pub(crate) held: IntGauge,
    pub(crate) resumed: IntCounterVec,
}

impl GatewayMetrics {
    pub(crate) fn new() -> Self {
        let all = Metrics::new("gateway");
        Self {
            sessions: all.gauge("httvps_sessions", "Sessions open"),
            streams: all.gauge("httvps_streams", "Streams open"),
            tunnels: all.counters("httvps_tunnels_total", "Tunnels that were agreed on", &["transport"]),
            bytes: all.counters("httvps_bytes_total", "Billed payload bytes", &["direction"]),
            refused: all.counters("httvps_refused_total", "Connections and sessions refused", &["reason"]),
            streams_refused: all.counters("httvps_streams_refused_total", "Streams refused or reset", &["reason"]),
            datagrams_dropped: all.counters("httvps_datagrams_dropped_total", "Datagrams not passed on", &["reason"]),
            tokens: all.counters("httvps_tokens_checked_total", "Access tokens that were checked", &["outcome"]),
            handshake: all.seconds("httvps_handshake_seconds", "From accept to hello_ok"),
            node_dial: all.seconds_by("httvps_node_dial_seconds", "Time to connect to a node", &["node"]),
            node_healthy: all.gauges("httvps_node_healthy", "Whether a node answered its last probe", &["node"]),
            unreported: all.gauge("httvps_usage_unreported_bytes", "Billed bytes the control plane has not heard of"),
            unflushed: all.gauge("httvps_usage_unflushed_bytes", "Billed bytes that a crash would lose now"),
            clock_offset: all.fractions(
                "httvps_clock_offset_seconds",
                "How far this host's clock is ahead of another's",
                &["peer"],
            ),
            waiting: all.gauge("httvps_waiting_bytes", "Bytes of clients that wait for their destinations"),
            control_reachable: all.gauge("httvps_control_reachable", "Whether the control plane answers"),
            held: all.gauge("httvps_sessions_held", "Sessions that wait for their client to come back"),
            resumed: all.counters("httvps_resumed_total", "Clients that wanted to go on with a session", &["result"]),
            all,
        }
    }

    pub(super) fn refuse(&self, rejection: Rejection) {
        self.refused.with_label_values(&[rejection.as_str()]).inc();
    }

    pub(crate) fn refuse_session(&self, code: SessionCode) {
        self.refused.with_label_values(&[code.as_str()]).inc();
    }

    pub(crate) fn refuse_stream(&self, reason: &str) {
        self.streams_refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn drop_datagram(&self, reason: &str) {
        self.datagrams_dropped.with_label_values(&[reason]).inc();
    }

    /// Drops a node's series.
    pub(crate) fn forget_node(&self, id: Uuid) {
        let label = id.to_string();
        for removed in [self.node_healthy.remove_label_values(&[&label]), self.node_dial.remove_label_values(&[&label])]
        {
            if removed.is_err() {
                tracing::trace!(node = %id, "the node had no such metric");
            }
        }
    }
}
