//! The audit log: who did what, on record before it is done, in a chain that nobody can change unseen who has only the
//! database.
//!
//! What the chain alone cannot show is that its newest rows were cut off. So the last row's id and hash stand in
//! `audit.head` of the data directory as well: written after the commit, so after a crash it may lag behind, and never
//! be ahead. Where it is, rows are missing. The hub then works on, and says so in the log itself, for good.

mod chain;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{Mutex, RwLock};
use tokio::task::block_in_place;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::keys::Pepper;
use crate::private::write_private;
use crate::problem::Problem;
use crate::store::rows::{AuditEntry, AuditHead, AuditRow};
use crate::store::sqlite::audit::Snapshot;
use crate::store::{Store, StoreError};
pub(crate) use chain::Verdict;
use chain::{Anchor, ChainKey, GAP, PRUNE, Walk};

/// Who stands in the log for what the hub does itself.
pub(crate) const HUB: &str = "hub";
/// What the chain's key is derived by.
const KEY_LABEL: &str = "tomada audit log 1";
/// The anchor, beside the database.
const ANCHOR: &str = "audit.head";
/// Rows that are looked at together, and the most that one call prunes.
const BATCH: u32 = 1_000;
/// Characters of an actor, an action or an object; more are cut off.
const MAX_TEXT: usize = 256;
/// Bytes of the details; more are left out, which the row then says.
const MAX_DETAILS: usize = 32 << 10;

/// What somebody does. Nothing of it may be content or a secret.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// The public id of an API key, or [`HUB`].
    pub(crate) actor: String,
    /// As [`prefix`] writes it; none for the hub.
    pub(crate) address: Option<String>,
    /// A stable word, `thing.verb`.
    pub(crate) action: &'static str,
    /// To what: `evt_…`, `endpoint:crm`.
    pub(crate) object: String,
    /// As the actor said, at most [`MAX_REASON`] characters.
    pub(crate) reason: Option<String>,
    /// A JSON object.
    pub(crate) details: Value,
}

/// Characters of a reason.
pub(crate) const MAX_REASON: usize = 200;

impl Record {
    /// Of what the hub does itself.
    pub(crate) fn of_hub(action: &'static str, object: impl Into<String>, details: Value) -> Record {
        Record { actor: HUB.into(), address: None, action, object: object.into(), reason: None, details }
    }

    fn entry(self, at_ms: u64) -> AuditEntry {
        let Record { actor, address, action, object, reason, details } = self;
        let mut details = details.to_string();
        if details.len() > MAX_DETAILS {
            details = json!({ "left_out_bytes": details.len() }).to_string();
        }
        AuditEntry {
            at_ms,
            actor: plain(&actor, MAX_TEXT),
            address,
            action: plain(action, MAX_TEXT),
            object: plain(&object, MAX_TEXT),
            reason: reason.map(|reason| plain(&reason, MAX_REASON)),
            details,
        }
    }
}

