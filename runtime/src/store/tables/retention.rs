//! What is kept no longer, found by ranges of ids and never by looking through a table: events come in the order of time.
//!
//! A walk reads beside the writer, and what it found is looked at again in the transaction that removes it.

use super::content::forget;
use crate::clock::ID_STRIDE;
use crate::event::EventId;
use crate::store::Result;
use crate::store::rows::{ContentState, Maker, Rule, STEP, Step, Walk};
use crate::store::sql::{Conn, Lock, Row, query};

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
    /// `at` is the condition on `e.id`. An event's deliveries are a range of ids, which SQLite and PostgreSQL go by; MySQL
    /// looks up no range that depends on another row, and goes by `event_id`.
    fn select(rule: Rule, at: &str) -> String {
        let deliveries = "d.event_id = e.id and d.id > e.id and d.id < e.id + 64";
        let attempts = format!(
            "select 1 from webhook_deliveries d cross join delivery_attempts a on a.delivery_id = d.id where {deliveries}"
        );
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
             exists (select 1 from webhook_deliveries d where {deliveries} and d.status in (0, 1, 5)), \
             (select max(coalesce(l.created_at, 0)) from webhook_deliveries d left join dead_letter l on l.delivery_id = d.id \
             where {deliveries} and d.status = 4), \
             {something} from integration_events e where {at}"
        )
    }

    fn read(row: &Row) -> Result<Seen> {
        let name: String = row.try_get(1)?;
        Ok(Seen {
            id: row.try_get(0)?,
            maker: if row.try_get(2)? { Maker::Endpoint(name) } else { Maker::Source(name) },
            created_ms: row.try_get(3)?,
            content: ContentState::from_sql(row.try_get(4)?),
            is_open: row.try_get(5)?,
            died_ms: row.try_get(6)?,
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

async fn due(conn: &mut Conn, walk: &Walk, place: i64, now_ms: u64) -> Result<Vec<Seen>> {
    let rows = query(range(walk.rule)).bind(place).bind(end(walk, now_ms)).bind(LOOK);
    rows.fetch_all(conn).await?.iter().map(Seen::read).collect()
}

/// What a step is to do, as it was read.
#[derive(Default)]
pub(in crate::store) struct Plan {
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
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.over.is_empty() && self.later.is_empty() && self.forgotten.is_empty()
    }

    pub(in crate::store) fn untouched(&self) -> Step {
        Step { place: self.place, done: self.done, ..Step::default() }
    }

    pub(in crate::store) fn has_moved(&self, place: i64) -> bool {
        self.done && self.place != place
    }
}

pub(in crate::store) async fn plan(conn: &mut Conn, walk: &Walk, place: i64, now_ms: u64) -> Result<Plan> {
    let seen = due(conn, walk, place, now_ms).await?;
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

pub(in crate::store) async fn plan_stragglers(
    conn: &mut Conn,
    walks: &[Walk],
    rule: Rule,
    place: i64,
    now_ms: u64,
) -> Result<Plan> {
    let ids: Vec<i64> = query(STRAGGLERS).bind(rule as i64).bind(place).bind(STEP as i64).fetch_column(conn).await?;
    let mut plan = Plan { place, done: ids.len() < STEP, ..Plan::default() };
    for id in ids {
        plan.place = id;
        let row = query(Seen::select(rule, "e.id = ?1")).bind(id).fetch_optional(conn).await?;
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
pub(in crate::store) async fn carry_out(
    conn: &mut Conn,
    rule: Rule,
    walk: Option<&Walk>,
    plan: &Plan,
    now_ms: u64,
) -> Result<Step> {
    conn.lock(Lock::Content).await?;
    let mut step = plan.untouched();
    for (id, walk) in &plan.over {
        // Somebody may have replayed it, or erased it, since it was read.
        let row = query(Seen::select(rule, "e.id = ?1")).bind(*id);
        let Some(row) = row.fetch_optional(conn).await? else { continue };
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
        query(
            "insert into retention_walks (rule, policy, place) values (?, ?, ?) \
             on conflict (rule, policy) do update set place = excluded.place",
        )
        .bind(rule as i64)
        .bind(walk.policy())
        .bind(step.place)
        .execute(conn)
        .await?;
    }
    count(conn, rule, step.removed).await?;
    count(conn, Rule::DeadLetters, step.dead_letters).await?;
    Ok(step)
}

async fn remove(conn: &mut Conn, rule: Rule, seen: &Seen, step: &mut Step) -> Result<()> {
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
            query("delete from integration_events where id = ?").bind(seen.id).execute(conn).await?;
            step.removed += 1;
        }
        Rule::DeadLetters | Rule::IdempotencyKeys | Rule::SyncJobs | Rule::Audit => {}
    }
    Ok(())
}

/// Runs a statement on the rows of an event's deliveries, which are those between ?1 and ?2. Answers how many it changed.
async fn of_event(conn: &mut Conn, sql: &'static str, event: i64) -> Result<u64> {
    query(sql).bind(event).bind(event + ID_STRIDE).execute(conn).await
}

async fn note_straggler(conn: &mut Conn, rule: Rule, event: i64) -> Result<()> {
    query("insert or ignore into retention_stragglers (rule, event_id) values (?, ?)")
        .bind(rule as i64)
        .bind(event)
        .execute(conn)
        .await?;
    Ok(())
}

async fn forget_straggler(conn: &mut Conn, rule: Rule, event: i64) -> Result<()> {
    query("delete from retention_stragglers where rule = ? and event_id = ?")
        .bind(rule as i64)
        .bind(event)
        .execute(conn)
        .await?;
    Ok(())
}

async fn count(conn: &mut Conn, rule: Rule, removed: u64) -> Result<()> {
    if removed > 0 {
        query(
            "insert into retention_removed (rule, removed) values (?, ?) \
             on conflict (rule) do update set removed = retention_removed.removed + excluded.removed",
        )
        .bind(rule as i64)
        .bind(removed)
        .execute(conn)
        .await?;
    }
    Ok(())
}

pub(in crate::store) async fn place(conn: &mut Conn, walk: &Walk, policies: &[String], now_ms: u64) -> Result<i64> {
    let known = query("select policy, place from retention_walks where rule = ?").bind(walk.rule as i64);
    let known: Vec<(String, i64)> =
        known.fetch_all(conn).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_>>()?;
    for (policy, _) in known.iter().filter(|(policy, _)| !policies.contains(policy)) {
        query("delete from retention_walks where rule = ? and policy = ?")
            .bind(walk.rule as i64)
            .bind(policy)
            .execute(conn)
            .await?;
    }
    let place = known.into_iter().find(|(policy, _)| *policy == walk.policy()).map_or(0, |(_, place)| place);
    // One in the future was reached by a clock that was wrong then: what came since would never be seen.
    Ok(if made_ms(place) > now_ms { 0 } else { place })
}

const KEYS: &str = "select \"key\", event_id from idempotency_keys where \"key\" > ?1 order by \"key\" limit ?2";

pub(in crate::store) struct KeyPlan {
    over: Vec<Vec<u8>>,
    /// Of the keys that are not over.
    oldest: Option<i64>,
    /// None when the round is complete.
    place: Option<Vec<u8>>,
}

pub(in crate::store) async fn plan_keys(conn: &mut Conn, before_ms: u64) -> Result<KeyPlan> {
    let round = query("select place, oldest from retention_keys").fetch_one(conn).await?;
    let place: Option<Vec<u8>> = round.try_get(0)?;
    let end = first_of(before_ms);
    let rows = query(KEYS).bind(place.unwrap_or_default()).bind(LOOK_KEYS).fetch_all(conn).await?;
    let mut plan = KeyPlan { over: Vec::new(), oldest: round.try_get(1)?, place: None };
    let is_last = (rows.len() as i64) < LOOK_KEYS;
    let last = rows.len().saturating_sub(1);
    for (at, row) in rows.iter().enumerate() {
        let (key, event): (Vec<u8>, i64) = (row.try_get(0)?, row.try_get(1)?);
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

pub(in crate::store) async fn retire_keys(conn: &mut Conn, plan: &KeyPlan) -> Result<Step> {
    let mut step = Step { done: plan.place.is_none(), ..Step::default() };
    for key in &plan.over {
        // What is there must be recognised when it comes again, however old it is.
        let gone = query(
            "delete from idempotency_keys where \"key\" = ? and not exists \
             (select 1 from integration_events e where e.id = idempotency_keys.event_id and e.content < 2)",
        )
        .bind(key)
        .execute(conn)
        .await?;
        step.removed += gone;
    }
    let kept = match &plan.place {
        Some(place) => query("update retention_keys set place = ?, oldest = ?").bind(place).bind(plan.oldest),
        None => query("update retention_keys set place = null, oldest = null, oldest_before = ?").bind(plan.oldest),
    };
    kept.execute(conn).await?;
    count(conn, Rule::IdempotencyKeys, step.removed).await?;
    Ok(step)
}

pub(in crate::store) async fn retire_sync_runs(conn: &mut Conn, before_ms: u64) -> Result<u64> {
    let removed = query(
        // Twice in parentheses: MySQL takes no limit in the first, and none of what it deletes from.
        "delete from sync_jobs where id in (select id from \
         (select id from sync_jobs where id < ? and +state <> 0 order by id limit ?) old)",
    )
    .bind(first_of(before_ms))
    .bind(STEP as i64)
    .execute(conn)
    .await?;
    count(conn, Rule::SyncJobs, removed).await?;
    Ok(removed)
}

pub(in crate::store) async fn oldest_due(conn: &mut Conn, walk: &Walk, now_ms: u64) -> Result<Option<u64>> {
    let place: Option<i64> = query("select place from retention_walks where rule = ? and policy = ?")
        .bind(walk.rule as i64)
        .bind(walk.policy())
        .fetch_value(conn)
        .await?;
    let seen = due(conn, walk, place.unwrap_or(0), now_ms).await?;
    let over = seen.iter().find(|seen| matches!(seen.fate(walk, now_ms), Fate::Over));
    Ok(over.map(|seen| seen.created_ms))
}

pub(in crate::store) async fn oldest_key_due(conn: &mut Conn, before_ms: u64) -> Result<Option<u64>> {
    let oldest: Option<i64> = query("select oldest_before from retention_keys").fetch_one(conn).await?.try_get(0)?;
    Ok(oldest.map(made_ms).filter(|ms| *ms < before_ms))
}

pub(in crate::store) async fn oldest_sync_run_due(conn: &mut Conn, before_ms: u64) -> Result<Option<u64>> {
    let id: Option<i64> = query("select id from sync_jobs where id < ? and +state <> 0 order by id limit 1")
        .bind(first_of(before_ms))
        .fetch_value(conn)
        .await?;
    Ok(id.map(made_ms))
}

pub(in crate::store) async fn retired(conn: &mut Conn) -> Result<Vec<(Rule, u64)>> {
    let known = |number: i64| Rule::ALL.into_iter().find(|rule| *rule as i64 == number);
    let mut retired = Vec::new();
    for row in query("select rule, removed from retention_removed").fetch_all(conn).await? {
        if let Some(rule) = known(row.try_get(0)?) {
            retired.push((rule, row.try_get(1)?));
        }
    }
    Ok(retired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::database::Database as _;
    use crate::store::sqlite::Sqlite;

    /// A table of ten million rows is not looked through every hour: each look goes by a range of the primary key.
    #[tokio::test(flavor = "multi_thread")]
    async fn every_look_is_a_range_of_a_primary_key() {
        let folder = tempfile::TempDir::new().unwrap();
        let database = Sqlite::open(&folder.path().join("tomada.db")).await.unwrap();
        let mut conn = database.read().await.unwrap();
        let mut looks: Vec<String> = [Rule::Content, Rule::Logs, Rule::Attempts, Rule::Events].map(range).to_vec();
        looks.extend([STRAGGLERS, KEYS].map(str::to_owned));
        looks.push(Seen::select(Rule::Content, "e.id = ?1"));
        looks.push("select id from sync_jobs where id < ?1 and +state <> 0 order by id limit ?2".into());
        for look in looks {
            // The places stay empty: the plan does not depend on what is bound.
            let plan = query(format!("explain query plan {look}")).fetch_all(&mut conn).await.unwrap();
            let steps: Vec<&str> = plan.iter().map(|step| step.try_get(3).unwrap()).collect();
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
