//! What a client app is told of regions and gateways (docs/02, "Client configuration").

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::config;
use crate::control::model::id::{GatewayId, RegionId, UserId};
use crate::control::model::state::EndpointState;
use crate::control::model::types::Time;
use crate::control::model::{Endpoint, Region};
use crate::digest::sha256_hex;

const ISSUER: &str = "httvps";
const AUDIENCE: &str = "httvps-client";

/// What there is to choose from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offer {
    /// By code.
    pub regions: Vec<Region>,
    /// Regions all of whose nodes keep half closes.
    pub half_closing: Vec<RegionId>,
    /// Gateways that take sessions, each with the region it stands in.
    pub gateways: Vec<(GatewayId, RegionId)>,
    /// Gateways with the exit regions that are listed for them.
    pub exits: Vec<(GatewayId, RegionId)>,
    pub endpoints: Vec<Endpoint>,
    /// Regions of the user's plan; empty for all.
    pub allowed: Vec<RegionId>,
}

/// A region as clients and administrators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RegionView {
    pub code: String,
    pub name: String,
    /// By language.
    pub names: BTreeMap<String, String>,
    pub exit_country: String,
    pub udp: bool,
    pub ipv6: bool,
    pub resolvers: Vec<String>,
    /// Whether every node keeps half closes; clients alone are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_close: Option<bool>,
}

/// One way to a gateway as clients and administrators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EndpointView {
    pub host: String,
    pub port: i32,
    pub sni: String,
    pub path: String,
    pub transports: Vec<String>,
    pub tls_pin: String,
    pub weight: i32,
    pub state: EndpointState,
}

/// A gateway as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct GatewayView {
    pub id: GatewayId,
    pub region: String,
    pub exit_regions: Vec<String>,
    pub endpoints: Vec<EndpointView>,
}

/// What one user is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Catalog {
    pub regions: Vec<RegionView>,
    /// The user's best first.
    pub gateways: Vec<GatewayView>,
}

/// The claims of a signed client configuration.
#[derive(Debug, Serialize)]
pub(crate) struct Configuration<'a> {
    iss: &'static str,
    aud: &'static str,
    iat: i64,
    exp: i64,
    min_client_version: &'a str,
    #[serde(flatten)]
    catalog: &'a Catalog,
}

impl<'a> Configuration<'a> {
    /// Claims that stay the same for half of their life, so that equal content is equal bytes.
    pub(crate) fn new(catalog: &'a Catalog, config: &'a config::ClientConfig, now: Time) -> Self {
        let life = i64::try_from(config.ttl.as_secs()).unwrap_or(i64::MAX);
        let half = (life / 2).max(1);
        let iat = now.0.unix_timestamp().div_euclid(half).saturating_mul(half);
        let exp = iat.saturating_add(life);
        Self { iss: ISSUER, aud: AUDIENCE, iat, exp, min_client_version: &config.min_client_version, catalog }
    }
}

impl From<&Region> for RegionView {
    fn from(region: &Region) -> Self {
        Self {
            code: region.code.clone(),
            name: region.name.clone(),
            names: serde_json::from_str(&region.names).unwrap_or_default(),
            exit_country: region.exit_country.clone(),
            udp: region.udp,
            ipv6: region.ipv6,
            resolvers: items(&region.resolvers),
            half_close: None,
        }
    }
}

impl From<&Endpoint> for EndpointView {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            host: endpoint.host.clone(),
            port: endpoint.port,
            sni: endpoint.sni.clone(),
            path: endpoint.path.clone(),
            transports: items(&endpoint.transports),
            tls_pin: endpoint.tls_pin.clone(),
            weight: endpoint.weight,
            state: endpoint.state,
        }
    }
}

fn items(text: &str) -> Vec<String> {
    text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

struct Candidate<'a> {
    rank: String,
    id: GatewayId,
    region: RegionId,
    /// Those that the user may use.
    exits: Vec<RegionId>,
    endpoints: Vec<&'a Endpoint>,
}

/// A gateway's rank for a user: rendezvous hashing, so that a gateway that comes or goes moves only its own users.
fn rank(user: UserId, gateway: GatewayId) -> String {
    sha256_hex(&[user.as_bytes().as_slice(), gateway.as_bytes().as_slice()].concat())
}

impl Offer {
    /// Of each region the user may use the first `per_region` gateways by his ranks.
    pub(crate) fn shown_to(&self, user: UserId, per_region: usize) -> Catalog {
        let codes: HashMap<RegionId, &str> =
            self.regions.iter().map(|region| (region.id, region.code.as_str())).collect();
        let code = |id: &RegionId| codes.get(id).copied().unwrap_or_default().to_owned();
        let mut ahead: HashMap<RegionId, usize> = HashMap::new();
        let mut gateways = Vec::new();
        for candidate in self.candidates(user) {
            let mut is_shown = false;
            for exit in &candidate.exits {
                let before = ahead.entry(*exit).or_default();
                is_shown |= *before < per_region;
                *before += 1;
            }
            if is_shown {
                let mut exit_regions: Vec<String> = candidate.exits.iter().map(code).collect();
                exit_regions.sort_unstable();
                gateways.push(GatewayView {
                    id: candidate.id,
                    region: code(&candidate.region),
                    exit_regions,
                    endpoints: candidate.endpoints.into_iter().map(EndpointView::from).collect(),
                });
            }
        }
        let reachable = self.regions.iter().filter(|region| ahead.contains_key(&region.id));
        let view = |region: &Region| {
            let half_close = Some(self.half_closing.contains(&region.id));
            RegionView { half_close, ..RegionView::from(region) }
        };
        Catalog { regions: reachable.map(view).collect(), gateways }
    }

    /// Gateways with an endpoint, in the order of the user's ranks.
    fn candidates(&self, user: UserId) -> Vec<Candidate<'_>> {
        let mut listed: HashMap<GatewayId, Vec<RegionId>> = HashMap::new();
        for (gateway, region) in &self.exits {
            listed.entry(*gateway).or_default().push(*region);
        }
        let mut ways: HashMap<GatewayId, Vec<&Endpoint>> = HashMap::new();
        for endpoint in &self.endpoints {
            ways.entry(endpoint.gateway_node_id).or_default().push(endpoint);
        }
        let mut candidates = Vec::new();
        for (id, region) in &self.gateways {
            let Some(endpoints) = ways.remove(id) else { continue };
            let mut exits = listed.remove(id).unwrap_or_else(|| vec![*region]);
            exits.retain(|exit| self.allowed.is_empty() || self.allowed.contains(exit));
            candidates.push(Candidate { rank: rank(user, *id), id: *id, region: *region, exits, endpoints });
        }
        candidates.sort_by(|one, other| one.rank.cmp(&other.rank));
        candidates
    }
}

#[cfg(test)]
mod tests;
