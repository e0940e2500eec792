use uuid::Uuid;

/// What a request calls a row: its id, or the name that people know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    Id(Uuid),
    Name(String),
}

impl From<&str> for Called {
    fn from(text: &str) -> Self {
        Uuid::parse_str(text).map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}
