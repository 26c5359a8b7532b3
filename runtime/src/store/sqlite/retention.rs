//! What is kept no longer, found by ranges of ids and never by looking through a table: events come in the order of time.
//!
//! A walk reads beside the writer, and what it found is looked at again in the transaction that removes it.

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::content::forget;
use crate::clock::ID_STRIDE;
use crate::event::EventId;
use crate::store::Result;
use crate::store::rows::{ContentState, Maker, Rule, STEP, Step, Walk};

/// Events that one step reads at most, most of which are not its own or have nothing left to remove.
const LOOK: i64 = 2000;
/// Idempotency keys that one step reads at most.
const LOOK_KEYS: i64 = 5000;

/// The bits of an id below its time.
const TIME_SHIFT: u32 = 21;

/// Every id that was made before `ms` is smaller.
fn first_of(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX >> TIME_SHIFT).min(i64::MAX >> TIME_SHIFT) << TIME_SHIFT
}

/// When an id was made.
fn made_ms(id: i64) -> u64 {
    (id >> TIME_SHIFT) as u64
}

/// What a rule has to know of an event.
struct Seen {
    id: i64,
    maker: Maker,
    created_ms: u64,
    content: ContentState,
    /// A delivery is owed, waiting or held.
    is_open: bool,
    /// The last time that a delivery of it was given up, and is one still.
    died_ms: Option<u64>,
    /// Whether there is something that the rule would remove, deliveries that are open or dead aside.
    has_something: bool,
}

enum Fate {
    /// It is none of the rule's, or has nothing left.
    None,
    Over,
    /// Something about it is not over.
    Later,
}

impl Seen {
    /// `at` is the condition on `e.id`.
    fn select(rule: Rule, at: &str) -> String {
        let attempts = "select 1 from delivery_attempts a where a.delivery_id > e.id and a.delivery_id < e.id + 64";
        let something = match rule {
            Rule::Content => "e.content < 2".to_owned(),
            Rule::Logs => {
                format!("exists ({attempts} and (a.message is not null or a.log is not null or a.sealed is not null))")
            }
            Rule::Attempts => format!("exists ({attempts})"),
            _ => "1".to_owned(),
        };
        format!(
            "select e.id, e.source, e.parent_id is not null, e.created_at, e.content, \
             exists (select 1 from webhook_deliveries d where d.id > e.id and d.id < e.id + 64 and d.status in (0, 1, 5)), \
             (select max(coalesce(l.created_at, 0)) from webhook_deliveries d left join dead_letter l on l.delivery_id = d.id \
             where d.id > e.id and d.id < e.id + 64 and d.status = 4), \
             {something} from integration_events e where {at}"
        )
    }

    fn read(row: &SqliteRow) -> Result<Seen> {
        let name: String = row.try_get(1)?;
        Ok(Seen {
            id: row.try_get(0)?,
            maker: if row.try_get(2)? { Maker::Endpoint(name) } else { Maker::Source(name) },
            created_ms: row.try_get::<i64, _>(3)? as u64,
            content: ContentState::from_sql(row.try_get(4)?),
            is_open: row.try_get(5)?,
            died_ms: row.try_get::<Option<i64>, _>(6)?.map(|ms| ms as u64),
            has_something: row.try_get(7)?,
        })
    }

    fn fate(&self, walk: &Walk, now_ms: u64) -> Fate {
        if !walk.whose.has(&self.maker) {
            return Fate::None;
        }
        if self.is_open {
            return Fate::Later;
        }
        match self.died_ms {
            // A dead letter goes with its content, after a time of its own; whatever else belongs to it waits for that.
            Some(died_ms) if walk.rule == Rule::Content => match walk.dead_letters_ms {
                Some(keep_ms) if died_ms.saturating_add(keep_ms) <= now_ms => Fate::Over,
                _ => Fate::Later,
            },
            Some(_) => Fate::Later,
            None if self.has_something => Fate::Over,
            None => Fate::None,
        }
    }
}

