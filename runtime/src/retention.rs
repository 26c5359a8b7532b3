//! What is kept no longer: every hour by the hub's clock, each rule of `[retention]` removes what its time is over for, in
//! small transactions with pauses between them. What is owed, waiting or held is never over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, Failure};
use crate::catalog::Current;
use crate::clock::Clock;
use crate::config::{Config, Keep};
use crate::store::rows::{Maker, Rule, Step, Walk, Whose};
use crate::store::{Result, Store, StoreError};

/// From one round to the next, by the hub's clock.
const EVERY_MS: u64 = 3_600_000;
/// Between two transactions, so that whoever wants to commit comes first.
const PAUSE: Duration = Duration::from_millis(20);
/// After the database failed.
const AGAIN: Duration = Duration::from_secs(60);
/// Steps through the idempotency keys in one round, of 5,000 keys each: ten million take two days, which is little against
/// the time that they are kept.
const KEY_STEPS: u32 = 50;
/// Rows of the audit log in one transaction.
const AUDIT_ROWS: u32 = 1000;

pub(crate) struct Retention {
    store: Arc<dyn Store>,
    catalog: Arc<Current>,
    audit: Audit,
    clock: Clock,
    /// When each rule had gone through last; at first, when the hub started.
    finished_ms: [AtomicU64; Rule::ALL.len()],
}

/// How a rule stands.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) rule: Rule,
    /// The general time, and those of sources and endpoints that have their own.
    pub(crate) keep: Keep,
    pub(crate) own: Vec<(Maker, Keep)>,
    /// When the oldest row was created that should be gone.
    pub(crate) oldest_ms: Option<u64>,
    /// By how much the oldest row has outlived its time; 0 when none has. Up to an hour is the time between two rounds.
    pub(crate) overdue_ms: u64,
    /// When the last round went through, or the hub started.
    pub(crate) looked_ms: u64,
    /// Rows removed or emptied, ever.
    pub(crate) removed: u64,
}

impl Retention {
    pub(crate) fn new(store: Arc<dyn Store>, catalog: Arc<Current>, audit: Audit, clock: Clock) -> Retention {
        let now_ms = clock.now_ms();
        Retention { store, catalog, audit, clock, finished_ms: std::array::from_fn(|_| AtomicU64::new(now_ms)) }
    }

