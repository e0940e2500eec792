use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{KeyError, NodeKey};
use crate::net::host;

const SCHEME: &str = "ss://";
/// Parameters that ask for more than Shadowsocks over TCP and UDP, with the values that ask for nothing.
const TRANSPORTS: [(&str, &[&str]); 10] = [
    ("plugin", &[""]),
    ("type", &["", "tcp", "raw"]),
    ("network", &["", "tcp", "raw"]),
    ("security", &["", "none"]),
    ("encryption", &["", "none"]),
    ("headerType", &["", "none"]),
    ("tls", &["", "0", "false", "none"]),
    ("obfs", &["", "none", "plain"]),
    ("shadow-tls", &[""]),
    ("mux", &["", "0", "false"]),
];
const NAME_MAX: usize = 255;

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An `ss://` access key: SIP002 as Outline and others write it, or the older form that is base64 as a whole.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// What it takes to use the node.
    pub key: NodeKey,
    /// What the key calls the node, behind `#`.
    pub name: Option<String>,
}

/// Why an access key cannot be read; never quotes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessKeyError {
    #[error("an ssconf:// link leads to a key; give the ss:// key itself")]
    Link,
    #[error("an access key begins with ss://")]
    Scheme,
    #[error("there is no @ between password and address; is the key cut short?")]
    Cut,
    #[error("the part before @ must be method:password, in base64 or plain")]
    Credentials,
    #[error("its host {}", host::EXPECTED)]
    Host,
    #[error("the address has no closing ]")]
    Bracket,
    #[error("an IPv6 address must stand in [ ]")]
    Ipv6,
    #[error("the key has no port; the address must be host:port, or [address]:port for IPv6")]
    NoPort,
    #[error("the address must be host:port and nothing else")]
    Address,
    #[error("the port must be 1 to 65535")]
    Port,
    /// A parameter, and the part of its value that is no secret.
    #[error("{name}={value} is not supported; a node must be plain Shadowsocks")]
    Transport { name: &'static str, value: String },
}

impl AccessKey {
    /// Reads a key and checks it; errors say what is wrong with it and never quote it.
    pub fn parse(url: &str) -> Result<Self, KeyError> {
        let url = url.trim();
        let body = match url.split_at_checked(SCHEME.len()) {
            Some((scheme, body)) if scheme.eq_ignore_ascii_case(SCHEME) => body,
            _ if url.to_ascii_lowercase().starts_with("ssconf:") => {
                return Err(AccessKeyError::Link.into());
            }
            _ => return Err(AccessKeyError::Scheme.into()),
        };
        let (body, fragment) = body.split_once('#').unwrap_or((body, ""));
        let (body, query) = body.split_once('?').unwrap_or((body, ""));
        refuse_transports(query)?;
        let whole;
        let (user, address) = if let Some((user, address)) = body.rsplit_once('@') {
            (user, address.strip_suffix('/').unwrap_or(address))
        } else {
            whole = from_base64(body).or_else(|| from_base64(body.strip_suffix('/')?));
            whole.as_deref().and_then(|text| text.rsplit_once('@')).ok_or(AccessKeyError::Cut)?
        };
        let (method, password) = credentials(user)?;
        let (host, port) = endpoint(address)?;
        let key = NodeKey { host, port, method, password }.canonical();
        let key = key.map_err(|error| if error == KeyError::Host { AccessKeyError::Host.into() } else { error })?;
        Ok(Self { key, name: name(fragment) })
    }
}

/// The cipher and the password of a user part, which is base64 or plain, with or without percent-encoding.
fn credentials(user: &str) -> Result<(String, String), AccessKeyError> {
    let neither = || AccessKeyError::Credentials;
    let plain = from_percent(user).ok_or_else(neither)?;
    let text = if plain.contains(':') { plain } else { from_base64(&plain).ok_or_else(neither)? };
    let (method, password) = text.split_once(':').ok_or_else(neither)?;
    Ok((method.to_owned(), password.to_owned()))
}

