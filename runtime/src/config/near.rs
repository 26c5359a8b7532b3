//! Did you mean …? The candidate that a mistyped word is nearest to.

/// `: did you mean "…"?`, or nothing when no candidate is near.
pub(super) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map(|name| format!(": did you mean \"{name}\"?")).unwrap_or_default()
}

/// Near is one edit in three characters: a letter too many, too few, another one, or two that changed places. A word
/// that was only begun is near too: units make our keys longer than their names.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    let begun = |candidate: &str| word.len() >= 3 && candidate.starts_with(word);
    let scored = candidates.into_iter().map(|candidate| {
        let edits = if begun(candidate) { 1 } else { distance(word, candidate) };
        (edits, candidate)
    });
    scored.filter(|(distance, _)| *distance <= limit).min().map(|(_, candidate)| candidate)
}

/// Optimal string alignment.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i.max(j)
            } else {
                let changed = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + changed);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let keys = ["secrets", "settings", "hosts", "retry"];
        for (word, meant) in [
            ("sercets", Some("secrets")),
            ("secret", Some("secrets")),
            ("host", Some("hosts")),
            ("setings", Some("settings")),
            ("retrys", Some("retry")),
            ("sett", Some("settings")),
            ("timeout", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
    }
}