    /// As long as the hub runs.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let now_ms = self.clock.now_ms();
            let failed = self.round(now_ms, &stop).await.inspect_err(|error| {
                tracing::error!(%error, "removing what is kept no longer failed; it is tried again");
            });
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.wait_until(now_ms + EVERY_MS) => {}
                () = tokio::time::sleep(AGAIN), if failed.is_err() => {}
            }
        }
    }

    /// Everything that is over at this time, rule by rule.
    async fn round(&self, now_ms: u64, stop: &CancellationToken) -> Result<()> {
        let catalog = self.catalog.get();
        let mut removed: BTreeMap<Rule, u64> = BTreeMap::new();
        for rule in Rule::ALL {
            let mut steps = Steps { retention: self, stop, removed: 0, dead_letters: 0 };
            let before_ms = keep_of(&catalog.config, rule).ms().and_then(|keep_ms| now_ms.checked_sub(keep_ms));
            match (rule, before_ms) {
                (Rule::Content | Rule::Logs | Rule::Attempts | Rule::Events, _) => {
                    steps.walk(&walks(&catalog.config, rule), rule, now_ms).await?;
                }
                (Rule::IdempotencyKeys, Some(before_ms)) => steps.keys(before_ms).await?,
                (Rule::SyncJobs, Some(before_ms)) => steps.sync_runs(before_ms).await?,
                (Rule::Audit, Some(before_ms)) => steps.audit(before_ms).await?,
                // Dead letters go with the content of their events, and what has no time is kept for ever.
                (Rule::DeadLetters | Rule::Audit | Rule::IdempotencyKeys | Rule::SyncJobs, _) => {}
            }
            if stop.is_cancelled() {
                return Ok(());
            }
            *removed.entry(rule).or_default() += steps.removed;
            *removed.entry(Rule::DeadLetters).or_default() += steps.dead_letters;
            self.finished_ms[rule as usize].store(now_ms, Ordering::Relaxed);
        }
        removed.retain(|_, count| *count > 0);
        if removed.is_empty() {
            return Ok(());
        }
        for (rule, count) in &removed {
            tracing::info!(rule = rule.word(), count, "removed what is kept no longer");
        }
        // Whoever reads in it is not waited for: the next time will do.
        self.store.scrub(false).await.map(drop)
    }

    /// How every rule stands, in their order.
    pub(crate) async fn standings(&self) -> Result<Vec<Standing>> {
        let config = &self.catalog.get().config;
        let now_ms = self.clock.now_ms();
        let removed: BTreeMap<Rule, u64> = self.store.retired().await?.into_iter().collect();
        let mut standings = Vec::with_capacity(Rule::ALL.len());
        for rule in Rule::ALL {
            let keep = keep_of(config, rule);
            // By how much, and since when.
            let mut oldest: Option<(u64, u64)> = None;
            let mut found = |created_ms: Option<u64>, keep_ms: u64| {
                let late = created_ms.map(|created_ms| (now_ms.saturating_sub(created_ms + keep_ms), created_ms));
                oldest = oldest.max(late);
            };
            let before_ms = keep.ms().and_then(|keep_ms| now_ms.checked_sub(keep_ms));
            match (rule, keep.ms().zip(before_ms)) {
                (Rule::Content | Rule::Logs | Rule::Attempts | Rule::Events, _) => {
                    for walk in walks(config, rule) {
                        found(self.store.oldest_due(&walk, now_ms).await?, walk.keep_ms);
                    }
                }
                (Rule::IdempotencyKeys, Some((keep_ms, before_ms))) => {
                    found(self.store.oldest_key_due(before_ms).await?, keep_ms);
                }
                (Rule::SyncJobs, Some((keep_ms, before_ms))) => {
                    found(self.store.oldest_sync_run_due(before_ms).await?, keep_ms);
                }
                _ => {}
            }
            // What a walk had to leave is looked at in each round: late is that when rounds do not come to their end.
            let looked_ms = self.finished_ms[rule as usize].load(Ordering::Relaxed);
            let silent_ms = now_ms.saturating_sub(looked_ms);
            let own = if rule == Rule::Content { own_times(config) } else { Vec::new() };
            standings.push(Standing {
                rule,
                keep,
                own,
                oldest_ms: oldest.map(|(_, created_ms)| created_ms),
                overdue_ms: oldest.map_or(0, |(late_ms, _)| late_ms).max(silent_ms.saturating_sub(2 * EVERY_MS)),
                looked_ms,
                removed: removed.get(&rule).copied().unwrap_or(0),
            });
        }
        Ok(standings)
    }
}

/// The steps of one rule in one round.
struct Steps<'r> {
    retention: &'r Retention,
    stop: &'r CancellationToken,
    removed: u64,
    dead_letters: u64,
}

impl Steps<'_> {
    async fn walk(&mut self, walks: &[Walk], rule: Rule, now_ms: u64) -> Result<()> {
        let store = &*self.retention.store;
        let policies: Vec<String> = walks.iter().map(Walk::policy).collect();
        for walk in walks {
            let mut place = store.retention_place(walk, &policies, now_ms).await?;
            while !self.over(store.retire(walk, place, now_ms).await?, &mut place).await {}
        }
        let mut place = 0;
        while !self.over(store.retire_stragglers(rule, walks, place, now_ms).await?, &mut place).await {}
        Ok(())
    }

    async fn keys(&mut self, before_ms: u64) -> Result<()> {
        for _ in 0..KEY_STEPS {
            if self.over(self.retention.store.retire_keys(before_ms).await?, &mut 0).await {
                break;
            }
        }
        Ok(())
    }

    async fn sync_runs(&mut self, before_ms: u64) -> Result<()> {
        loop {
            let removed = self.retention.store.retire_sync_runs(before_ms).await?;
            if self.over(Step { removed, done: removed == 0, ..Step::default() }, &mut 0).await {
                return Ok(());
            }
        }
    }

    /// The log removes its own rows: what is left has to follow from a row that says so.
    async fn audit(&mut self, before_ms: u64) -> Result<()> {
        loop {
            let pruned = self.retention.audit.prune(before_ms, AUDIT_ROWS).await;
            let removed = pruned.map_err(|failure| match failure {
                Failure::Store(error) => error,
                other => StoreError::Conflict(other.to_string()),
            })?;
            if self.over(Step { removed, done: removed == 0, ..Step::default() }, &mut 0).await {
                return Ok(());
            }
        }
    }

    /// Counts a step, and leaves room after it. Answers whether it was the last.
    async fn over(&mut self, step: Step, place: &mut i64) -> bool {
        *place = step.place;
        self.removed += step.removed;
        self.dead_letters += step.dead_letters;
        if step.done {
            return true;
        }
        tokio::select! {
            () = self.stop.cancelled() => true,
            () = tokio::time::sleep(PAUSE) => false,
        }
    }
}