/// The events that came to be before their time was over, from a place on.
fn range(rule: Rule) -> String {
    Seen::select(rule, "e.id > ?1 and e.id < ?2 order by e.id limit ?3")
}

/// Where the events end that are over at this time.
fn end(walk: &Walk, now_ms: u64) -> i64 {
    now_ms.checked_sub(walk.keep_ms).map_or(0, |ms| first_of(ms + 1))
}

async fn due(readers: &SqlitePool, walk: &Walk, place: i64, now_ms: u64) -> Result<Vec<Seen>> {
    let rows = sqlx::query(AssertSqlSafe(range(walk.rule))).bind(place).bind(end(walk, now_ms)).bind(LOOK);
    rows.fetch_all(readers).await?.iter().map(Seen::read).collect()
}

/// What a step is to do, as it was read.
#[derive(Default)]
pub(super) struct Plan {
    /// Events that are over, each with the walk that says so.
    over: Vec<(i64, Walk)>,
    later: Vec<i64>,
    /// Stragglers that are none any more.
    forgotten: Vec<i64>,
    /// The last id that was read.
    place: i64,
    done: bool,
}

impl Plan {
    /// Nothing to change, and nothing to remember but the place.
    pub(super) fn is_empty(&self) -> bool {
        self.over.is_empty() && self.later.is_empty() && self.forgotten.is_empty()
    }

    pub(super) fn untouched(&self) -> Step {
        Step { place: self.place, done: self.done, ..Step::default() }
    }

    pub(super) fn has_moved(&self, place: i64) -> bool {
        self.done && self.place != place
    }
}

pub(super) async fn plan(readers: &SqlitePool, walk: &Walk, place: i64, now_ms: u64) -> Result<Plan> {
    let seen = due(readers, walk, place, now_ms).await?;
    let mut plan = Plan { place, done: (seen.len() as i64) < LOOK, ..Plan::default() };
    for event in seen {
        match event.fate(walk, now_ms) {
            Fate::None => {}
            Fate::Over => plan.over.push((event.id, walk.clone())),
            Fate::Later => plan.later.push(event.id),
        }
        plan.place = event.id;
        if plan.over.len() + plan.later.len() >= STEP {
            plan.done = false;
            break;
        }
    }
    Ok(plan)
}

const STRAGGLERS: &str =
    "select event_id from retention_stragglers where rule = ?1 and event_id > ?2 order by event_id limit ?3";

pub(super) async fn plan_stragglers(
    readers: &SqlitePool,
    walks: &[Walk],
    rule: Rule,
    place: i64,
    now_ms: u64,
) -> Result<Plan> {
    let ids: Vec<i64> =
        sqlx::query_scalar(STRAGGLERS).bind(rule as i64).bind(place).bind(STEP as i64).fetch_all(readers).await?;
    let mut plan = Plan { place, done: ids.len() < STEP, ..Plan::default() };
    for id in ids {
        plan.place = id;
        let row = sqlx::query(AssertSqlSafe(Seen::select(rule, "e.id = ?1"))).bind(id).fetch_optional(readers).await?;
        let seen = row.as_ref().map(Seen::read).transpose()?;
        let walk = seen.as_ref().and_then(|seen| walks.iter().find(|walk| walk.whose.has(&seen.maker)));
        let (Some(seen), Some(walk)) = (seen, walk) else {
            // It is gone, or kept for ever by now; under another policy a walk finds it again.
            plan.forgotten.push(id);
            continue;
        };
        if seen.created_ms.saturating_add(walk.keep_ms) > now_ms {
            continue;
        }
        match seen.fate(walk, now_ms) {
            Fate::None => plan.forgotten.push(id),
            Fate::Over => plan.over.push((id, walk.clone())),
            Fate::Later => {}
        }
    }
    Ok(plan)
}

