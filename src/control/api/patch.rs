//! What a partial update says of a column (docs/02, "Changing a part").

use serde::de::{Deserialize, Deserializer};

/// Null clears a column, and that differs from absence.
#[expect(clippy::option_option, reason = "absent leaves a column alone, null clears it")]
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}