/// The general time of a rule.
fn keep_of(config: &Config, rule: Rule) -> Keep {
    let times = &config.retention;
    match rule {
        Rule::Content => times.content(),
        Rule::DeadLetters => times.dead_letters(),
        Rule::Logs => times.logs(),
        Rule::Attempts => times.attempts(),
        Rule::Events => times.events(),
        Rule::IdempotencyKeys => times.idempotency_keys(),
        Rule::SyncJobs => times.sync_jobs(),
        Rule::Audit => times.audit(),
    }
}

/// Who has a time of their own.
fn own_times(config: &Config) -> Vec<(Maker, Keep)> {
    let source =
        |(name, source): (&String, &crate::config::Source)| Some((Maker::Source(name.clone()), source.retention?));
    let endpoint = |(name, endpoint): (&String, &crate::config::Endpoint)| {
        Some((Maker::Endpoint(name.clone()), endpoint.retention?))
    };
    config.sources.iter().filter_map(source).chain(config.endpoints.iter().filter_map(endpoint)).collect()
}

/// The walks of a rule: for content one for each time that somebody has, and one for everybody else. Without end is no
/// walk.
fn walks(config: &Config, rule: Rule) -> Vec<Walk> {
    let dead_letters_ms = config.retention.dead_letters().ms();
    let walk = |whose, keep: Keep| Some(Walk { rule, whose, keep_ms: keep.ms()?, dead_letters_ms });
    let own = if rule == Rule::Content { own_times(config) } else { Vec::new() };
    let mut by_time: BTreeMap<Keep, Vec<Maker>> = BTreeMap::new();
    for (maker, keep) in &own {
        by_time.entry(*keep).or_default().push(maker.clone());
    }
    let others = Whose::AllBut(own.into_iter().map(|(maker, _)| maker).collect());
    let general = walk(others, keep_of(config, rule));
    by_time.into_iter().filter_map(|(keep, makers)| walk(Whose::Of(makers), keep)).chain(general).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn of(toml: &str) -> Vec<(u64, Whose)> {
        let config = config::parse(toml, "test.toml").unwrap_or_else(|problems| panic!("{problems:#?}"));
        walks(&config, Rule::Content).into_iter().map(|walk| (walk.keep_ms / 86_400_000, walk.whose)).collect()
    }

    #[test]
    fn every_maker_of_events_is_in_one_walk() {
        let source = |name: &str| Maker::Source(name.into());
        let auth = "auth = { scheme = \"github\", secrets = [\"env:A\"] }";
        assert_eq!(of(""), [(30, Whose::AllBut(vec![]))]);
        let toml = format!(
            "[retention]\ncontent = \"10d\"\nevents = \"forever\"\nidempotency_keys = \"forever\"\n\
             [sources.a]\n{auth}\nretention = \"7d\"\n[sources.b]\n{auth}\n[sources.c]\n{auth}\nretention = \"forever\"\n\
             [sources.d]\n{auth}\nretention = \"1w\"\n[endpoints.a]\nconnector = \"a\"\nretention = \"2d\"\n"
        );
        let endpoint = Maker::Endpoint("a".into());
        let own = vec![source("a"), source("c"), source("d"), endpoint.clone()];
        let expected =
            [(2, Whose::Of(vec![endpoint])), (7, Whose::Of(vec![source("a"), source("d")])), (10, Whose::AllBut(own))];
        assert_eq!(of(&toml), expected);
    }
}