/// Does what a plan says, as far as it is still right, and notes the place of the walk.
pub(super) async fn carry_out(
    conn: &mut SqliteConnection,
    rule: Rule,
    walk: Option<&Walk>,
    plan: Plan,
    now_ms: u64,
) -> Result<Step> {
    let mut step = plan.untouched();
    for (id, walk) in &plan.over {
        // Somebody may have replayed it, or erased it, since it was read.
        let row = sqlx::query(AssertSqlSafe(Seen::select(rule, "e.id = ?1"))).bind(*id);
        let Some(row) = row.fetch_optional(&mut *conn).await? else { continue };
        let seen = Seen::read(&row)?;
        match seen.fate(walk, now_ms) {
            Fate::None => forget_straggler(conn, rule, *id).await?,
            Fate::Later => note_straggler(conn, rule, *id).await?,
            Fate::Over => {
                remove(conn, rule, &seen, &mut step).await?;
                forget_straggler(conn, rule, *id).await?;
            }
        }
    }
    for id in &plan.later {
        note_straggler(conn, rule, *id).await?;
    }
    for id in &plan.forgotten {
        forget_straggler(conn, rule, *id).await?;
    }
    if let Some(walk) = walk {
        sqlx::query(
            "insert into retention_walks (rule, policy, place) values (?, ?, ?) \
             on conflict (rule, policy) do update set place = excluded.place",
        )
        .bind(rule as i64)
        .bind(walk.policy())
        .bind(step.place)
        .execute(&mut *conn)
        .await?;
    }
    count(conn, rule, step.removed).await?;
    count(conn, Rule::DeadLetters, step.dead_letters).await?;
    Ok(step)
}

async fn remove(conn: &mut SqliteConnection, rule: Rule, seen: &Seen, step: &mut Step) -> Result<()> {
    let is_there = matches!(seen.content, ContentState::Clear | ContentState::Sealed);
    if is_there && matches!(rule, Rule::Content | Rule::Events) {
        forget(conn, EventId(seen.id), ContentState::Expired).await?;
    }
    match rule {
        Rule::Content => {
            step.removed += u64::from(is_there);
            if seen.died_ms.is_some() {
                of_event(
                    conn,
                    "update webhook_deliveries set status = 6 where id > ?1 and id < ?2 and status = 4",
                    seen.id,
                )
                .await?;
                step.dead_letters +=
                    of_event(conn, "delete from dead_letter where delivery_id > ?1 and delivery_id < ?2", seen.id)
                        .await?;
            }
        }
        Rule::Logs => {
            let sql = "update delivery_attempts set message = null, log = null, sealed = null \
                       where delivery_id > ?1 and delivery_id < ?2 \
                       and (message is not null or log is not null or sealed is not null)";
            step.removed += of_event(conn, sql, seen.id).await?;
        }
        Rule::Attempts => {
            let sql = "delete from delivery_attempts where delivery_id > ?1 and delivery_id < ?2";
            step.removed += of_event(conn, sql, seen.id).await?;
        }
        Rule::Events => {
            of_event(conn, "delete from delivery_attempts where delivery_id > ?1 and delivery_id < ?2", seen.id)
                .await?;
            of_event(conn, "delete from webhook_deliveries where id > ?1 and id < ?2", seen.id).await?;
            sqlx::query("delete from integration_events where id = ?").bind(seen.id).execute(&mut *conn).await?;
            step.removed += 1;
        }
        Rule::DeadLetters | Rule::IdempotencyKeys | Rule::SyncJobs | Rule::Audit => {}
    }
    Ok(())
}

/// Runs a statement on the rows of an event's deliveries, which are those between ?1 and ?2. Answers how many it changed.
async fn of_event(conn: &mut SqliteConnection, sql: &'static str, event: i64) -> Result<u64> {
    Ok(sqlx::query(sql).bind(event).bind(event + ID_STRIDE).execute(conn).await?.rows_affected())
}

async fn note_straggler(conn: &mut SqliteConnection, rule: Rule, event: i64) -> Result<()> {
    sqlx::query("insert or ignore into retention_stragglers (rule, event_id) values (?, ?)")
        .bind(rule as i64)
        .bind(event)
        .execute(conn)
        .await?;
    Ok(())
}