fn endpoint(address: &str) -> Result<(String, u16), AccessKeyError> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(AccessKeyError::Bracket)?;
            (host, port.strip_prefix(':').ok_or(AccessKeyError::NoPort)?)
        }
        None => match address.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => return Err(AccessKeyError::Ipv6),
            Some(parts) => parts,
            None => return Err(AccessKeyError::NoPort),
        },
    };
    if port.is_empty() {
        return Err(AccessKeyError::NoPort);
    }
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AccessKeyError::Address);
    }
    let port = port.parse().ok().filter(|port| *port > 0).ok_or(AccessKeyError::Port)?;
    Ok((host.to_owned(), port))
}

fn refuse_transports(query: &str) -> Result<(), AccessKeyError> {
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = from_percent(value).unwrap_or_default();
        let known = TRANSPORTS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        if let Some((name, harmless)) = known
            && !harmless.contains(&value.to_ascii_lowercase().as_str())
        {
            let value = value.split(';').next().unwrap_or_default().chars().take(32).collect();
            return Err(AccessKeyError::Transport { name, value });
        }
    }
    Ok(())
}

/// What a key calls its node, as a line of text; `None` if that is nothing.
fn name(fragment: &str) -> Option<String> {
    let text: String = from_percent(fragment)?.chars().filter(|letter| !letter.is_control()).collect();
    let mut name = text.trim();
    while name.len() > NAME_MAX {
        let (cut, _) = name.char_indices().next_back()?;
        name = &name[..cut];
    }
    (!name.is_empty()).then(|| name.to_owned())
}

