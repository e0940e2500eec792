//! Lists, page by page.

use reqwest::Method;
use serde_json::{Map, Value};

use super::call::Api;
use super::progress::Progress;
use crate::cli::Failure;

/// The filter that says where a page begins.
pub(super) const CURSOR: &str = "cursor";
/// As many rows as a page may have.
const LONGEST: &str = "200";

/// A page of a list.
pub(super) struct Page {
    pub(super) items: Vec<Value>,
    /// Where the next one begins.
    pub(super) next: Option<String>,
}

impl Page {
    /// The page in an answer; `None` if it is no list.
    pub(super) fn of(answer: &mut Value) -> Option<Self> {
        let items = answer.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take)?;
        let next = answer.get("next").and_then(Value::as_str).map(str::to_owned);
        Some(Self { items, next })
    }
}

/// Reads a list page by page.
pub(super) struct Pages<'a> {
    api: &'a Api,
    path: &'a str,
    fields: Map<String, Value>,
    is_over: bool,
    json: bool,
    progress: Progress,
    rows: usize,
}

impl<'a> Pages<'a> {
    /// With filters; `json` prints a refusal as it came.
    pub(super) fn new(api: &'a Api, path: &'a str, fields: Map<String, Value>, json: bool) -> Self {
        Self { api, path, fields, is_over: false, json, progress: Progress::new(), rows: 0 }
    }

    /// All of a resource, in pages as long as they may be.
    pub(super) fn whole(api: &'a Api, path: &'a str) -> Self {
        Self::new(api, path, [("limit".to_owned(), LONGEST.into())].into_iter().collect(), false)
    }

    /// The next page; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Value>>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let text = self.api.ask(Method::GET, self.path, &self.fields, self.json).await?;
        let mut answer: Value = serde_json::from_str(&text).map_err(Failure::runtime)?;
        let Some(page) = Page::of(&mut answer) else { return Err(Failure::runtime("the answer is not a list")) };
        self.rows += page.items.len();
        match page.next {
            Some(next) if self.fields.get(CURSOR).and_then(Value::as_str) == Some(&next) => {
                return Err(Failure::runtime(format!("the control plane gave the page after {next} twice")));
            }
            Some(next) => {
                self.progress.show(format_args!("{} {}…", self.rows, self.path));
                self.fields.insert(CURSOR.into(), next.into());
            }
            None => self.is_over = true,
        }
        Ok(Some(page.items))
    }

    /// The items of all pages.
    pub(super) async fn all(mut self) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        while let Some(page) = self.next().await? {
            items.extend(page);
        }
        Ok(items)
    }
}
