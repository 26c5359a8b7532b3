//! What is other in one JSON value than in another, by JSON pointer (RFC 6901). Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

/// Changes that are told; the rest is counted.
const MAX_TOLD: usize = 200;

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Change {
    /// Empty for the whole value.
    path: String,
    /// Absent when there was nothing here, which is other than null.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) told: Vec<Change>,
    pub(super) left_out: usize,
}

/// Objects are compared key by key, in the order of the keys, and lists place by place; everything else as a whole.
pub(super) fn between(before: &Value, after: &Value) -> Changes {
    let mut changes = Changes::default();
    compare(&mut String::new(), Some(before), Some(after), &mut changes);
    changes
}

fn compare(path: &mut String, before: Option<&Value>, after: Option<&Value>, into: &mut Changes) {
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let step = key.replace('~', "~0").replace('/', "~1");
                below(path, &step, before.get(key), after.get(key), into);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            for at in 0..before.len().max(after.len()) {
                below(path, &at.to_string(), before.get(at), after.get(at), into);
            }
        }
        _ if before == after => {}
        _ if into.told.len() == MAX_TOLD => into.left_out += 1,
        _ => into.told.push(Change { path: path.clone(), before: before.cloned(), after: after.cloned() }),
    }
}

fn below(path: &mut String, step: &str, before: Option<&Value>, after: Option<&Value>, into: &mut Changes) {
    let length = path.len();
    path.push('/');
    path.push_str(step);
    compare(path, before, after, into);
    path.truncate(length);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_told_by_its_pointer() {
        let cases = [
            (json!({}), json!({}), json!([])),
            (json!({"a": 1}), json!({"a": 1}), json!([])),
            (json!({"a": 1}), json!({"a": 2}), json!([{"path": "/a", "before": 1, "after": 2}])),
            (json!({"a": 1}), json!({"a": "1"}), json!([{"path": "/a", "before": 1, "after": "1"}])),
            (json!({"a": 1}), json!({"a": 1.0}), json!([{"path": "/a", "before": 1, "after": 1.0}])),
            // Nothing and null are two things.
            (json!({}), json!({"a": null}), json!([{"path": "/a", "after": null}])),
            (json!({"a": null}), json!({}), json!([{"path": "/a", "before": null}])),
            (json!({"a": null}), json!({"a": false}), json!([{"path": "/a", "before": null, "after": false}])),
            (
                json!({"b": {"x": 1, "y": [1, 2]}, "a": 0}),
                json!({"b": {"x": 2, "y": [1, 3, 4]}, "c": 0}),
                json!([
                    {"path": "/a", "before": 0},
                    {"path": "/b/x", "before": 1, "after": 2},
                    {"path": "/b/y/1", "before": 2, "after": 3},
                    {"path": "/b/y/2", "after": 4},
                    {"path": "/c", "after": 0},
                ]),
            ),
            (json!([1, 2]), json!([2]), json!([{"path": "/0", "before": 1, "after": 2}, {"path": "/1", "before": 2}])),
            (json!({"a": {}}), json!({"a": []}), json!([{"path": "/a", "before": {}, "after": []}])),
            (json!("x"), json!({"a": 1}), json!([{"path": "", "before": "x", "after": {"a": 1}}])),
            (
                json!({"a/b": {"": 1}, "m~n": 1}),
                json!({"a/b": {"": 2}, "m~n": 2}),
                json!([
                    {"path": "/a~1b/", "before": 1, "after": 2},
                    {"path": "/m~0n", "before": 1, "after": 2},
                ]),
            ),
        ];
        for (before, after, expected) in cases {
            let changes = between(&before, &after);
            assert_eq!(serde_json::to_value(&changes.told).unwrap(), expected, "{before} → {after}");
            assert_eq!(changes.left_out, 0, "{before} → {after}");
            for change in &changes.told {
                assert_eq!(before.pointer(&change.path), change.before.as_ref(), "{before}");
                assert_eq!(after.pointer(&change.path), change.after.as_ref(), "{after}");
            }
        }
    }

    #[test]
    fn many_changes_are_counted_and_the_first_told() {
        let before: Value = (0..MAX_TOLD + 7).collect();
        let changes = between(&before, &json!([]));
        assert_eq!((changes.told.len(), changes.left_out), (MAX_TOLD, 7));
        assert_eq!(changes.told[MAX_TOLD - 1].path, format!("/{}", MAX_TOLD - 1));
    }
}
