/// A row after a change, and the number of the event that tells of it; none if gateways need not know.
#[derive(Clone, Debug)]
pub(crate) struct Written<T> {
    pub(crate) row: T,
    pub(crate) event_seq: Option<i64>,
}
