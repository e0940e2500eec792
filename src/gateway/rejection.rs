//! Why connections, and requests beside tunnels, are refused (docs/01, "Metrics").

/// Why one was refused; sessions are refused with a session code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// There are as many connections as there may be.
    Connections,
    /// There are as many handshakes as there may be, in all or of its address or network.
    PreHello,
    /// It was silent when others came.
    CrowdedOut,
    /// It is in clear text, and from no proxy.
    Untrusted,
    /// Its proxy sent no PROXY header that is valid.
    ProxyHeader,
    /// Its proxy sent none in time.
    ProxyTimeout,
    Handshake,
    HandshakeTimeout,
    HelloTimeout,
    /// It is the site's.
    NotATunnel,
    /// Nobody took the body of an HTTP/2 stream beside tunnels.
    Unread,
    /// A request for the portal, of which there were too many.
    PortalRate,
    /// A request for the portal that was not relayed.
    PortalUnavailable,
}

impl Rejection {
    /// Its name as the label of a metric.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::PreHello => "pre_hello",
            Self::CrowdedOut => "crowded_out",
            Self::Untrusted => "untrusted",
            Self::ProxyHeader => "proxy_header",
            Self::ProxyTimeout => "proxy_timeout",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HelloTimeout => "hello_timeout",
            Self::NotATunnel => "not_a_tunnel",
            Self::Unread => "unread",
            Self::PortalRate => "portal_rate",
            Self::PortalUnavailable => "portal_unavailable",
        }
    }
}
