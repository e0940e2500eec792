use std::fmt;

use ::shadowsocks::ServerConfig;
use ::shadowsocks::crypto::CipherKind;

/// What it takes to use a node: address, cipher and password; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeKey {
    /// Address or host name.
    pub host: String,
    /// Port of the Shadowsocks server.
    pub port: u16,
    /// The cipher's name.
    pub method: String,
    /// Password, or base64 key for AEAD-2022.
    pub password: String,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl NodeKey {
    /// Reads an `ss://` access key (SIP002, also as Outline writes it); plugins are refused, a `prefix` is not needed.
    pub fn parse(url: &str) -> Result<Self, String> {
        let config = ServerConfig::from_url(url).map_err(|error| format!("not an ss:// key: {error}"))?;
        if config.plugin().is_some() {
            return Err("plugins are not supported".into());
        }
        let key = Self {
            host: config.addr().host().trim_matches(['[', ']']).to_owned(),
            port: config.addr().port(),
            method: config.method().to_string(),
            password: config.password().to_owned(),
        };
        key.server_config()?;
        Ok(key)
    }

    /// Checks cipher and password and derives the key.
    pub(crate) fn server_config(&self) -> Result<ServerConfig, String> {
        let method: CipherKind = self.method.parse().map_err(|_| format!("unknown cipher {:?}", self.method))?;
        if method == CipherKind::NONE {
            return Err("the cipher `none` does not encrypt".into());
        }
        if self.password.is_empty() {
            return Err("the password is empty".into());
        }
        ServerConfig::new((self.host.clone(), self.port), self.password.clone(), method)
            .map_err(|error| format!("the password does not fit the cipher: {error}"))
    }

    /// Checks cipher and password.
    pub fn check(&self) -> Result<(), String> {
        self.server_config().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines_keys_and_plain_ones() {
        let key =
            NodeKey::parse("ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTpodXNo@10.0.0.7:4242/?outline=1&prefix=%16%03").unwrap();
        assert_eq!((key.host.as_str(), key.port), ("10.0.0.7", 4242));
        assert_eq!((key.method.as_str(), key.password.as_str()), ("chacha20-ietf-poly1305", "hush"));
        assert_eq!(NodeKey::parse("ss://aes-256-gcm:hush@node.example:1").unwrap().host, "node.example");
        for bad in
            ["http://x", "ss://", "ss://bm9uZTpodXNo@h:1", "ss://2022-blake3-aes-256-gcm:short@h:1", "ss://rc5:x@h:1"]
        {
            assert!(NodeKey::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{key:?}"), "<redacted>");
    }
}