async fn forget_straggler(conn: &mut SqliteConnection, rule: Rule, event: i64) -> Result<()> {
    sqlx::query("delete from retention_stragglers where rule = ? and event_id = ?")
        .bind(rule as i64)
        .bind(event)
        .execute(conn)
        .await?;
    Ok(())
}

async fn count(conn: &mut SqliteConnection, rule: Rule, removed: u64) -> Result<()> {
    if removed > 0 {
        sqlx::query(
            "insert into retention_removed (rule, removed) values (?, ?) \
             on conflict (rule) do update set removed = removed + excluded.removed",
        )
        .bind(rule as i64)
        .bind(removed as i64)
        .execute(conn)
        .await?;
    }
    Ok(())
}

pub(super) async fn place(conn: &mut SqliteConnection, walk: &Walk, policies: &[String], now_ms: u64) -> Result<i64> {
    let known: Vec<(String, i64)> = sqlx::query_as("select policy, place from retention_walks where rule = ?")
        .bind(walk.rule as i64)
        .fetch_all(&mut *conn)
        .await?;
    for (policy, _) in known.iter().filter(|(policy, _)| !policies.contains(policy)) {
        sqlx::query("delete from retention_walks where rule = ? and policy = ?")
            .bind(walk.rule as i64)
            .bind(policy.clone())
            .execute(&mut *conn)
            .await?;
    }
    let place = known.into_iter().find(|(policy, _)| *policy == walk.policy()).map_or(0, |(_, place)| place);
    // One in the future was reached by a clock that was wrong then: what came since would never be seen.
    Ok(if made_ms(place) > now_ms { 0 } else { place })
}

const KEYS: &str = "select key, event_id from idempotency_keys where key > ?1 order by key limit ?2";

pub(super) struct KeyPlan {
    over: Vec<Vec<u8>>,
    /// Of the keys that are not over.
    oldest: Option<i64>,
    /// None when the round is complete.
    place: Option<Vec<u8>>,
}

pub(super) async fn plan_keys(readers: &SqlitePool, before_ms: u64) -> Result<KeyPlan> {
    let (place, oldest): (Option<Vec<u8>>, Option<i64>) =
        sqlx::query_as("select place, oldest from retention_keys").fetch_one(readers).await?;
    let end = first_of(before_ms);
    let rows: Vec<(Vec<u8>, i64)> =
        sqlx::query_as(KEYS).bind(place.unwrap_or_default()).bind(LOOK_KEYS).fetch_all(readers).await?;
    let mut plan = KeyPlan { over: Vec::new(), oldest, place: None };
    let is_last = (rows.len() as i64) < LOOK_KEYS;
    let last = rows.len().saturating_sub(1);
    for (at, (key, event)) in rows.into_iter().enumerate() {
        if event >= end {
            plan.oldest = Some(plan.oldest.map_or(event, |oldest| oldest.min(event)));
        } else {
            plan.over.push(key.clone());
        }
        let is_full = plan.over.len() >= STEP;
        if is_full || (at == last && !is_last) {
            plan.place = Some(key);
        }
        if is_full {
            break;
        }
    }
    Ok(plan)
}

pub(super) async fn retire_keys(conn: &mut SqliteConnection, plan: KeyPlan) -> Result<Step> {
    let mut step = Step { done: plan.place.is_none(), ..Step::default() };
    for key in &plan.over {
        // What is there must be recognised when it comes again, however old it is.
        let gone = sqlx::query(
            "delete from idempotency_keys where key = ?1 and not exists \
             (select 1 from integration_events e where e.id = event_id and e.content < 2)",
        )
        .bind(key.clone())
        .execute(&mut *conn)
        .await?;
        step.removed += gone.rows_affected();
    }
    let kept = match &plan.place {
        Some(place) => {
            sqlx::query("update retention_keys set place = ?, oldest = ?").bind(place.clone()).bind(plan.oldest)
        }
        None => {
            sqlx::query("update retention_keys set place = null, oldest = null, oldest_before = ?").bind(plan.oldest)
        }
    };
    kept.execute(&mut *conn).await?;
    count(conn, Rule::IdempotencyKeys, step.removed).await?;
    Ok(step)
}

