//! What every database behind [`Store`] does alike, as cases. Each of them runs on an empty database of its own, once for each kind:
//! SQLite always, the servers where their URL is given (`TOMADA_TEST_POSTGRES`, `TOMADA_TEST_MYSQL`; see `.ci/databases`).
//!
//! Cases look through the trait only: what a database keeps, and how, is its own affair. One thing is let pass: in names and
//! reasons MySQL takes spaces at the end for padding. Names have none, and what may have some and is unique (idempotency
//! keys, requests for an erasure) is compared byte by byte everywhere.

mod audit;
mod begin;
mod catalog;
mod claim;
mod connectors;
mod hot;
mod keys;
mod mappings;
mod nodes;
mod operators;
mod privacy;
mod retention;
mod ring;
mod schedules;
mod secrets;
mod settle;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tempfile::TempDir;
use tokio::time::error::Elapsed;

use super::rows::*;
use super::scratch::Scratch;
use super::{Done, LEASE, SqlStore, Store, StoreError, Work};
use crate::clock::{ID_STRIDE, random_bytes};
use crate::delivery::{Attempt, Begin, Delivery, Next, Outcome, Settlement, Status};
use crate::event::{Content, DeliveryId, Event, EventId, NewDelivery, NewEvent, Place, Sealed};
use crate::ingress::key::{Key, LABEL};
use crate::keyring::Keyring;
use crate::seal::{self, SealKey};

/// Longest time that a case may take: two nodes that wait for each other are found, and not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the cases' clocks stand at first: 2026-01-01.
const START_MS: u64 = 1_767_225_600_000;

/// Texts as they may come in wherever text is free: quotes, letters of other alphabets, what some collations take for the
/// same, spaces at either end, nothing at all.
const TEXTS: [&str; 14] = [
    "plain",
    "Plain",
    "plain ",
    " plain",
    "",
    "it's \"quoted\" \\ `so`",
    "100% _under_",
    "São Tomé",
    "Sa\u{303}o Tome\u{301}",
    "STRASSE straße",
    "Привет 你好",
    "🙂",
    "a\nb\tc\r\n",
    "-- ; drop table nodes; /* */",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
    MySql,
}

impl Kind {
    /// An empty database on a server; none for SQLite.
    async fn database(self) -> Option<Scratch> {
        match self {
            Kind::Sqlite => None,
            Kind::Postgres => Scratch::of_test("TOMADA_TEST_POSTGRES").await,
            Kind::MySql => Scratch::of_test("TOMADA_TEST_MYSQL").await,
        }
    }
}

/// The one place that knows how each database is opened; `at` is a file or a URL.
async fn open(kind: Kind, at: &str, ring: Arc<Keyring>) -> Arc<dyn Store> {
    let opened = match kind {
        Kind::Sqlite => SqlStore::sqlite(Path::new(at), ring).await,
        Kind::Postgres => SqlStore::postgres(at, ring).await,
        Kind::MySql => SqlStore::mysql(at, ring).await,
    };
    Arc::new(opened.expect("the store opens"))
}

/// An empty store, with a node that has joined.
struct Bench {
    kind: Kind,
    store: Arc<dyn Store>,
    node: i64,
    ring: Arc<Keyring>,
    /// A file, or the URL of a database.
    at: String,
    /// On a server.
    database: Option<Scratch>,
    _folder: TempDir,
}

impl Bench {
    /// None where the database is left out.
    async fn open(kind: Kind) -> Option<Bench> {
        let folder = TempDir::new().expect("a directory");
        let ring = Arc::new(Keyring::open(&folder.path().join("keyring"), 1).expect("a ring"));
        let database = kind.database().await;
        let at = match (&database, kind) {
            (Some(database), _) => database.url().to_owned(),
            (None, Kind::Sqlite) => folder.path().join("tomada.db").to_str().expect("UTF-8").to_owned(),
            (None, _) => return None,
        };
        let store = open(kind, &at, ring.clone()).await;
        let (node, _) = store.join("test", START_MS).await.expect("it joins");
        Some(Bench { kind, store, node, ring, at, database, _folder: folder })
    }

