//! The chain of the audit log: what a row's hash covers, and what is wrong with a run of rows. Pure.
//!
//! A hash is HMAC-SHA256 over the row and the hash of the row before it. Its key is derived from the pepper, which lies
//! outside the database: whoever has only that can neither write a row nor change one.

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::store::rows::{AuditEntry, AuditHead, AuditRow};

/// Rows were there that are no more, or are others than they were: the hub says so where it goes on.
pub(super) const GAP: &str = "audit.gap";
/// Rows were removed at the old end because of their age.
pub(super) const PRUNE: &str = "audit.prune";
/// Names the form of the bytes that are hashed: another form gets another name.
const FORM: &[u8] = b"tomada-audit-1";
/// Broken rows that are named; the others are counted.
const MAX_NAMED: usize = 16;

pub(crate) struct ChainKey([u8; 32]);

impl ChainKey {
    pub(crate) fn new(key: [u8; 32]) -> ChainKey {
        ChainKey(key)
    }

    /// Each field with its length before it, so that no border between two can be moved.
    fn hash(&self, id: i64, entry: &AuditEntry, previous_hash: &[u8]) -> [u8; 32] {
        let AuditEntry { at_ms, actor, address, action, object, reason, details } = entry;
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        let mut field = |bytes: &[u8]| {
            mac.update(&(bytes.len() as u64).to_be_bytes());
            mac.update(bytes);
        };
        field(FORM);
        field(&id.to_be_bytes());
        field(&at_ms.to_be_bytes());
        field(actor.as_bytes());
        for optional in [address, reason] {
            // None is another thing than an empty text.
            field(&[u8::from(optional.is_some())]);
            field(optional.as_deref().unwrap_or_default().as_bytes());
        }
        field(action.as_bytes());
        field(object.as_bytes());
        field(details.as_bytes());
        field(previous_hash);
        mac.finalize().into_bytes().into()
    }

    /// Gives an entry its place: this id, after this row.
    pub(super) fn link(&self, id: i64, after: &AuditHead, entry: AuditEntry) -> AuditRow {
        let hash = self.hash(id, &entry, &after.hash).to_vec();
        AuditRow { id, entry, previous_hash: after.hash.clone(), hash }
    }

    fn wrote(&self, row: &AuditRow) -> bool {
        self.hash(row.id, &row.entry, &row.previous_hash)[..].ct_eq(&row.hash).into()
    }

    /// What is wrong with a row that should be the next one.
    pub(super) fn objection(&self, previous: &AuditHead, row: &AuditRow) -> Option<String> {
        if !self.wrote(row) {
            return Some("was changed, or was not written by this hub".into());
        }
        if let Some(missing) = missing(previous.id + 1, row.id) {
            return Some(format!("comes after a gap: {missing}"));
        }
        (row.previous_hash != previous.hash)
            .then(|| format!("does not follow row {}, which is another than it was", previous.id))
    }
}

/// In words, which rows from `from` on are not there before `until`.
fn missing(from: i64, until: i64) -> Option<String> {
    match until.saturating_sub(from) {
        ..1 => None,
        1 => Some(format!("row {from} is missing")),
        _ => Some(format!("rows {from} to {} are missing", until - 1)),
    }
}

/// What a record of pruning says: the last row that went.
pub(super) fn pruned(last: &AuditHead) -> Value {
    json!({ "through": last.id, "hash": hex::encode(&last.hash) })
}

/// What an anchor says, or in words why there is none.
pub(super) type Anchor = Result<AuditHead, &'static str>;

/// A row that is not as it was written, or that others are missing before; and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Broken {
    pub(crate) id: i64,
    pub(crate) why: String,
}

/// What a look at all rows found.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) ok: bool,
    pub(crate) rows: u64,
    /// The ids of the oldest and the newest row.
    pub(crate) first: Option<i64>,
    pub(crate) last: Option<i64>,
    /// The first of them, in their order.
    pub(crate) broken: Vec<Broken>,
    pub(crate) broken_rows: u64,
}

