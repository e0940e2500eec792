use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Addresses to listen on: `"host:port"`, several with commas between them, or a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Texts")]
pub struct Addresses(Vec<String>);

impl Addresses {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Texts> for Addresses {
    fn from(texts: Texts) -> Self {
        Self(texts.0)
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [only] => serializer.serialize_str(only),
            all => serializer.collect_seq(all),
        }
    }
}

/// IP networks, such as `"10.0.0.0/8"`; an address alone is a network of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Texts")]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether an address is in one of them; a v4-mapped address is the IPv4 address that it maps.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Texts> for Networks {
    type Error = NetworkError;

    fn try_from(texts: Texts) -> Result<Self, NetworkError> {
        texts.0.iter().map(|text| network(text)).collect::<Result<_, _>>().map(Self)
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NetworkError {
    #[error("{0:?} is no network, such as 10.0.0.0/8 or fd00::/8, and no address")]
    Text(String),
    #[error("{0:?} maps IPv4 addresses: write the IPv4 network")]
    Mapped(String),
}

fn network(text: &str) -> Result<IpNet, NetworkError> {
    let network = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip.to_canonical()),
        Err(_) => text.parse().map_err(|_| NetworkError::Text(text.to_owned()))?,
    };
    let is_mapped = matches!(network.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    if is_mapped { Err(NetworkError::Mapped(text.to_owned())) } else { Ok(network.trunc()) }
}

/// A list of texts, or one text with commas.
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("text, or a list of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Ok(Texts(parts.map(str::to_owned).collect()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element::<String>()? {
            texts.push(text.trim().to_owned());
        }
        Ok(Texts(texts))
    }
}