fn from_base64(text: &str) -> Option<String> {
    let standard: String = from_percent(text)?
        .chars()
        .map(|letter| match letter {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    String::from_utf8(LENIENT.decode(standard).ok()?).ok()
}

/// Decodes `%XX` (RFC 3986); `None` for a broken escape, or if the result is not UTF-8.
fn from_percent(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    use super::*;

    fn key(url: &str) -> NodeKey {
        AccessKey::parse(url).unwrap_or_else(|error| panic!("{url}: {error}")).key
    }

    fn reason(url: &str) -> String {
        AccessKey::parse(url).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn outlines_keys_and_plain_ones() {
        let read = key("ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTpodXNo@10.0.0.7:4242/?outline=1&prefix=%16%03");
        assert_eq!((read.host.as_str(), read.port), ("10.0.0.7", 4242));
        assert_eq!((read.method.as_str(), read.password.as_str()), ("chacha20-ietf-poly1305", "hush"));
        assert_eq!(key("ss://aes-256-gcm:hush@node.example:1").host, "node.example");
        assert_eq!(key("SS://aes-256-gcm:h%40sh%3A@[0:0:0:0:0:0:0:1]:1#x@y").password, "h@sh:");
        assert_eq!(key("ss://aes-256-gcm:hush@[0:0:0:0:0:0:0:1]:1\n").host, "::1");
        assert_eq!(key("ss://aes-256-gcm:hush@h:1?type=tcp&security=none&plugin=").port, 1);
        assert_eq!(format!("{:?}", key("ss://aes-256-gcm:hush@h:1")), "<redacted>");
    }

    #[test]
    fn base64_in_every_spelling() {
        let password = "\u{3ff}\u{3ff}?>\u{3ff}~";
        let account = format!("aes-256-gcm:{password}");
        let standard = BASE64_STANDARD.encode(&account);
        assert!(standard.contains('/'), "{standard}");
        let url_safe = BASE64_URL_SAFE_NO_PAD.encode(&account);
        let escaped = standard.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D");
        let whole = BASE64_STANDARD.encode(format!("{account}@10.0.0.7:4242"));
        for url in [&standard, &url_safe, &escaped].map(|user| format!("ss://{user}@10.0.0.7:4242")) {
            assert_eq!(key(&url).password, password, "{url}");
        }
        assert_eq!(key(&format!("ss://{whole}#old")).password, password);
        let psk = "//79/P39/f39/f39/f39/f39/f39/f39/f39/f39/f0=";
        assert_eq!(key(&format!("ss://2022-blake3-aes-256-gcm:{psk}@h:1")).password, psk);
    }

    #[test]
    fn every_key_of_several_is_kept() {
        let (first, second) = (BASE64_STANDARD.encode([1; 16]), BASE64_STANDARD.encode([2; 16]));
        let both = format!("{first}:{second}");
        let plain = format!("ss://2022-blake3-aes-128-gcm:{both}@h:1");
        let escaped = format!("ss://2022-blake3-aes-128-gcm:{}@h:1", both.replace('=', "%3D").replace(':', "%3A"));
        let encoded = format!("ss://{}@h:1", BASE64_URL_SAFE_NO_PAD.encode(format!("2022-blake3-aes-128-gcm:{both}")));
        for url in [plain, escaped, encoded] {
            let read = key(&url);
            assert_eq!(read.password, both, "{url}");
            assert_eq!(read.server_config().unwrap().identity_keys().len(), 1);
        }
        let short = format!("ss://2022-blake3-aes-128-gcm:{first}:AAAA@h:1");
        assert_eq!(
            reason(&short),
            "the password does not fit the cipher: a key of 2022-blake3-aes-128-gcm has 16 bytes, this one 3"
        );
    }

    #[test]
    fn the_name_behind_a_key() {
        for (fragment, expected) in [
            ("#Berlin%201", Some("Berlin 1")),
            ("#%D0%91", Some("Б")),
            ("#a%0Ab%1B", Some("ab")),
            ("#%20", None),
            ("#", None),
            ("", None),
        ] {
            let read = AccessKey::parse(&format!("ss://aes-256-gcm:hush@h:1{fragment}")).unwrap();
            assert_eq!(read.name.as_deref(), expected, "{fragment}");
        }
        let long = AccessKey::parse(&format!("ss://aes-256-gcm:hush@h:1#{}", "é".repeat(200))).unwrap();
        assert_eq!(long.name.map(|name| name.len()), Some(254));
    }

    #[test]
    fn refusals_say_what_is_wrong_and_not_the_secret() {
        let secret = "topsecret";
        let encoded = BASE64_STANDARD.encode(format!("aes-256-gcm:{secret}"));
        let user = format!("aes-256-gcm:{secret}");
        for (url, expected) in [
            (format!("http://{user}@h:1"), "begins with ss://"),
            (format!("ssconf://{secret}"), "give the ss:// key itself"),
            (format!("ss://{user}@h"), "no port"),
            (format!("ss://{user}@h:"), "no port"),
            (format!("ss://{encoded}@[::1]"), "no port"),
            (format!("ss://{user}@h:0"), "the port must be 1 to 65535"),
            (format!("ss://{user}@h:65536"), "the port must be 1 to 65535"),
            (format!("ss://{user}@h:1/path"), "host:port and nothing else"),
            (format!("ss://{user}@::1:1"), "must stand in [ ]"),
            (format!("ss://{user}@a b:1"), "its host must be a host name or an IP address"),
            (format!("ss://{encoded}"), "no @"),
            (format!("ss://{secret}!@h:1"), "method:password"),
            (format!("ss://{secret}%zz@h:1"), "method:password"),
            (format!("ss://{user}@h:1?type=ws&security=tls"), "type=ws is not supported"),
            (format!("ss://{user}@h:1?security=tls"), "security=tls is not supported"),
            (format!("ss://{user}@h:1?plugin=v2ray-plugin%3Bhost%3D{secret}"), "plugin=v2ray-plugin is not supported"),
            (format!("ss://none:{secret}@h:1"), "does not encrypt"),
            (format!("ss://{secret}:x@h:1"), "unknown cipher"),
            (format!("ss://2022-blake3-aes-256-gcm:{secret}@h:1"), "wants keys in base64"),
            ("ss://".into(), "no @"),
        ] {
            let reason = reason(&url);
            assert!(reason.contains(expected), "{url}: {reason}");
            assert!(!reason.contains(secret) && !reason.contains(&encoded), "{url}: {reason}");
        }
    }
}
