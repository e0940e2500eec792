use crate::control::model::state::EndpointState;
use std::collections::HashSet;
use std::time::Duration;

use time::macros::datetime;
use uuid::Uuid;

use super::*;

const GATEWAYS: u128 = 10;
const USERS: u128 = 2000;

fn id<T: From<Uuid>>(number: u128) -> T {
    Uuid::from_u128(number).into()
}

fn region(number: u128, code: &str) -> Region {
    Region {
        id: id(number),
        code: code.into(),
        name: code.to_uppercase(),
        names: r#"{"de":"Mitte"}"#.into(),
        exit_country: "DE".into(),
        udp: true,
        ipv6: false,
        resolvers: "9.9.9.9,2620:fe::fe".into(),
        revision: 0,
    }
}

fn endpoint(number: u128, gateway: u128) -> Endpoint {
    Endpoint {
        id: id(number),
        gateway_node_id: id(gateway),
        host: format!("g{gateway}.example.com"),
        port: 443,
        sni: format!("g{gateway}.example.com"),
        path: "/p".into(),
        transports: "ws,h2".into(),
        tls_pin: String::new(),
        weight: 1,
        state: EndpointState::Active,
        created_at: Time(datetime!(2026-11-23 0:00 UTC)),
        revision: 0,
    }
}

fn offer(gateways: impl Iterator<Item = u128> + Clone) -> Offer {
    Offer {
        half_closing: Vec::new(),
        regions: vec![region(1, "eu-1")],
        gateways: gateways.clone().map(|gateway| (id(gateway), id(1))).collect(),
        endpoints: gateways.map(|gateway| endpoint(1000 + gateway, gateway)).collect(),
        ..Offer::default()
    }
}

fn shown(offer: &Offer, user: u128) -> HashSet<GatewayId> {
    offer.shown_to(id(user), 3).gateways.into_iter().map(|gateway| gateway.id).collect()
}

#[test]
fn a_gateway_that_goes_moves_only_its_own_users() {
    let all = offer(100..100 + GATEWAYS);
    let gone: GatewayId = id(104);
    let without = offer((100..100 + GATEWAYS).filter(|gateway| id::<GatewayId>(*gateway) != gone));
    let mut moved = 0;
    for user in 0..USERS {
        let (before, after) = (shown(&all, user), shown(&without, user));
        assert_eq!((before.len(), after.len()), (3, 3));
        if before.contains(&gone) {
            moved += 1;
            assert_eq!(before.difference(&after).copied().collect::<Vec<_>>(), [gone]);
        } else {
            assert_eq!(before, after);
        }
    }
    let share = USERS * 3 / GATEWAYS;
    assert!((share * 8 / 10..share * 12 / 10).contains(&moved), "{moved} of about {share}");
}

#[test]
fn every_region_has_its_share_and_only_what_the_plan_allows_is_shown() {
    let mut both = offer(100..104);
    both.regions.push(region(2, "us-1"));
    both.regions.push(region(3, "zz-1"));
    both.gateways.push((id(200), id(2)));
    both.endpoints.push(endpoint(1200, 200));
    both.exits = vec![(id(103), id(1)), (id(103), id(2))];
    both.gateways.push((id(300), id(3)));
    let catalog = both.shown_to(id(7), 1);
    let codes: Vec<_> = catalog.regions.iter().map(|region| region.code.as_str()).collect();
    assert_eq!(codes, ["eu-1", "us-1"], "the third has a gateway without an endpoint");
    for code in codes {
        assert!(catalog.gateways.iter().any(|gateway| gateway.exit_regions.iter().any(|exit| exit == code)));
    }
    both.allowed = vec![id(2)];
    let catalog = both.shown_to(id(7), 9);
    assert_eq!(catalog.regions.len(), 1);
    let ids: HashSet<GatewayId> = catalog.gateways.iter().map(|gateway| gateway.id).collect();
    assert_eq!(ids, HashSet::from([id(103), id(200)]));
    assert!(catalog.gateways.iter().all(|gateway| gateway.exit_regions == ["us-1"]));
}

#[test]
fn equal_content_gives_equal_claims_for_half_of_their_life() {
    let catalog = offer(100..102).shown_to(id(1), 3);
    let (ttl, min_client_version) = (Duration::from_mins(2), "1.2".to_owned());
    let config = config::ClientConfig { ttl, min_client_version, gateways_per_region: 3 };
    let at = |second| {
        let now = Time(time::OffsetDateTime::from_unix_timestamp(second).unwrap());
        serde_json::to_value(Configuration::new(&catalog, &config, now)).unwrap()
    };
    assert_eq!(at(1_200_000), at(1_200_059));
    let next = at(1_200_060);
    assert_eq!((next["iat"].as_i64(), next["exp"].as_i64()), (Some(1_200_060), Some(1_200_180)));
    assert_eq!((next["iss"].as_str(), next["aud"].as_str()), (Some("httvps"), Some("httvps-client")));
    assert_eq!(next["regions"][0]["names"], serde_json::json!({ "de": "Mitte" }));
    assert_eq!(next["regions"][0]["resolvers"], serde_json::json!(["9.9.9.9", "2620:fe::fe"]));
    assert_eq!(next["gateways"][0]["endpoints"][0]["transports"], serde_json::json!(["ws", "h2"]));
}
