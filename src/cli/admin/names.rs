//! The names of what IDs mean, looked up in bulk.

use std::collections::{BTreeSet, HashMap};

use futures_util::StreamExt;
use serde_json::Value;

use super::call::Api;
use super::columns::label;
use super::ids;
use super::pages::Pages;
use super::values::{NOTHING, member, plain};

/// So many are asked for one by one rather than by reading the whole list.
const SINGLY: usize = 100;
const AT_ONCE: usize = 8;

/// Names by resource and ID.
#[derive(Default)]
pub(super) struct Names(HashMap<(&'static str, String), String>);

impl Names {
    /// The name of a row; nothing for what has none or was not found.
    pub(super) fn get(&self, resource: &'static str, id: &str) -> Option<&str> {
        self.0.get(&(resource, id.to_owned())).map(String::as_str)
    }

    /// The name, or else the short ID.
    pub(super) fn of(&self, resource: &'static str, id: &Value) -> String {
        match id.as_str() {
            Some(id) => self.get(resource, id).map_or_else(|| ids::shortest(id), str::to_owned),
            None => NOTHING.into(),
        }
    }

    /// Looks up the IDs of a resource: those of a short list at a time, else one by one if they are few, else page by page.
    /// What cannot be read has no name.
    pub(super) async fn look_up(&mut self, api: &Api, resource: &'static str, wanted: impl Iterator<Item = &str>) {
        let Some(label) = label(resource) else { return };
        let mut wanted: BTreeSet<String> = wanted.map(str::to_owned).collect();
        let mut pages = Pages::whole(api, resource);
        while wanted.len() > 1 {
            let Ok(Some(page)) = pages.next().await else { return };
            for row in &page {
                self.take(resource, label, row, &mut wanted);
            }
            if wanted.len() <= SINGLY {
                break;
            }
        }
        let paths: Vec<String> = wanted.iter().map(|id| format!("{resource}/{id}")).collect();
        let rows = futures_util::stream::iter(&paths).map(|path| api.get(path)).buffer_unordered(AT_ONCE);
        let rows: Vec<_> = rows.collect().await;
        for row in rows.iter().flatten() {
            self.take(resource, label, row, &mut wanted);
        }
    }

    fn take(&mut self, resource: &'static str, label: &str, row: &Value, wanted: &mut BTreeSet<String>) {
        let Some(id) = member(row, "id").as_str() else { return };
        if wanted.remove(id) && member(row, label).as_str().is_some_and(|name| !name.is_empty()) {
            self.put(resource, id, &plain(member(row, label)));
        }
    }

    pub(super) fn put(&mut self, resource: &'static str, id: &str, name: &str) {
        self.0.insert((resource, id.to_owned()), name.to_owned());
    }
}
