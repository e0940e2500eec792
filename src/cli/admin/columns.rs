//! What a list shows of each resource.

/// A column of a list.
pub(super) struct Column {
    pub(super) title: &'static str,
    /// The members of a row that it is made of.
    pub(super) members: &'static [&'static str],
    pub(super) form: Form,
}

/// How a column's members are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An ID, by its last digits.
    Id,
    /// The name of what an ID of this resource means.
    Name(&'static str),
    Text,
    Number,
    /// A number, or no limit.
    Limit,
    Gigabytes,
    Rate,
    Bytes,
    Time,
    Age,
    YesNo,
    /// One number of another.
    Share,
    /// Host and port.
    Address,
    Price,
    /// The period of a plan.
    Period,
    /// A list; empty means all.
    All,
}

impl Form {
    pub(super) fn is_right(self) -> bool {
        matches!(
            self,
            Self::Number
                | Self::Limit
                | Self::Gigabytes
                | Self::Rate
                | Self::Bytes
                | Self::Age
                | Self::Share
                | Self::Price
        )
    }

    /// Whether it should be cut after the others.
    pub(super) fn is_rigid(self) -> bool {
        !matches!(self, Self::Name(_) | Self::Text | Self::Address | Self::All)
    }

    /// Whether it tells all that its members do.
    pub(super) fn is_whole(self) -> bool {
        !matches!(self, Self::Name(_) | Self::Bytes | Self::Time | Self::Age)
    }
}

