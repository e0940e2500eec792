//! Numbers and booleans may come as text, so that `httvps admin … field=value` needs no schema.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Loose<T> {
    Typed(T),
    Text(String),
}

impl<T: FromStr<Err: Display>> Loose<T> {
    fn settle<E: Error>(self) -> Result<T, E> {
        match self {
            Self::Typed(value) => Ok(value),
            Self::Text(text) => text.trim().parse().map_err(|error| E::custom(format_args!("{text:?}: {error}"))),
        }
    }
}

/// A value that may come as text.
pub(crate) fn value<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr<Err: Display>,
{
    Option::<Loose<T>>::deserialize(deserializer)?.map(Loose::settle).transpose()
}

/// As [`value`]; null and empty text clear it, and that differs from absence.
#[expect(clippy::option_option, reason = "absent leaves a column alone, null clears it")]
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr<Err: Display>,
{
    match Option::<Loose<T>>::deserialize(deserializer)? {
        None => Ok(Some(None)),
        Some(Loose::Text(text)) if text.trim().is_empty() => Ok(Some(None)),
        Some(loose) => loose.settle().map(|value| Some(Some(value))),
    }
}

/// A list that may come as text with commas.
pub(crate) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum List {
        Items(Vec<String>),
        Text(String),
    }
    Ok(Option::<List>::deserialize(deserializer)?.map(|list| match list {
        List::Items(items) => items,
        List::Text(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect(),
    }))
}
