use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// A member whose null means that it is absent.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// An integer, also written as `60.0` or `6e1`; null is none.
pub(crate) fn integer<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    deserializer.deserialize_option(Integer(PhantomData))
}

/// The same where it must be there.
pub(crate) fn whole<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    integer(deserializer)?.ok_or_else(|| D::Error::invalid_type(Unexpected::Option, &"an integer"))
}

struct Integer<T>(PhantomData<T>);

impl<'de, T: TryFrom<u64>> Visitor<'de> for Integer<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer that is not negative")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        T::try_from(value).map(Some).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        let whole = if value.fract() == 0.0 { format!("{value:.0}").parse().ok() } else { None };
        match whole {
            Some(whole) => self.visit_u64(whole),
            None => Err(E::invalid_value(Unexpected::Float(value), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Object {
        #[serde(default, deserialize_with = "super::integer")]
        number: Option<u32>,
        #[serde(default, deserialize_with = "super::or_default")]
        text: String,
    }

    fn read(text: &str) -> Option<(Option<u32>, String)> {
        serde_json::from_str::<Object>(text).ok().map(|object| (object.number, object.text))
    }

    #[test]
    fn null_is_absence_and_a_fraction_of_zero_none() {
        let none = Some((None, String::new()));
        assert_eq!(read("{}"), none);
        assert_eq!(read(r#"{"number":null,"text":null}"#), none);
        for sixty in ["60", "60.0", "6e1", "6.0e+1"] {
            assert_eq!(read(&format!(r#"{{"number":{sixty}}}"#)), Some((Some(60), String::new())), "{sixty}");
        }
        assert_eq!(read(r#"{"number":4294967295.0}"#), Some((Some(u32::MAX), String::new())));
        for bad in ["60.5", "-1", "-1.0", "4294967296", "4294967296.0", "1e300", "\"60\"", "true", "[]"] {
            assert_eq!(read(&format!(r#"{{"number":{bad}}}"#)), None, "{bad}");
        }
        assert_eq!(read(r#"{"text":1}"#), None);
    }
}