pub(super) async fn retire_sync_runs(conn: &mut SqliteConnection, before_ms: u64) -> Result<u64> {
    let removed = sqlx::query(
        "delete from sync_jobs where id in (select id from sync_jobs where id < ?1 and +state <> 0 order by id limit ?2)",
    )
    .bind(first_of(before_ms))
    .bind(STEP as i64)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    count(conn, Rule::SyncJobs, removed).await?;
    Ok(removed)
}

pub(super) async fn oldest_due(readers: &SqlitePool, walk: &Walk, now_ms: u64) -> Result<Option<u64>> {
    let place: Option<i64> = sqlx::query_scalar("select place from retention_walks where rule = ? and policy = ?")
        .bind(walk.rule as i64)
        .bind(walk.policy())
        .fetch_optional(readers)
        .await?;
    let seen = due(readers, walk, place.unwrap_or(0), now_ms).await?;
    let over = seen.iter().find(|seen| matches!(seen.fate(walk, now_ms), Fate::Over));
    Ok(over.map(|seen| seen.created_ms))
}

pub(super) async fn oldest_key_due(readers: &SqlitePool, before_ms: u64) -> Result<Option<u64>> {
    let oldest: Option<i64> = sqlx::query_scalar("select oldest_before from retention_keys").fetch_one(readers).await?;
    Ok(oldest.map(made_ms).filter(|ms| *ms < before_ms))
}

pub(super) async fn oldest_sync_run_due(readers: &SqlitePool, before_ms: u64) -> Result<Option<u64>> {
    let id: Option<i64> =
        sqlx::query_scalar("select id from sync_jobs where id < ? and +state <> 0 order by id limit 1")
            .bind(first_of(before_ms))
            .fetch_optional(readers)
            .await?;
    Ok(id.map(made_ms))
}

pub(super) async fn retired(readers: &SqlitePool) -> Result<Vec<(Rule, u64)>> {
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("select rule, removed from retention_removed").fetch_all(readers).await?;
    let known = |number: i64| Rule::ALL.into_iter().find(|rule| *rule as i64 == number);
    Ok(rows.into_iter().filter_map(|(rule, removed)| Some((known(rule)?, removed as u64))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Keyring;
    use crate::store::sqlite::SqliteStore;

    /// A table of ten million rows is not looked through every hour: each look goes by a range of the primary key.
    #[tokio::test(flavor = "multi_thread")]
    async fn every_look_is_a_range_of_a_primary_key() {
        let folder = tempfile::TempDir::new().unwrap();
        let ring = Keyring::open(&folder.path().join("keyring"), 1).unwrap();
        let store = SqliteStore::open(&folder.path().join("tomada.db"), ring.into()).await.unwrap();
        let mut looks: Vec<String> = [Rule::Content, Rule::Logs, Rule::Attempts, Rule::Events].map(range).to_vec();
        looks.extend([STRAGGLERS, KEYS].map(str::to_owned));
        looks.push(Seen::select(Rule::Content, "e.id = ?1"));
        looks.push("select id from sync_jobs where id < ?1 and +state <> 0 order by id limit ?2".into());
        for look in looks {
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(AssertSqlSafe(format!("explain query plan {look}")))
                    .fetch_all(&store.readers)
                    .await
                    .unwrap();
            let steps: Vec<&str> = plan.iter().map(|step| step.3.as_str()).collect();
            let is_range = |step: &str| {
                ["INTEGER PRIMARY KEY (", "USING PRIMARY KEY ("].iter().any(|by| step.contains(by))
                    && step.starts_with("SEARCH")
                    || step.contains("SUBQUERY")
            };
            assert!(steps.iter().all(|step| is_range(step)), "{look}\n{steps:#?}");
        }
    }

    #[test]
    fn ids_and_times_are_one_order() {
        for ms in [0, 1, 1_767_225_600_000] {
            assert_eq!(made_ms(first_of(ms)), ms);
            assert_eq!(made_ms(first_of(ms + 1) - 1), ms);
        }
        assert!(first_of(u64::MAX) > 0);
    }
}