/// Bounded, and without what would move the cursor of whoever looks at it.
fn plain(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if is_plain(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// Neither a control character nor one that is invisible or turns the direction of what stands around it.
pub(crate) fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// As much of an address as is recorded: an IPv4 /24, an IPv6 /48.
pub(crate) fn prefix(address: IpAddr) -> String {
    let address = address.to_canonical();
    let length = if address.is_ipv4() { 24 } else { 48 };
    // The lengths fit the families.
    ipnet::IpNet::new(address, length).map_or_else(|_| String::new(), |net| net.trunc().to_string())
}

/// Why something is not on record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}: {error}", path.display())]
    Anchor { path: PathBuf, error: std::io::Error },
    /// Only a row that somebody else wrote has such an id.
    #[error("no id is left after row {0}")]
    Full(i64),
    #[error("the task that writes it ended")]
    Ended,
}

/// The audit log of this hub.
#[derive(Clone)]
pub(crate) struct Audit(Arc<Log>);

struct Log {
    store: Arc<dyn Store>,
    key: ChainKey,
    clock: Clock,
    anchor: PathBuf,
    /// Where rows are written, so that none is left half way when whoever waits for it goes.
    tasks: TaskTracker,
    /// The newest row; none while nobody knows. Whoever adds a row holds it.
    head: Mutex<Option<AuditHead>>,
    /// Held by who looks at all rows, taken whole by who removes some.
    pruning: RwLock<()>,
}

impl Audit {
    /// Takes up the log where it ends. What is wrong there is logged and put on record.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        pepper: &Pepper,
        clock: Clock,
        data: &Path,
        tasks: TaskTracker,
    ) -> Result<Audit, Failure> {
        let log = Log {
            store,
            key: key(pepper),
            clock,
            anchor: data.join(ANCHOR),
            tasks,
            head: Mutex::default(),
            pruning: RwLock::default(),
        };
        let head = log.find_head().await?;
        *log.head.lock().await = Some(head);
        Ok(Audit(Arc::new(log)))
    }

    /// Puts on record what is about to be done, or what came of it, and answers the row's id. When this fails it must
    /// not be done: the problem is what to answer. It costs a commit and a small file, one after the other with all
    /// others that are recorded.
    pub(crate) async fn record(&self, record: Record) -> Result<i64, Problem> {
        let action = record.action;
        self.write(record).await.map_err(|error| {
            tracing::error!(action, %error, "writing the audit log failed");
            Problem::busy(
                "the audit log cannot be written, and nothing is done that is not on record; the hub's log says why",
            )
        })
    }

    /// The same, for what is no request.
    pub(crate) async fn write(&self, record: Record) -> Result<i64, Failure> {
        let log = self.0.clone();
        let writing = self.0.tasks.spawn(async move { log.append(record).await });
        writing.await.unwrap_or(Err(Failure::Ended))
    }

    /// Removes up to `limit` of the oldest rows, as far as they are older than `before_ms`, and puts that on record.
    /// Answers how many; 0 when there are none. Rows behind a younger one stay, whatever their own time is.
    pub(crate) async fn prune(&self, before_ms: u64, limit: u32) -> Result<u64, Failure> {
        let log = self.0.clone();
        let pruning = self.0.tasks.spawn(async move { log.prune(before_ms, limit).await });
        pruning.await.unwrap_or(Err(Failure::Ended))
    }

    /// Looks at all rows.
    pub(crate) async fn verify(&self) -> Result<Verdict, Failure> {
        let log = &self.0;
        let _nothing_is_pruned = log.pruning.read().await;
        let anchor = {
            let _nothing_is_added = log.head.lock().await;
            read_anchor(&log.anchor)?
        };
        let mut walk = Walk::new(&log.key, anchor);
        let mut after = 0;
        loop {
            let rows = log.store.audit_rows(after, BATCH).await?;
            rows.iter().for_each(|row| walk.step(row));
            match rows.last() {
                Some(last) if rows.len() == BATCH as usize => after = last.id,
                _ => return Ok(walk.end()),
            }
        }
    }
}

/// Looks at all rows of a data directory, whether a hub runs on it or not. Changes nothing.
pub(crate) async fn verify_directory(data: &Path) -> anyhow::Result<Verdict> {
    let (database, pepper) = (data.join("tomada.db"), data.join("pepper"));
    for file in [&database, &pepper] {
        anyhow::ensure!(file.exists(), "{} is missing: say with --data where a hub lives", file.display());
    }
    let key = key(&Pepper::open(&pepper)?);
    // First the anchor: rows that come after it are no harm.
    let mut walk = Walk::new(&key, read_anchor(&data.join(ANCHOR))?);
    let mut snapshot = Snapshot::open(&database).await?;
    anyhow::ensure!(
        snapshot.has_log().await?,
        "{} is of a version without an audit log: start this version on it once",
        database.display()
    );
    let mut after = 0;
    loop {
        let rows = snapshot.rows(after, BATCH).await?;
        rows.iter().for_each(|row| walk.step(row));
        match rows.last() {
            Some(last) if rows.len() == BATCH as usize => after = last.id,
            _ => return Ok(walk.end()),
        }
    }
}

fn key(pepper: &Pepper) -> ChainKey {
    ChainKey::new(pepper.derive(KEY_LABEL))
}

impl Log {
    async fn append(&self, record: Record) -> Result<i64, Failure> {
        let mut head = self.head.lock().await;
        // Until it is certain what stands at the end, nobody knows.
        let after = match head.take() {
            Some(after) => after,
            None => self.find_head().await?,
        };
        let row = self.row(&after, record)?;
        let row = match self.store.append_audit(&after, &row).await {
            // Somebody else has been at the database. That is put on record first.
            Err(StoreError::Conflict(_)) => {
                let after = self.find_head().await?;
                let row = AuditRow { id: next_id(after.id)?, ..row };
                let row = self.key.link(row.id, &after, row.entry);
                self.store.append_audit(&after, &row).await?;
                row
            }
            done => done.map(|()| row)?,
        };
        let new = AuditHead { id: row.id, hash: row.hash };
        self.write_anchor(&new)?;
        *head = Some(new);
        Ok(row.id)
    }

