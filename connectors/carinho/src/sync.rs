//! The sync jobs: a system's list of what waits becomes events, a page at a time.
//!
//! The list shrinks while its items are confirmed, so a page is not a place in the list but what comes after the last
//! id. Each item's event has the item's id in its key: a run that repeats what an earlier one began emits nothing
//! twice.

use std::collections::BTreeMap;

use tomada_sdk::prelude::*;

use crate::Id;

/// How many items a page has at most. The hub takes up to 256 events from one delivery.
pub const PAGE: usize = 200;

/// What a job asks of a connector.
#[derive(Debug, Deserialize)]
pub struct Job {
    /// The id after which this page begins; none in the first.
    pub cursor: Option<String>,
}

/// Emits the job's next page of `items` as events of `event_type`, each item as its system gave it, under the key
/// `{event_type}/{id}`. The receipt's cursor is the page's last id while there is more.
///
/// Ids that are numbers come first, in their order, then the others in that of their characters. An item without an
/// id cannot be confirmed, and so is left out, with a warning and a count in the note.
///
/// # Errors
///
/// None in practice: JSON can be written as JSON.
pub fn page(job: &Job, items: Vec<Json>, event_type: &str) -> Result<Receipt, Failure> {
    let listed = items.len();
    let mut nameless = 0;
    let mut by_id = BTreeMap::new();
    for item in items {
        match item.get("id").map(Id::deserialize) {
            Some(Ok(id)) if id != Id::Text(String::new()) => {
                by_id.entry(Order::of(&id.to_string())).or_insert(item);
            }
            _ => nameless += 1,
        }
    }
    if nameless > 0 {
        log::warn(format!(
            "{nameless} of {listed} items have no id and are left out: the system that lists them has to mend them"
        ));
    }

    let mut waiting = match &job.cursor {
        Some(cursor) => by_id.split_off(&Order::of(cursor)),
        None => by_id,
    };
    if let Some(cursor) = &job.cursor {
        waiting.remove(&Order::of(cursor));
    }
    let more = waiting.len() > PAGE;
    let emitted = waiting.len().min(PAGE);
    let mut note = format!("items: {emitted}");
    if nameless > 0 {
        note.push_str(&format!(", left out without an id: {nameless}"));
    }
    if more {
        note.push_str(", more to come");
    }

    let mut receipt = Receipt::new().note(note);
    for (order, item) in waiting.iter().take(PAGE) {
        receipt = receipt.emit_once(event_type, item, format!("{event_type}/{}", order.id))?;
    }
    Ok(match waiting.keys().nth(PAGE - 1) {
        Some(last) if more => receipt.cursor(&last.id),
        _ => receipt,
    })
}

/// Compares ids: numbers first and by their value, however long they are.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    is_text: bool,
    /// How many digits a number has, leading zeros aside.
    magnitude: usize,
    significant: String,
    id: String,
}

impl Order {
    fn of(id: &str) -> Order {
        let is_text = id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit());
        let significant = if is_text { "" } else { id.trim_start_matches('0') };
        Order { is_text, magnitude: significant.len(), significant: significant.to_owned(), id: id.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, Run, event};

    fn run(cursor: Option<&str>, items: Vec<Json>) -> Run {
        let handle = move |_: &Context, event: Event<Job>| page(&event.payload, items.clone(), "schedule.pending");
        let payload = json!({"job": "crm_operacao", "run": "2026-11-24T11:00", "cursor": cursor});
        Host::new().run(handle, event("sync.crm_operacao", payload))
    }

    fn keys(run: &Run) -> Vec<String> {
        let key = |emitted: &tomada_sdk::Emitted| emitted.idempotency_key.clone().expect("each has a key");
        run.receipt().emitted.iter().map(key).collect()
    }

    #[test]
    fn items_are_emitted_as_they_are_in_the_order_of_their_ids() {
        let items = vec![
            json!({"id": "b", "client_id": 3}),
            json!({"id": 10}),
            json!({"id": "9", "start_date": "2026-12-01"}),
            json!({"id": "B"}),
            json!({"id": "184467440737095516150"}),
            json!({"id": 10, "again": true}),
        ];
        let run = run(None, items);
        let ids = ["9", "10", "184467440737095516150", "B", "b"];
        assert_eq!(keys(&run), ids.map(|id| format!("schedule.pending/{id}")));
        let emitted = run.emitted();
        assert!(emitted.iter().all(|(event_type, _)| *event_type == "schedule.pending"));
        assert_eq!(emitted[0].1, json!({"id": "9", "start_date": "2026-12-01"}));
        assert_eq!(emitted[1].1, json!({"id": 10}));
        assert_eq!(emitted[4].1, json!({"id": "b", "client_id": 3}));
        assert_eq!(run.receipt().note.as_deref(), Some("items: 5"));
        assert_eq!(run.receipt().cursor, None);
        assert!(run.logs.is_empty());
    }

    #[test]
    fn an_item_without_an_id_is_left_out_and_counted() {
        let items = [json!({"name": "Ana"}), json!({"id": null}), json!({"id": ""}), json!("Ana"), json!({"id": 1})];
        let run = run(None, items.to_vec());
        assert_eq!(keys(&run), ["schedule.pending/1"]);
        assert_eq!(run.receipt().note.as_deref(), Some("items: 1, left out without an id: 4"));
        assert_eq!(run.logs.len(), 1);
        assert!(run.logs[0].contains("warn: 4 of 5 items have no id"), "{}", run.logs[0]);
        assert!(!run.logs[0].contains("Ana"));
    }

    #[test]
    fn pages_follow_each_other_while_the_list_shrinks() {
        let list = |ids: std::ops::RangeInclusive<u64>| ids.rev().map(|id| json!({"id": id})).collect::<Vec<_>>();
        let first = run(None, list(1..=450));
        assert_eq!(first.emitted().len(), 200);
        assert_eq!(first.receipt().cursor.as_deref(), Some("200"));
        assert_eq!(first.receipt().note.as_deref(), Some("items: 200, more to come"));

        // Some of the first page were confirmed meanwhile, the one that the cursor names among them.
        let second = run(Some("200"), [list(1..=20), list(201..=450)].concat());
        assert_eq!((keys(&second)[0].as_str(), second.emitted().len()), ("schedule.pending/201", 200));
        assert_eq!(second.receipt().cursor.as_deref(), Some("400"));

        let third = run(Some("400"), list(390..=450));
        assert_eq!((keys(&third)[0].as_str(), third.emitted().len()), ("schedule.pending/401", 50));
        assert_eq!(third.receipt().cursor, None);

        let exact = run(None, list(1..=200));
        assert_eq!((exact.emitted().len(), &exact.receipt().cursor), (200, &None));
    }

    #[test]
    fn nothing_waits() {
        for (cursor, items) in
            [(None, vec![]), (Some("7"), vec![json!({"id": 7})]), (Some("a"), vec![json!({"id": 7})])]
        {
            let run = run(cursor, items);
            assert_eq!(run.receipt().note.as_deref(), Some("items: 0"));
            assert_eq!((run.emitted().len(), &run.receipt().cursor), (0, &None));
        }
    }
}