    /// Another node's store on the same database. SQLite has one process, so there it is the same.
    async fn other(&self) -> (Arc<dyn Store>, i64) {
        let store = if self.kind == Kind::Sqlite {
            self.store.clone()
        } else {
            open(self.kind, &self.at, self.ring.clone()).await
        };
        let (node, _) = store.join("test", START_MS).await.expect("it joins");
        (store, node)
    }

    /// Another node takes over from one that is gone: on SQLite, whose process ended, by its start; elsewhere once its lease
    /// is over. Answers how many deliveries went back.
    async fn take_over(&self, gone: i64, now_ms: u64) -> (Arc<dyn Store>, i64, u64) {
        let Some(database) = &self.database else {
            let (node, freed) = self.store.join("test", now_ms).await.expect("it joins");
            return (self.store.clone(), node, freed);
        };
        database.run(format!("update nodes set lease_until = 0 where id = {gone}")).await;
        let (store, node) = self.other().await;
        let reaped = store.reap(now_ms).await.expect("it is declared dead");
        assert_eq!(reaped.iter().map(|dead| (dead.node, dead.name.as_str())).collect::<Vec<_>>(), [(gone, "test")]);
        (store, node, reaped[0].freed)
    }

    /// Ends the case as it ended, without its database.
    async fn close(mut self, ended: std::thread::Result<Result<(), Elapsed>>) {
        let database = self.database.take();
        drop(self);
        if let Some(database) = database {
            database.remove().await.expect("the database goes");
        }
        match ended {
            Ok(in_time) => in_time.expect("it ends in time"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Puts endpoints of these names into the catalog. Answers their ids.
    async fn endpoints<const N: usize>(&self, names: [&str; N]) -> [i64; N] {
        let put_endpoints = names.iter().map(|name| ((*name).to_owned(), "{}".to_owned())).collect();
        let change = CatalogChange { put_endpoints, ..CatalogChange::default() };
        self.store.put_catalog(&change, START_MS).await.expect("it is put");
        let rows = self.store.catalog().await.expect("a catalog").endpoints;
        names.map(|name| rows.iter().find(|row| row.name == name).expect("it is there").id)
    }

    /// Accepts events. Answers whom each key stands for, and whether that was there before.
    async fn accept(&self, events: Vec<NewEvent>) -> Vec<(EventId, bool)> {
        accept(&*self.store, self.node, events).await
    }

    /// Accepts one that has to be new. Answers its id.
    async fn put(&self, event: NewEvent) -> EventId {
        let id = event.event.id;
        assert_eq!(self.accept(vec![event]).await, [(id, false)]);
        id
    }

    async fn claim(&self, endpoint: i64, limit: u32) -> Vec<Delivery> {
        self.store.claim(self.node, endpoint, limit).await.expect("a claim")
    }

    /// Claims the one delivery that is owed.
    async fn claim_one(&self, endpoint: i64) -> Delivery {
        let mut claimed = self.claim(endpoint, 10).await;
        assert_eq!(claimed.len(), 1, "one delivery is owed");
        claimed.remove(0)
    }

    async fn settle(&self, settlement: Settlement) -> Done {
        let mut done = self.commit(vec![Work::Settle(Box::new(settlement))]).await;
        assert_eq!(done.len(), 1);
        done.remove(0)
    }

    async fn commit(&self, work: Vec<Work>) -> Vec<Done> {
        self.store.commit(self.node, &work).await.expect("a commit")
    }

    /// An event that is owed to an endpoint, claimed and settled.
    async fn settled(&self, number: i64, endpoint: i64, next: Next, outcome: Outcome) -> (EventId, DeliveryId) {
        let mut new = event(number, &format!("settled-{number}"));
        let delivery = owe(&mut new, endpoint, Place::Table);
        let id = self.put(new).await;
        let claimed = self.claim_one(endpoint).await;
        assert_eq!(claimed.id, delivery);
        assert_eq!(self.settle(settlement(claimed, next, outcome)).await, Done::Settled { emitted: vec![] });
        (id, delivery)
    }

    /// The status of each of an event's deliveries.
    async fn statuses(&self, event: EventId) -> Vec<Status> {
        let detail = self.store.event(event).await.expect("the event");
        detail.row.deliveries.iter().map(|delivery| delivery.status).collect()
    }

    /// Seals an event as the hub does, with its key hidden.
    fn seal(&self, mut new: NewEvent) -> NewEvent {
        let event = Arc::get_mut(&mut new.event).expect("it is ours alone");
        let (id, key) = (event.id.0, SealKey::new(random_bytes()));
        let (ring_key, wrapped) = self.ring.wrap(seal::Place::PayloadKey { event: id }, random_bytes(), &key);
        let shown = new.key.is_content.then_some(&new.key.shown);
        let has_envelope = shown.is_some() || !event.headers.is_empty();
        let envelope = has_envelope.then(|| {
            let envelope = serde_json::to_vec(&(&event.headers, shown)).expect("JSON");
            key.seal(seal::Place::Envelope { event: id }, random_bytes(), &envelope)
        });
        let payload = key.seal(seal::Place::Payload { event: id, has_envelope }, random_bytes(), &event.payload);
        new.sealed = Some(Sealed { key: ring_key, wrapped, payload, envelope });
        event.content = Content::Sealed(Arc::new(key));
        self.hide(new)
    }

    /// Hides an event's key, as for sources that are about people.
    fn hide(&self, mut new: NewEvent) -> NewEvent {
        new.key = new.key.hide(|index| self.ring.index(LABEL, &[index]));
        new
    }
}

async fn accept(store: &dyn Store, node: i64, events: Vec<NewEvent>) -> Vec<(EventId, bool)> {
    let work: Vec<Work> = events.into_iter().map(Work::Accept).collect();
    let done = store.commit(node, &work).await.expect("a commit");
    assert_eq!(done.len(), work.len(), "each has its answer");
    done.into_iter()
        .map(|done| match done {
            Done::Accepted { id, duplicate } => (id, duplicate),
            other => panic!("an accept was answered with {other:?}"),
        })
        .collect()
}

/// The id of an event that came so many milliseconds after the start.
fn id(number: i64) -> EventId {
    EventId((START_MS as i64 + number) << 21)
}

/// An event of the source `site` that came so many milliseconds after the start, and is owed to nobody.
fn event(number: i64, key: &str) -> NewEvent {
    let event = Event {
        id: id(number),
        source: "site".into(),
        event_type: "lead.created".into(),
        created_ms: (START_MS as i64 + number) as u64,
        content_type: "application/json".into(),
        headers: Vec::new(),
        payload: Bytes::from(format!("{{\"number\":{number}}}")),
        parent: None,
        content: Content::Clear,
    };
    let key = Key::given("site", key);
    NewEvent { event: Arc::new(event), key, deliveries: Vec::new(), sealed: None, subjects: Vec::new() }
}

/// Changes what an event is, before anybody else has it.
fn with(mut new: NewEvent, change: impl FnOnce(&mut Event)) -> NewEvent {
    change(Arc::get_mut(&mut new.event).expect("it is ours alone"));
    new
}

/// An event that is owed to an endpoint through the table.
fn owed(number: i64, endpoint: i64) -> NewEvent {
    let mut new = event(number, &format!("owed-{number}"));
    owe(&mut new, endpoint, Place::Table);
    new
}

/// Adds a delivery to an event. Answers its id.
fn owe(new: &mut NewEvent, endpoint: i64, place: Place) -> DeliveryId {
    let delivery = delivery_of(new.event.id, new.deliveries.len() as i64 + 1, endpoint, place);
    let id = delivery.id;
    new.deliveries.push(delivery);
    id
}

/// The n-th delivery of an event, from 1.
fn delivery_of(event: EventId, number: i64, endpoint: i64, place: Place) -> NewDelivery {
    assert!((1..ID_STRIDE).contains(&number));
    NewDelivery { id: DeliveryId(event.0 + number), endpoint, route: 1, queue: 1, priority: 0, ordering: None, place }
}

fn attempt(outcome: Outcome) -> Attempt {
    Attempt {
        started_ms: START_MS + 1000,
        duration_us: 2_500_000,
        outcome,
        http_status: None,
        code: None,
        message: None,
        retry_after_ms: None,
        connector_version: None,
        mapping_version: None,
        mapping_id: None,
        log: None,
        sealed: None,
    }
}

/// The end of a try that counts.
fn settlement(delivery: Delivery, next: Next, outcome: Outcome) -> Settlement {
    Settlement { delivery, next, charge: true, attempt: Some(attempt(outcome)), emitted: Vec::new(), sync: None }
}

fn begin(delivery: &Delivery) -> Work {
    Work::Begin(Begin { delivery: delivery.id, number: delivery.tries + 1, started_ms: START_MS + 500 })
}

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

#[track_caller]
fn assert_conflict<T>(result: super::Result<T>) {
    assert!(matches!(result, Err(StoreError::Conflict(_))), "{:?}", result.err());
}

#[track_caller]
fn assert_not_found<T>(result: super::Result<T>) {
    assert!(matches!(result, Err(StoreError::NotFound(_))), "{:?}", result.err());
}

/// Each case as a test for each database, so that one that fails shows its name and the database's.
macro_rules! cases {
    ($($group:ident: $($case:ident)*;)*) => {
        cases!(on sqlite Sqlite; $($group: $($case)*;)*);
        cases!(on postgres Postgres; $($group: $($case)*;)*);
        cases!(on mysql MySql; $($group: $($case)*;)*);
    };
    (on $database:ident $kind:ident; $($group:ident: $($case:ident)*;)*) => {
        mod $database {
            $(mod $group {
                $(#[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    use super::super::{AssertUnwindSafe, Bench, FutureExt as _, Kind, PATIENCE};
                    let Some(bench) = Bench::open(Kind::$kind).await else { return };
                    let case = tokio::time::timeout(PATIENCE, super::super::$group::$case(&bench));
                    let ended = AssertUnwindSafe(case).catch_unwind().await;
                    bench.close(ended).await;
                })*
            })*
        }
    };
}

cases! {
    audit:
        rows_are_kept_as_they_are_and_in_order
        what_does_not_follow_is_refused
        old_rows_go_with_a_row_that_says_so
        the_log_is_listed_by_each_filter
        at_the_same_time_one_follows;
    begin:
        a_try_is_on_record_before_it_ends
        only_the_holder_begins
        one_that_never_ended_is_a_dead_letter;
    catalog:
        it_is_read_as_it_was_put
        names_are_ordered_by_their_bytes
        what_is_removed_may_come_back
        what_is_held_is_owed_again_when_it_is_resumed;
    claim:
        the_best_are_claimed_first
        an_ordering_key_lets_one_through_at_a_time
        what_is_due_is_promoted_in_its_order
        a_retry_that_is_put_off_again_is_due_later
        two_nodes_claim_nothing_twice
        two_nodes_promote_nothing_twice;
    connectors:
        a_version_is_stored_once
        a_name_is_of_one_kind
        one_version_is_active_and_the_one_before_is_known
        a_component_of_the_greatest_size_is_kept
        at_the_same_time_it_is_one_version;
    hot:
        a_key_is_one_event_for_good
        a_duplicate_owes_nothing
        sources_do_not_share_keys
        keys_are_compared_byte_by_byte
        a_hidden_key_is_known_by_its_open_form
        an_event_is_kept_as_it_came
        a_large_payload_is_kept
        the_first_and_the_last_ids_are_kept
        what_is_sealed_opens
        a_large_commit_is_answered_in_its_order
        a_delivery_waits_where_it_is_put
        at_the_same_time_one_is_new;
    keys:
        a_key_is_kept_as_it_is
        a_rotation_keeps_the_secret_before
        a_revocation_counts_from_its_first_time
        the_last_use_is_the_latest;
    mappings:
        an_edit_is_a_version
        an_edit_that_others_have_overtaken_is_refused
        an_old_version_comes_into_force_again
        at_the_same_time_one_editor_wins
        the_latest_events_of_types_are_found;
    nodes:
        each_start_is_a_node_of_its_own
        what_a_node_held_is_owed_to_all_when_it_leaves
        what_a_commit_brings_that_is_under_way_goes_back_too
        what_a_node_that_is_gone_held_goes_back
        a_node_that_was_taken_over_is_fenced
        a_node_that_renews_its_lease_is_there
        changes_are_counted;
    operators:
        events_are_listed_by_each_filter
        an_event_shows_all_that_came_of_it
        dead_letters_are_listed_newest_first
        what_is_over_is_replayed_and_what_is_under_way_is_not
        dead_letters_are_replayed_oldest_first
        at_the_same_time_it_is_replayed_once
        what_is_unfinished_is_counted;
    privacy:
        a_person_is_found_by_each_identifier
        what_came_of_a_persons_events_is_found_with_them
        it_is_known_what_a_search_covers
        contents_are_read_oldest_first_and_not_too_much
        an_erasure_takes_all_that_is_about_a_person
        what_comes_meanwhile_is_erased_as_well
        what_was_erased_does_not_come_again
        a_hidden_key_that_is_there_already_is_replaced
        a_pause_does_not_repeat_what_was_said
        a_request_is_carried_out_once
        recipients_are_told_and_then_it_is_over
        an_erasure_may_be_closed_though_somebody_was_not_told
        older_events_are_indexed_anew
        without_events_there_is_nothing_to_index
        at_the_same_time_one_erasure_begins
        at_the_same_time_each_event_is_erased_once;
    retention:
        content_goes_at_its_time_and_the_rest_stays
        a_code_stays_as_far_as_it_is_one
        what_is_owed_stays_until_it_is_over
        logs_attempts_and_events_go_each_at_their_time
        a_walk_is_about_whom_it_says
        a_walk_goes_in_steps_and_goes_on
        keys_go_once_their_events_have
        many_keys_go_in_one_round
        runs_that_have_ended_go
        what_was_removed_may_be_written_over
        at_the_same_time_it_is_removed_once;
    ring:
        it_is_known_whose_indexes_these_are
        it_is_known_which_pepper_the_keys_are_of
        keys_are_wrapped_anew
        keys_that_wrap_are_known_by_name
        only_what_was_read_is_replaced;
    schedules:
        a_schedule_is_fired_once
        a_job_runs_once_at_a_time
        a_run_counts_its_pages_and_ends
        a_run_that_failed_is_resumed_where_it_stopped
        a_stale_page_steps_nothing
        at_the_same_time_one_runs;
    secrets:
        values_come_back_as_they_went_in
        the_version_before_counts_until_then
        a_secret_goes_with_all_its_versions
        at_the_same_time_each_is_a_version;
    settle:
        each_end_is_what_it_says
        a_try_is_kept_as_it_was
        what_was_said_of_a_sealed_event_opens
        what_is_stale_changes_nothing
        what_nobody_holds_is_not_settled
        what_is_put_aside_untried_has_no_attempt
        what_is_emitted_is_an_event_once
        a_mixed_commit_is_done_in_its_order
        many_are_settled_at_once
        at_the_same_time_one_settles;
}