    fn row(&self, after: &AuditHead, record: Record) -> Result<AuditRow, Failure> {
        Ok(self.key.link(next_id(after.id)?, after, record.entry(self.clock.now_ms())))
    }

    /// Where the next row goes. When what is there is not what was known, a row that says so is added first.
    async fn find_head(&self) -> Result<AuditHead, Failure> {
        let last = self.store.audit_head().await?;
        let (known, why) = match read_anchor(&self.anchor)? {
            Ok(known) => match self.difference(&known, &last).await? {
                None => return Ok(last),
                Some(why) => (known.id, why),
            },
            Err(_) if last == AuditHead::start() => {
                // From now on there is one, so that a missing one means something.
                self.write_anchor(&last)?;
                return Ok(last);
            }
            Err(why) => (0, format!("audit.head {why}, so nobody can tell whether newer rows were cut off")),
        };
        tracing::error!(detail = why, "the audit log is not as this hub left it; it goes on behind a row that says so");
        let details = json!({ "why": why, "known": known, "found": last.id });
        let entry = Record::of_hub(GAP, "audit", details).entry(self.clock.now_ms());
        let row = self.key.link(next_id(last.id.max(known))?, &last, entry);
        self.store.append_audit(&last, &row).await?;
        let head = AuditHead { id: row.id, hash: row.hash };
        self.write_anchor(&head)?;
        Ok(head)
    }

    /// What is wrong with the end of the log, as far as the anchor can tell.
    async fn difference(&self, known: &AuditHead, last: &AuditHead) -> Result<Option<String>, Failure> {
        if last.id < known.id {
            return Ok(Some(format!("it ends with row {}, and row {} was on record", last.id, known.id)));
        }
        if last.id == known.id {
            let why = || format!("row {} is another than the one that was on record", known.id);
            return Ok((last.hash != known.hash).then(why));
        }
        // The hub ended between a commit and its anchor: such rows are its own.
        let mut previous = known.clone();
        while previous.id < last.id {
            let rows = self.store.audit_rows(previous.id, BATCH).await?;
            for row in &rows {
                if let Some(why) = self.key.objection(&previous, row) {
                    return Ok(Some(format!("row {} {why}", row.id)));
                }
                previous = AuditHead { id: row.id, hash: row.hash.clone() };
            }
            if rows.is_empty() {
                break;
            }
        }
        Ok(None)
    }

    async fn prune(&self, before_ms: u64, limit: u32) -> Result<u64, Failure> {
        let _nobody_looks = self.pruning.write().await;
        let oldest = self.store.audit_rows(0, limit.clamp(1, BATCH)).await?;
        let old = oldest.iter().take_while(|row| row.entry.at_ms < before_ms);
        let Some(last) = old.last() else { return Ok(0) };
        let last = AuditHead { id: last.id, hash: last.hash.clone() };
        let record = Record::of_hub(PRUNE, "audit", chain::pruned(&last));
        let mut head = self.head.lock().await;
        let after = match head.take() {
            Some(after) => after,
            None => self.find_head().await?,
        };
        let row = self.row(&after, record)?;
        let removed = self.store.prune_audit(&after, &row, last.id).await?;
        let new = AuditHead { id: row.id, hash: row.hash };
        self.write_anchor(&new)?;
        *head = Some(new);
        Ok(removed)
    }

    fn write_anchor(&self, head: &AuditHead) -> Result<(), Failure> {
        let text = json!({ "id": head.id, "hash": hex::encode(&head.hash) }).to_string();
        block_in_place(|| write_private(&self.anchor, text.as_bytes()))
            .map_err(|error| Failure::Anchor { path: self.anchor.clone(), error })
    }
}

fn next_id(last: i64) -> Result<i64, Failure> {
    last.checked_add(1).ok_or(Failure::Full(last))
}

