//! The key ring and the pepper beside the database, which have to fit it.

use std::path::Path;

use super::Finding;
use crate::keyring::{KeyId, Keyring};
use crate::keys::Pepper;
use crate::store::probe::NeededKeys;

/// Whether the files beside the database are there, and fit it. They are the same on all nodes of one database.
pub(super) fn keys(data: &Path, needed: Option<&NeededKeys>, is_shared: bool) -> Vec<Finding> {
    let is_used = needed.is_some_and(|needed| needed.ring.is_some());
    let (ring, pepper_file) = (data.join("keyring"), data.join("pepper"));
    vec![keyring(&ring, needed, is_used, is_shared), pepper(&pepper_file, needed, is_used, is_shared)]
}

fn absent(what: &'static str, path: &Path, is_used: bool, is_shared: bool) -> Finding {
    let path = path.display();
    if is_used {
        Finding::bad(
            what,
            format!("{path} is missing, and the database is in use: copy it from another node or a backup"),
        )
    } else if is_shared {
        let detail = "will be made at the first start: then copy it to the other nodes before they start";
        Finding::warning(what, format!("{path} {detail}"))
    } else {
        Finding::good(what, format!("{path} will be made at the first start"))
    }
}

fn keyring(path: &Path, needed: Option<&NeededKeys>, is_used: bool, is_shared: bool) -> Finding {
    let what = "keyring";
    if !path.exists() {
        return absent(what, path, is_used, is_shared);
    }
    let ring = match Keyring::open(path, 0) {
        Ok(ring) => ring,
        Err(error) => return Finding::bad(what, format!("{error:#}: copy it from another node or a backup")),
    };
    let shown = path.display();
    let Some(needed) = needed else { return Finding::good(what, format!("{shown} has {} keys", ring.keys().len())) };
    if needed.ring.as_ref().is_some_and(|of| of[..] != ring.fingerprint()) {
        let detail = format!("{shown} is another ring than the database's: copy that from another node or a backup");
        return Finding::bad(what, detail);
    }
    let has = |id: i64| ring.keys().iter().any(|key| i64::from(key.id.0) == id);
    let lacks: Vec<String> = needed
        .ids
        .iter()
        .filter(|id| !has(**id))
        .map(|id| u32::try_from(*id).map_or_else(|_| id.to_string(), |id| KeyId(id).to_string()))
        .collect();
    if !lacks.is_empty() {
        let detail =
            format!("{shown} lacks {}, which another ring of this database has: take the newest one", lacks.join(", "));
        return Finding::bad(what, detail);
    }
    Finding::good(what, format!("{shown} is the database's, with every key that is needed there"))
}

fn pepper(path: &Path, needed: Option<&NeededKeys>, is_used: bool, is_shared: bool) -> Finding {
    let what = "pepper";
    if !path.exists() {
        return absent(what, path, is_used, is_shared);
    }
    let pepper = match Pepper::open(path) {
        Ok(pepper) => pepper,
        Err(error) => return Finding::bad(what, format!("{error:#}: copy it from another node or a backup")),
    };
    let path = path.display();
    match needed.and_then(|needed| needed.pepper.as_ref()) {
        Some(of) if of[..] != pepper.fingerprint() => Finding::bad(
            what,
            format!(
                "{path} is not the one that the API keys there were made with: copy it from another node or a backup"
            ),
        ),
        Some(_) => Finding::good(what, format!("{path} is the database's")),
        None => Finding::good(what, format!("{path} is there, and has to be the same on all nodes")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn the_files_of_another_node_are_missed_and_those_of_another_database_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let state = |needed: Option<&NeededKeys>| {
            keys(folder.path(), needed, true).iter().map(|finding| finding.state).collect::<Vec<_>>()
        };
        let other = NeededKeys { ring: Some(vec![7; 32]), pepper: Some(vec![7; 32]), ids: Vec::new() };
        assert_eq!(state(None), [State::Warning, State::Warning], "a first node will make them");
        assert_eq!(state(Some(&other)), [State::Bad, State::Bad], "the database is in use");
        assert!(!folder.path().join("keyring").exists() && !folder.path().join("pepper").exists());

        let ring = Keyring::open(&folder.path().join("keyring"), 0).unwrap();
        let pepper = Pepper::open(&folder.path().join("pepper")).unwrap();
        assert_eq!(state(Some(&other)), [State::Bad, State::Bad], "another ring, another pepper");
        let active = i64::from(ring.active().0);
        let mut needed = NeededKeys {
            ring: Some(ring.fingerprint().to_vec()),
            pepper: Some(pepper.fingerprint().to_vec()),
            ids: vec![active],
        };
        assert_eq!(state(Some(&needed)), [State::Good, State::Good]);
        needed.ids.push(i64::from(ring.active().0 ^ 1));
        assert_eq!(state(Some(&needed)), [State::Bad, State::Good], "an older copy of the ring");
    }
}
