use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Something a v1 client may know beyond the owner's messages (docs/03, "Features").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `stream_open.target` and `.payload`.
    Open,
    /// `stream_open.network`.
    Udp,
    /// `stream_close.half`.
    Half,
    /// `stream_close.code`.
    Code,
    /// `stream_window`.
    Window,
    /// `notice`.
    Notice,
    /// `hello_ok.limits`.
    Limits,
    /// `error.stream_id`, `.message` and `.retry_after_ms`.
    Error,
    /// `hello.resume` and `hello_ok.resume`; every direction's end counts as a byte in `stream_window.consumed`.
    Resume,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::Udp,
        Self::Half,
        Self::Code,
        Self::Window,
        Self::Notice,
        Self::Limits,
        Self::Error,
        Self::Resume,
    ];

    /// The name in `hello.features`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Udp => "udp",
            Self::Half => "half",
            Self::Code => "code",
            Self::Window => "window",
            Self::Notice => "notice",
            Self::Limits => "limits",
            Self::Error => "error",
            Self::Resume => "resume",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// A set of features: a list of names in JSON, unknown names ignored.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Features(u16);

impl Features {
    /// The owner's messages only.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self((1 << Feature::ALL.len()) - 1);

    /// Whether a feature is in the set.
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// The set with a feature added.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Self(self.0 | feature.bit())
    }

    /// The set with a feature taken away.
    #[must_use]
    pub const fn without(self, feature: Feature) -> Self {
        Self(self.0 & !feature.bit())
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.has(*feature))
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Feature::as_str))
    }
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Features;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of feature names")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Features, A::Error> {
                let mut features = Features::NONE;
                while let Some(name) = names.next_element::<std::borrow::Cow<'_, str>>()? {
                    if let Some(feature) = Feature::ALL.into_iter().find(|feature| feature.as_str() == name) {
                        features = features.with(feature);
                    }
                }
                Ok(features)
            }
        }

        deserializer.deserialize_seq(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_and_unknown_ones_are_ignored() {
        let features: Features = serde_json::from_str(r#"["half","sooner","udp"]"#).unwrap();
        assert!(features.has(Feature::Half) && features.has(Feature::Udp) && !features.has(Feature::Open));
        assert_eq!(serde_json::to_string(&features).unwrap(), r#"["udp","half"]"#);
        assert_eq!(serde_json::to_string(&Features::ALL).unwrap().matches(',').count(), 8);
        assert!(serde_json::from_str::<Features>(r#""half""#).is_err());
    }
}