const fn column(title: &'static str, members: &'static [&'static str], form: Form) -> Column {
    Column { title, members, form }
}

const ID: Column = column("ID", &["id"], Form::Id);
const NAME: Column = column("NAME", &["name"], Form::Text);
const USER: Column = column("USER", &["user_id"], Form::Name("users"));
const REGION: Column = column("REGION", &["region_id"], Form::Name("regions"));
const GATEWAY: Column = column("GATEWAY", &["gateway_id"], Form::Name("gateways"));
const STATUS: Column = column("STATUS", &["status"], Form::Text);
const STATE: Column = column("STATE", &["state"], Form::Text);
const CREATED: Column = column("CREATED", &["created_at"], Form::Time);
const VERSION: Column = column("VERSION", &["version"], Form::Text);
const HEARTBEAT: Column = column("HEARTBEAT", &["last_heartbeat_at"], Form::Age);
const BEGAN: Column = column("BEGAN", &["started_at"], Form::Age);
const UP: Column = column("UP", &["bytes_up"], Form::Bytes);
const DOWN: Column = column("DOWN", &["bytes_down"], Form::Bytes);
const HEALTH_STATUS: Column = column("HEALTH", &["health_status"], Form::Text);
const TIME: Column = column("TIME", &["time"], Form::Time);
const CODE: Column = column("CODE", &["code"], Form::Text);
const SUPPORT_ID: Column = column("SUPPORT ID", &["support_id"], Form::Text);
const CLIENT: Column = column("CLIENT", &["client_version"], Form::Text);
/// In what a diagnosis looked at, gateways and nodes have their names already.
const GATEWAY_NAME: Column = column("GATEWAY", &["gateway"], Form::Text);
const NODE_NAME: Column = column("NODE", &["node"], Form::Text);

const USERS: &[Column] = &[
    ID,
    column("IDENTIFIER", &["identifier"], Form::Text),
    column("KIND", &["identifier_kind"], Form::Text),
    STATUS,
    CREATED,
];
const DEVICES: &[Column] = &[
    ID,
    USER,
    NAME,
    column("PLATFORM", &["platform"], Form::Text),
    STATUS,
    column("SEEN", &["last_seen_at"], Form::Age),
];
const CODES: &[Column] =
    &[ID, USER, CREATED, column("EXPIRES", &["expires_at"], Form::Age), column("USED", &["used_at"], Form::Age)];
const PLANS: &[Column] = &[
    ID,
    NAME,
    column("DEVICES", &["max_devices"], Form::Limit),
    column("TRAFFIC", &["traffic_limit_gb"], Form::Gigabytes),
    column("RATE", &["rate_limit_mbps"], Form::Rate),
    column("PERIOD", &["period", "period_days"], Form::Period),
    column("PRICE", &["price", "currency"], Form::Price),
    column("REGIONS", &["regions"], Form::All),
];
const SUBSCRIPTIONS: &[Column] = &[
    ID,
    USER,
    column("PLAN", &["plan_id"], Form::Name("plans")),
    STATE,
    column("VALID UNTIL", &["valid_until"], Form::Time),
];
const REGIONS: &[Column] = &[
    ID,
    CODE,
    NAME,
    column("COUNTRY", &["exit_country"], Form::Text),
    column("UDP", &["udp"], Form::YesNo),
    column("IPV6", &["ipv6"], Form::YesNo),
];
const HEALTH: &[Column] = &[
    column("GATEWAY", &["name"], Form::Text),
    column("HEALTHY", &["healthy"], Form::YesNo),
    column("SETTLED", &["settled"], Form::YesNo),
    column("STREAK", &["streak"], Form::Number),
    column("MS", &["latency_ms"], Form::Number),
    column("CHECKED", &["checked_at"], Form::Age),
    column("ERROR", &["error"], Form::Text),
];
const NODES: &[Column] = &[
    ID,
    NAME,
    REGION,
    column("ADDRESS", &["internal_ip", "ss_port"], Form::Address),
    STATUS,
    HEALTH_STATUS,
    column("SESSIONS", &["active_sessions", "max_sessions"], Form::Share),
];
const GATEWAYS: &[Column] = &[
    ID,
    NAME,
    REGION,
    STATUS,
    VERSION,
    column("SESSIONS", &["sessions"], Form::Number),
    column("STREAMS", &["streams"], Form::Number),
    HEARTBEAT,
];
const ENDPOINTS: &[Column] = &[
    ID,
    GATEWAY,
    column("ADDRESS", &["host", "port"], Form::Address),
    column("TRANSPORTS", &["transports"], Form::Text),
    column("WEIGHT", &["weight"], Form::Number),
    STATE,
];
const SESSIONS: &[Column] = &[
    ID,
    USER,
    column("GATEWAY", &["gateway_node_id"], Form::Name("gateways")),
    column("NODE", &["outline_node_id"], Form::Name("nodes")),
    STATE,
    BEGAN,
    UP,
    DOWN,
];
const REFUSALS: &[Column] = &[TIME, CODE, SUPPORT_ID, column("DEVICE", &["device_id"], Form::Id), GATEWAY, CLIENT];

const WHY_SESSIONS: &[Column] =
    &[ID, STATE, GATEWAY_NAME, NODE_NAME, BEGAN, column("ENDED", &["ended_at"], Form::Age), UP, DOWN];
const WHY_GATEWAYS: &[Column] = &[
    NAME,
    STATUS,
    VERSION,
    HEARTBEAT,
    column("CLOCK MS", &["clock_offset_ms"], Form::Number),
    column("CERTIFICATE ENDS", &["certificate_ends"], Form::Time),
];
const WHY_NODES: &[Column] = &[NAME, STATUS, HEALTH_STATUS];
const WHY_REFUSALS: &[Column] = &[TIME, CODE, SUPPORT_ID, GATEWAY_NAME, CLIENT];

/// The columns of the answer to a resource and a verb; empty for what has none of its own.
pub(super) fn of(kind: (&str, &str)) -> &'static [Column] {
    match kind {
        ("users", _) => USERS,
        ("devices", _) => DEVICES,
        ("codes", _) => CODES,
        ("plans", _) => PLANS,
        ("subscriptions", _) => SUBSCRIPTIONS,
        ("regions", _) => REGIONS,
        ("nodes", "health") => HEALTH,
        ("nodes", _) => NODES,
        ("gateways", _) => GATEWAYS,
        ("endpoints", _) => ENDPOINTS,
        ("sessions", _) => SESSIONS,
        ("refusals", _) => REFUSALS,
        ("why", "sessions") => WHY_SESSIONS,
        ("why", "gateways") => WHY_GATEWAYS,
        ("why", "nodes") => WHY_NODES,
        ("why", "refusals") => WHY_REFUSALS,
        _ => &[],
    }
}

/// The resource that a member's ID is of.
pub(super) fn referred(member: &str) -> Option<&'static str> {
    Some(match member {
        "user_id" => "users",
        "device_id" => "devices",
        "plan_id" => "plans",
        "subscription_id" => "subscriptions",
        "region_id" => "regions",
        "gateway_id" | "gateway_node_id" => "gateways",
        "node_id" | "outline_node_id" => "nodes",
        _ => return None,
    })
}

/// The resource that a field of a request means a row of, by its ID or its name.
pub(super) fn meant(field: &str) -> Option<&'static str> {
    Some(match field {
        "plan" => "plans",
        "region" => "regions",
        "gateway" => "gateways",
        _ => return referred(field),
    })
}

/// Whether the API takes names of its rows for IDs.
pub(super) fn is_named(resource: &str) -> bool {
    matches!(resource, "plans" | "regions" | "gateways")
}

/// The member that a row of a resource is called by.
pub(super) fn label(resource: &str) -> Option<&'static str> {
    Some(match resource {
        "users" => "identifier",
        "regions" => "code",
        "devices" | "plans" | "gateways" | "nodes" => "name",
        _ => return None,
    })
}