fn read_anchor(path: &Path) -> Result<Anchor, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let read = || {
                let said: Value = serde_json::from_slice(&bytes).ok()?;
                let id = said["id"].as_i64().filter(|id| *id >= 0)?;
                Some(AuditHead { id, hash: hex::decode(said["hash"].as_str()?).ok()? })
            };
            Ok(read().ok_or("is damaged"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Err("is missing")),
        Err(error) => Err(Failure::Anchor { path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Keyring;
    use crate::store::SqlStore;
    use crate::store::rows::AuditFilter;
    use std::time::Duration;
    use tempfile::TempDir;

    struct Place {
        directory: TempDir,
        clock: Clock,
    }

    impl Place {
        fn new() -> Place {
            Place { directory: TempDir::new().unwrap(), clock: Clock::manual(1_000_000) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn ring(&self) -> Arc<Keyring> {
            Arc::new(Keyring::open(&self.path("keyring"), 1).unwrap())
        }

        async fn open(&self) -> Audit {
            let store: Arc<dyn Store> = Arc::new(SqlStore::sqlite(&self.path("tomada.db"), self.ring()).await.unwrap());
            let pepper = Pepper::open(&self.path("pepper")).unwrap();
            let tasks = TaskTracker::new();
            Audit::open(store, &pepper, self.clock.clone(), self.directory.path(), tasks).await.unwrap()
        }
    }

    fn read(number: u32) -> Record {
        Record::of_hub("payload.read", format!("evt_{number}"), json!({}))
    }

    async fn actions(audit: &Audit) -> Vec<String> {
        let filter = AuditFilter { limit: 1000, ..AuditFilter::default() };
        audit.0.store.audit_log(&filter).await.unwrap().into_iter().map(|row| row.entry.action).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_that_are_written_at_once_make_one_chain() {
        let place = Place::new();
        let audit = place.open().await;
        let all = (0..50).map(|number| audit.write(read(number)));
        let mut ids: Vec<i64> = futures_util::future::join_all(all).await.into_iter().map(|id| id.unwrap()).collect();
        ids.sort();
        assert_eq!(ids, (1..=50).collect::<Vec<_>>());
        let verdict = audit.verify().await.unwrap();
        assert_eq!((verdict.ok, verdict.rows), (true, 50), "{verdict:?}");
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(place.path(ANCHOR)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    /// Whoever asked may go: the row and its anchor are written all the same.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_does_not_wait_leaves_nothing_half_done() {
        let place = Place::new();
        let audit = place.open().await;
        for number in 0..20 {
            let writing = audit.write(read(number));
            tokio::select! { biased; _ = writing => {}, () = std::future::ready(()) => {} }
        }
        audit.write(read(20)).await.unwrap();
        let verdict = audit.verify().await.unwrap();
        assert_eq!((verdict.ok, verdict.rows), (true, 21), "{verdict:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_pruned_leaves_a_chain_that_can_be_verified() {
        let place = Place::new();
        let audit = place.open().await;
        for number in 0..10 {
            audit.write(read(number)).await.unwrap();
            place.clock.advance(Duration::from_millis(10));
        }
        // Rows 1 to 6 are older than 60 ms after the beginning.
        let before = 1_000_060;
        assert_eq!(audit.prune(1_000_000, 100).await.unwrap(), 0, "nothing is so old");
        assert_eq!(audit.prune(before, 4).await.unwrap(), 4);
        assert_eq!(audit.prune(before, 4).await.unwrap(), 2);
        assert_eq!(audit.prune(before, 4).await.unwrap(), 0);
        let whole = |verdict: &Verdict| (verdict.ok, verdict.rows, verdict.first, verdict.last);
        // Four reads, and two records of pruning.
        assert_eq!(whole(&audit.verify().await.unwrap()), (true, 6, Some(7), Some(12)));
        assert_eq!(whole(&verify_directory(place.directory.path()).await.unwrap()), (true, 6, Some(7), Some(12)));
        // Everything, and the records before: the last one stays, and the chain goes on behind it.
        place.clock.advance(Duration::from_secs(1));
        assert_eq!(audit.prune(u64::MAX, 100).await.unwrap(), 6);
        audit.write(read(11)).await.unwrap();
        assert_eq!(whole(&audit.verify().await.unwrap()), (true, 2, Some(13), Some(14)));
        assert_eq!(actions(&audit).await, ["payload.read", "audit.prune"]);
        drop(audit);
        let audit = place.open().await;
        assert_eq!(whole(&audit.verify().await.unwrap()), (true, 2, Some(13), Some(14)));

        // One more than on record goes by another hand.
        let database = rusqlite::Connection::open(place.path("tomada.db")).unwrap();
        database.execute("delete from audit_log where id = 13", []).unwrap();
        let verdict = audit.verify().await.unwrap();
        assert_eq!(verdict.broken[0].id, 14, "{verdict:?}");
    }

    /// The hub ends between a commit and its anchor.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_anchor_that_lags_behind_catches_up() {
        let place = Place::new();
        let audit = place.open().await;
        audit.write(read(1)).await.unwrap();
        let behind = std::fs::read(place.path(ANCHOR)).unwrap();
        audit.write(read(2)).await.unwrap();
        drop(audit);
        std::fs::write(place.path(ANCHOR), behind).unwrap();
        assert!(verify_directory(place.directory.path()).await.unwrap().ok);
        let audit = place.open().await;
        audit.write(read(3)).await.unwrap();
        let verdict = audit.verify().await.unwrap();
        assert_eq!((verdict.ok, verdict.rows), (true, 3), "{verdict:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_cut_off_or_put_on_is_said_in_the_log_for_good() {
        let place = Place::new();
        let audit = place.open().await;
        for number in 0..5 {
            audit.write(read(number)).await.unwrap();
        }
        // While it runs: the next row finds another end than the one that was known.
        let database = rusqlite::Connection::open(place.path("tomada.db")).unwrap();
        database.execute("delete from audit_log where id > 3", []).unwrap();
        assert_eq!(audit.verify().await.unwrap().broken[0].id, 4);
        assert_eq!(audit.write(read(6)).await.unwrap(), 7, "behind the row that notes it");
        database
            .execute(
                "insert into audit_log select 8, at, actor, address, action, object, reason, details, hash, hash \
                 from audit_log where id = 7",
                [],
            )
            .unwrap();
        assert_eq!(audit.write(read(7)).await.unwrap(), 10);
        let broken = |verdict: Verdict| verdict.broken.into_iter().map(|broken| broken.id).collect::<Vec<_>>();
        assert_eq!(broken(audit.verify().await.unwrap()), [6, 8, 9]);
        drop(audit);
        // While it does not: without the anchor, and with what no anchor looks like.
        std::fs::remove_file(place.path(ANCHOR)).unwrap();
        let audit = place.open().await;
        assert_eq!(broken(audit.verify().await.unwrap()), [6, 8, 9, 11]);
        drop(audit);
        std::fs::write(place.path(ANCHOR), "{}").unwrap();
        let audit = place.open().await;
        assert_eq!(broken(audit.verify().await.unwrap()), [6, 8, 9, 11, 12]);
        drop(audit);
        assert_eq!(broken(verify_directory(place.directory.path()).await.unwrap()), [6, 8, 9, 11, 12]);
        // Nothing of what was noted is noted again.
        assert_eq!(broken(place.open().await.verify().await.unwrap()), [6, 8, 9, 11, 12]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_has_no_anchor_is_not_on_record() {
        let place = Place::new();
        let audit = place.open().await;
        // Nothing can be written where a directory stands.
        std::fs::create_dir(place.path("audit.new")).unwrap();
        assert!(matches!(audit.write(read(1)).await, Err(Failure::Anchor { .. })));
        std::fs::remove_dir(place.path("audit.new")).unwrap();
        audit.write(read(2)).await.unwrap();
        let verdict = audit.verify().await.unwrap();
        assert_eq!((verdict.ok, verdict.rows), (true, 2), "{verdict:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_row_is_never_another() {
        let place = Place::new();
        let audit = place.open().await;
        audit.write(read(1)).await.unwrap();
        let database = rusqlite::Connection::open(place.path("tomada.db")).unwrap();
        let refused = database.execute("update audit_log set object = 'evt_2'", []).unwrap_err();
        assert!(refused.to_string().contains("never changed"), "{refused}");
        // Not UTF-8, and a negative id, neither of which the hub writes.
        let sql =
            "insert into audit_log values (?, 1, 'hub', null, 'x', cast(x'ff' as text), null, '{}', x'00', x'00')";
        database.execute(sql, [2]).unwrap();
        database.execute(sql, [-1]).unwrap();
        let verdict = audit.verify().await.unwrap();
        assert_eq!((verdict.ok, verdict.broken[0].id, verdict.rows), (false, 2, 2));
        assert!(verify_directory(Path::new("nowhere")).await.unwrap_err().to_string().contains("is missing"));
    }

    #[test]
    fn what_is_recorded_is_bounded_and_plain() {
        for (address, recorded) in [
            ("203.0.113.77", "203.0.113.0/24"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
            ("::1", "::/48"),
        ] {
            assert_eq!(prefix(address.parse().unwrap()), recorded);
        }
        let object = format!("a\u{1b}[2J\u{202e}{}", "é".repeat(500));
        let entry = Record::of_hub("x", object, json!({ "long": "x".repeat(MAX_DETAILS) })).entry(0);
        assert!(entry.object.starts_with("a\u{fffd}[2J\u{fffd}é") && entry.object.chars().count() == MAX_TEXT);
        assert!(entry.details.starts_with("{\"left_out_bytes\":"), "{}", entry.details);
    }
}
