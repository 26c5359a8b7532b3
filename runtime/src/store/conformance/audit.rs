//! The audit log: a chain that grows at one end, and is cut at the other.

use super::*;

fn entry(text: &str) -> AuditEntry {
    AuditEntry {
        at_ms: START_MS,
        actor: "key-1".into(),
        address: None,
        action: "config.apply".into(),
        object: text.into(),
        reason: None,
        details: "{}".into(),
    }
}

fn row(after: &AuditHead, entry: AuditEntry) -> AuditRow {
    AuditRow { id: after.id + 1, entry, previous_hash: after.hash.clone(), hash: random_bytes::<32>().to_vec() }
}

/// Adds rows. Answers all that were added.
async fn append(bench: &Bench, entries: Vec<AuditEntry>) -> Vec<AuditRow> {
    let mut rows = Vec::new();
    for entry in entries {
        let head = bench.store.audit_head().await.expect("a head");
        let row = row(&head, entry);
        bench.store.append_audit(&head, &row).await.expect("it follows");
        rows.push(row);
    }
    rows
}

pub(super) async fn rows_are_kept_as_they_are_and_in_order(bench: &Bench) {
    assert_eq!(bench.store.audit_head().await.unwrap(), AuditHead::start());
    let mut entries: Vec<AuditEntry> = TEXTS
        .iter()
        .map(|text| AuditEntry {
            address: Some((*text).into()),
            reason: Some((*text).into()),
            details: serde_json::json!({ "objects": [text] }).to_string(),
            ..entry(text)
        })
        .collect();
    entries.push(AuditEntry { at_ms: 0, actor: "hub".into(), ..entry("") });
    let rows = append(bench, entries).await;
    let last = rows.last().unwrap();
    assert_eq!(last.id, TEXTS.len() as i64 + 1);
    assert_eq!(bench.store.audit_head().await.unwrap(), AuditHead { id: last.id, hash: last.hash.clone() });
    assert_eq!(bench.store.audit_rows(0, 100).await.unwrap(), rows);
    assert_eq!(bench.store.audit_rows(2, 3).await.unwrap(), rows[2..5]);
    assert!(bench.store.audit_rows(last.id, 100).await.unwrap().is_empty());
}

pub(super) async fn what_does_not_follow_is_refused(bench: &Bench) {
    let start = AuditHead::start();
    let rows = append(bench, vec![entry("a"), entry("b")]).await;
    let head = bench.store.audit_head().await.unwrap();
    let wrong = [
        start,
        AuditHead { id: rows[0].id, hash: rows[0].hash.clone() },
        AuditHead { id: head.id, hash: rows[0].hash.clone() },
        AuditHead { id: head.id + 1, hash: head.hash.clone() },
    ];
    for after in wrong {
        assert_conflict(bench.store.append_audit(&after, &row(&after, entry("c"))).await);
        assert_conflict(bench.store.prune_audit(&after, &row(&after, entry("c")), head.id).await);
    }
    assert_eq!(bench.store.audit_rows(0, 100).await.unwrap(), rows);
}

pub(super) async fn old_rows_go_with_a_row_that_says_so(bench: &Bench) {
    let rows = append(bench, ["a", "b", "c", "d"].map(entry).to_vec()).await;
    let head = bench.store.audit_head().await.unwrap();
    let pruned = row(&head, entry("pruned"));
    assert_eq!(bench.store.prune_audit(&head, &pruned, 2).await.unwrap(), 2);
    let left = bench.store.audit_rows(0, 100).await.unwrap();
    assert_eq!(left, [rows[2].clone(), rows[3].clone(), pruned.clone()]);
    let head = AuditHead { id: pruned.id, hash: pruned.hash };
    assert_eq!(bench.store.audit_head().await.unwrap(), head);
    // Nothing is left that old: the row is added all the same.
    let again = row(&head, entry("again"));
    assert_eq!(bench.store.prune_audit(&head, &again, 2).await.unwrap(), 0);
    assert_eq!(bench.store.audit_head().await.unwrap().id, 6);
    assert_eq!(bench.store.audit_rows(0, 100).await.unwrap().len(), 4);
}

pub(super) async fn the_log_is_listed_by_each_filter(bench: &Bench) {
    let by = |actor: &str, action: &str, object: &str, details: &str| AuditEntry {
        actor: actor.into(),
        action: action.into(),
        details: details.into(),
        ..entry(object)
    };
    append(
        bench,
        vec![
            by("key-1", "config.apply", "apply", r#"{"changes":["endpoint:crm","source:a\"b"]}"#),
            by("key-2", "endpoint.pause", "endpoint:crm", "{}"),
            by("key-1", "endpoint.pause", "endpoint:erp", r#"{"note":"endpoint:crm is not this"}"#),
            by("Key-1", "endpoint.pause", "endpoint:CRM", "{}"),
            by("key-11", "endpoint.resume", "endpoint:crm-2", r#"{"objects":["100%","endpoint_crm"]}"#),
        ],
    )
    .await;
    let list = async |filter| {
        let rows = bench.store.audit_log(&filter).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let all = || AuditFilter { limit: 100, ..Default::default() };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(list(all()).await, [5, 4, 3, 2, 1]);
    assert_eq!(list(AuditFilter { limit: 2, ..all() }).await, [5, 4]);
    assert_eq!(list(AuditFilter { before: Some(3), ..all() }).await, [2, 1]);
    assert_eq!(list(AuditFilter { actor: some("key-1"), ..all() }).await, [3, 1]);
    assert_eq!(list(AuditFilter { action: some("endpoint.pause"), ..all() }).await, [4, 3, 2]);
    assert_eq!(list(AuditFilter { action: some("Endpoint.pause"), ..all() }).await, [0; 0]);
    assert_eq!(
        list(AuditFilter { object: some("endpoint:crm"), ..all() }).await,
        [2, 1],
        "as a whole word of the details"
    );
    assert_eq!(list(AuditFilter { object: some("endpoint:crm-2"), ..all() }).await, [5]);
    assert_eq!(list(AuditFilter { object: some("100%"), ..all() }).await, [5]);
    assert_eq!(list(AuditFilter { object: some("endpoint%"), ..all() }).await, [0; 0], "no pattern");
    assert_eq!(list(AuditFilter { object: some("it's"), ..all() }).await, [0; 0]);
    let together = AuditFilter { actor: some("key-1"), action: some("endpoint.pause"), before: Some(5), ..all() };
    assert_eq!(list(together).await, [3]);
}

/// Of two that follow the same row one is refused, and the chain has no branch.
pub(super) async fn at_the_same_time_one_follows(bench: &Bench) {
    let (store, _) = bench.other().await;
    for round in 0..10 {
        let head = bench.store.audit_head().await.unwrap();
        let rows = ["one", "other"].map(|text| row(&head, entry(text)));
        let (one, other) = if round % 2 == 0 {
            tokio::join!(bench.store.append_audit(&head, &rows[0]), store.append_audit(&head, &rows[1]))
        } else {
            let prune = async { store.prune_audit(&head, &rows[1], head.id - 1).await.map(drop) };
            tokio::join!(bench.store.append_audit(&head, &rows[0]), prune)
        };
        let (won, lost) = if one.is_ok() { (0, other) } else { (1, one) };
        assert_conflict(lost);
        let now = bench.store.audit_head().await.unwrap();
        assert_eq!((now.id, &now.hash), (head.id + 1, &rows[won].hash));
    }
}
