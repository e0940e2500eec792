/// Which revisions of a row a change is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Any,
    OneOf(Vec<i32>),
}