/// Looks at rows from the oldest to the newest.
pub(super) struct Walk<'k> {
    key: &'k ChainKey,
    anchor: Anchor,
    anchor_seen: bool,
    /// What the oldest row follows: it, and whether that is as it should be.
    begins_after: Option<AuditHead>,
    beginning_known: bool,
    previous: Option<AuditHead>,
    previous_good: bool,
    rows: u64,
    broken: Vec<Broken>,
    broken_rows: u64,
    last_broken: Option<i64>,
}

impl<'k> Walk<'k> {
    pub(super) fn new(key: &'k ChainKey, anchor: Anchor) -> Walk<'k> {
        Walk {
            key,
            anchor,
            anchor_seen: false,
            begins_after: None,
            beginning_known: false,
            previous: None,
            previous_good: true,
            rows: 0,
            broken: Vec::new(),
            broken_rows: 0,
            last_broken: None,
        }
    }

    pub(super) fn step(&mut self, row: &AuditRow) {
        self.rows += 1;
        let wrong = self.objection(row);
        self.previous_good = wrong.is_none();
        if let Some(why) = wrong {
            self.breaks(row.id, why);
        }
        if self.begins_after.is_none() {
            let begins_after = AuditHead { id: row.id - 1, hash: row.previous_hash.clone() };
            self.beginning_known = begins_after == AuditHead::start();
            self.begins_after = Some(begins_after);
        }
        // The newest record of pruning is never pruned itself.
        if row.entry.action == PRUNE
            && self.previous_good
            && let Some(begins_after) = &self.begins_after
            && serde_json::from_str(&row.entry.details).is_ok_and(|said: Value| said == pruned(begins_after))
        {
            self.beginning_known = true;
        }
        self.previous = Some(AuditHead { id: row.id, hash: row.hash.clone() });
    }

    fn objection(&mut self, row: &AuditRow) -> Option<String> {
        let known = self.anchor.as_ref().ok().filter(|known| known.id == row.id);
        self.anchor_seen |= known.is_some();
        let replaced = known.is_some_and(|known| known.hash != row.hash);
        let wrong = match &self.previous {
            _ if !self.key.wrote(row) => Some("was changed, or was not written by this hub".into()),
            // The row before was named already, and this one may well follow what stood there.
            Some(previous) if !self.previous_good => {
                missing(previous.id + 1, row.id).map(|missing| format!("comes after a gap: {missing}"))
            }
            Some(previous) => self.key.objection(previous, row),
            None => None,
        };
        let noted = || {
            let said: Value = serde_json::from_str(&row.entry.details).unwrap_or_default();
            format!("says that the log before it is not whole: {}", said["why"].as_str().unwrap_or_default())
        };
        wrong
            .or_else(|| (row.entry.action == GAP).then(noted))
            .or_else(|| replaced.then(|| "is another row than the one that audit.head knows".into()))
    }

    fn breaks(&mut self, id: i64, why: String) {
        // Once for each row, also when it is too late to be named.
        if self.last_broken == Some(id) || self.broken.iter().any(|broken| broken.id == id) {
            return;
        }
        self.last_broken = self.last_broken.max(Some(id));
        self.broken_rows += 1;
        // By their order, also what is only known at the end.
        let at = self.broken.partition_point(|broken| broken.id < id);
        self.broken.insert(at, Broken { id, why });
        self.broken.truncate(MAX_NAMED);
    }

    pub(super) fn end(mut self) -> Verdict {
        let first = self.begins_after.as_ref().map(|begins_after| begins_after.id + 1);
        let last = self.previous.as_ref().map(|previous| previous.id);
        if let Some(first) = first.filter(|_| !self.beginning_known) {
            let why = match missing(1, first) {
                Some(missing) => format!("{missing} before it, and no record says that they were pruned"),
                None => "is not the first row that there was".into(),
            };
            self.breaks(first, why);
        }
        match (&self.anchor, last) {
            (Err(_), None) => {}
            (Err(why), Some(last)) => {
                let why = format!("audit.head {why}, so nobody can tell whether newer rows were cut off");
                self.breaks(last, why);
            }
            (Ok(known), last) => {
                let known = known.clone();
                let last = last.unwrap_or(0);
                if known.id > last {
                    let why =
                        format!("the newest rows were cut off: audit.head knows row {} as the last one", known.id);
                    self.breaks(last + 1, why);
                } else if !self.anchor_seen
                    && known.id > 0
                    && self.begins_after.as_ref().is_some_and(|begins_after| known.id <= begins_after.id)
                    // It lies in what was pruned just before the hub ended.
                    && self.begins_after.as_ref() != Some(&known)
                {
                    let why = format!("audit.head knows row {} as the last one, which is older", known.id);
                    self.breaks(last, why);
                }
            }
        }
        Verdict {
            ok: self.broken_rows == 0,
            rows: self.rows,
            first,
            last,
            broken: self.broken,
            broken_rows: self.broken_rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ChainKey = ChainKey([7; 32]);

    fn entry(action: &str, details: Value) -> AuditEntry {
        AuditEntry {
            at_ms: 1,
            actor: "0123456789".into(),
            address: Some("127.0.0.0/24".into()),
            action: action.into(),
            object: "evt_1".into(),
            reason: None,
            details: details.to_string(),
        }
    }

    fn add(rows: &mut Vec<AuditRow>, action: &str, details: Value) {
        let after = rows.last().map_or_else(AuditHead::start, head);
        rows.push(KEY.link(after.id + 1, &after, entry(action, details)));
    }

    fn head(row: &AuditRow) -> AuditHead {
        AuditHead { id: row.id, hash: row.hash.clone() }
    }

    fn chain(length: usize) -> Vec<AuditRow> {
        let mut rows = Vec::new();
        (0..length).for_each(|number| add(&mut rows, "payload.read", json!({ "number": number })));
        rows
    }

    fn look(rows: &[AuditRow], anchor: Anchor) -> Verdict {
        let mut walk = Walk::new(&KEY, anchor);
        rows.iter().for_each(|row| walk.step(row));
        walk.end()
    }

    fn ids(verdict: &Verdict) -> Vec<i64> {
        verdict.broken.iter().map(|broken| broken.id).collect()
    }

    fn assert_broken(rows: &[AuditRow], anchor: Anchor, expected: &[(i64, &str)]) {
        let verdict = look(rows, anchor);
        assert!(!verdict.ok);
        assert_eq!(ids(&verdict), expected.iter().map(|(id, _)| *id).collect::<Vec<_>>(), "{verdict:?}");
        for (broken, (_, said)) in verdict.broken.iter().zip(expected) {
            assert!(broken.why.contains(said), "{broken:?} does not say {said:?}");
        }
    }

    #[test]
    fn a_chain_that_nobody_touched_is_whole() {
        let rows = chain(5);
        for anchor in [AuditHead::start(), head(&rows[2]), head(&rows[4])] {
            let verdict = look(&rows, Ok(anchor));
            assert_eq!(
                (verdict.ok, verdict.rows, verdict.first, verdict.last),
                (true, 5, Some(1), Some(5)),
                "{verdict:?}"
            );
        }
        assert!(look(&[], Ok(AuditHead::start())).ok);
        // A directory of an earlier version has neither rows nor an anchor.
        assert!(look(&[], Err("is missing")).ok);
    }

    #[test]
    fn every_field_counts() {
        let changes: &[fn(&mut AuditRow)] = &[
            |row| row.entry.at_ms += 1,
            |row| row.entry.actor.push('0'),
            |row| row.entry.address = None,
            |row| row.entry.address = Some(String::new()),
            |row| row.entry.action.push('s'),
            |row| row.entry.object = "evt_2".into(),
            |row| row.entry.reason = Some(String::new()),
            |row| row.entry.details = "{}".into(),
            |row| row.previous_hash[0] ^= 1,
            |row| row.hash[31] ^= 1,
            |row| row.hash.truncate(31),
            |row| row.hash.clear(),
            // A border moved between two fields.
            |row| {
                let last = row.entry.action.pop().unwrap();
                row.entry.object.insert(0, last);
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut rows = chain(5);
            let anchor = Ok(head(&rows[4]));
            change(&mut rows[2]);
            let verdict = look(&rows, anchor);
            assert_eq!(ids(&verdict), [3], "change {number}: {verdict:?}");
        }
    }

    #[test]
    fn rows_that_are_missing_moved_or_forged_are_named() {
        let whole = chain(6);
        let anchor = || Ok(head(&whole[5]));
        let without =
            |gone: &[i64]| -> Vec<AuditRow> { whole.iter().filter(|row| !gone.contains(&row.id)).cloned().collect() };
        assert_broken(&without(&[3]), anchor(), &[(4, "row 3 is missing")]);
        assert_broken(&without(&[3, 4]), anchor(), &[(5, "rows 3 to 4 are missing")]);
        assert_broken(&without(&[1]), anchor(), &[(2, "row 1 is missing before it, and no record")]);
        assert_broken(&without(&[5, 6]), anchor(), &[(5, "cut off: audit.head knows row 6")]);
        assert_broken(&[], anchor(), &[(1, "cut off")]);
        assert_broken(&whole, Err("is missing"), &[(6, "audit.head is missing")]);

        let mut moved = whole.clone();
        moved.swap(2, 3);
        (moved[2].id, moved[3].id) = (3, 4);
        assert_broken(&moved, anchor(), &[(3, "changed"), (4, "changed")]);
        // Renumbered so that no gap shows.
        let mut closed = without(&[3]);
        closed[2].id = 3;
        assert_eq!(look(&closed, anchor()).broken[0].id, 3);

        let mut forged = whole.clone();
        let other = ChainKey([8; 32]);
        forged.push(other.link(7, &head(&whole[5]), entry("payload.read", json!({}))));
        assert_broken(&forged, anchor(), &[(7, "not written by this hub")]);
        // The same rows with another end: what a copy brought back and went on with looks like.
        let mut forked = chain(5);
        add(&mut forked, "key.create", json!({}));
        assert_broken(&forked, anchor(), &[(6, "another row than the one that audit.head knows")]);
    }

    #[test]
    fn one_break_does_not_hide_the_next_and_many_are_counted() {
        let mut rows = chain(60);
        let anchor = Ok(head(&rows[59]));
        rows[1].entry.object.clear();
        rows[7].entry.object.clear();
        rows.remove(30);
        assert_eq!(ids(&look(&rows, anchor.clone())), [2, 8, 32]);
        rows.iter_mut().for_each(|row| row.entry.object.clear());
        for anchor in [anchor, Err("is missing")] {
            let verdict = look(&rows, anchor);
            assert_eq!((verdict.broken.len(), verdict.broken_rows), (MAX_NAMED, 59));
        }
    }

    #[test]
    fn what_was_pruned_has_to_be_on_record() {
        let mut rows = chain(5);
        let last_gone = head(&rows[2]);
        add(&mut rows, PRUNE, pruned(&last_gone));
        let anchor = || Ok(head(&rows[5]));
        let verdict = look(&rows[3..], anchor());
        assert_eq!((verdict.ok, verdict.first, verdict.last), (true, Some(4), Some(6)), "{verdict:?}");
        // More is gone than the record says, or less.
        assert_broken(&rows[4..], anchor(), &[(5, "no record says that they were pruned")]);
        assert_broken(&rows[1..], anchor(), &[(2, "no record says that they were pruned")]);
        // Nothing was taken away yet by the record: whoever brings the old rows back brings back the truth.
        assert!(look(&rows, anchor()).ok);
        // A record of somebody else is none.
        let mut forged = rows.clone();
        forged[5].hash[0] ^= 1;
        assert_eq!(ids(&look(&forged[3..], Ok(head(&forged[5])))), [4, 6]);
        // The hub ended between the commit and the anchor, and all that the anchor knows is gone.
        let mut rows = chain(3);
        let known = head(&rows[2]);
        add(&mut rows, PRUNE, pruned(&known));
        assert!(look(&rows[3..], Ok(known)).ok);
        assert_broken(&rows[3..], Ok(head(&rows[1])), &[(4, "which is older")]);
    }

    #[test]
    fn a_gap_that_the_hub_noted_stays_a_break() {
        let mut rows = chain(3);
        let entry = entry(GAP, json!({ "why": "the log ends with row 3 and row 9 was on record" }));
        rows.push(KEY.link(10, &head(&rows[2]), entry));
        assert_broken(&rows, Ok(head(&rows[3])), &[(10, "rows 4 to 9 are missing")]);
        let mut rows = chain(3);
        add(&mut rows, GAP, json!({ "why": "audit.head was missing" }));
        assert_broken(&rows, Ok(head(&rows[3])), &[(4, "audit.head was missing")]);
    }
}
