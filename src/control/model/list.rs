use uuid::Uuid;

use crate::control::model::types::Time;

/// What a list can be sorted by.
pub trait SortKey: Copy + Eq + 'static {
    /// Every one; the first is the id, by which a list is sorted if nobody says otherwise.
    const KEYS: &'static [Self];

    /// Its name, which is that of a field.
    fn name(self) -> &'static str;
}

/// What a list is sorted by, in either direction; the id breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<S> {
    pub by: S,
    pub descending: bool,
}

/// A value of the column that a list is sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Text(String),
    Time(Time),
    /// The id alone sorts.
    Id,
}

/// The last row of a page: the next page begins behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub key: Key,
    pub id: Uuid,
}

/// A page that is asked for.
#[derive(Clone, Debug)]
pub struct Paging<S> {
    pub order: Order<S>,
    pub after: Option<Cursor>,
    /// Rows of a page.
    pub limit: i64,
    /// Also count the rows of all pages.
    pub count: bool,
}

/// Rows of a page, and one more if there is another page.
#[derive(Clone, Debug)]
pub struct Found<R> {
    pub rows: Vec<R>,
    /// Rows of all pages, if they were counted.
    pub total: Option<i64>,
}

/// A row of a list.
pub trait Sorted<S> {
    /// Where the row stands in an order.
    fn cursor(&self, by: S) -> Cursor;
}
