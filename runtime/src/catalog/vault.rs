//! What references to secrets stand for: values from the environment, from files, and those that the hub keeps itself,
//! which have versions so that they can be changed without a gap.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::config::{self, Auth, Secret, SecretRef};
use crate::store::rows::SecretRow;

/// The secrets that the hub keeps: versions by name, oldest first.
pub(super) struct Vault(BTreeMap<String, Vec<SecretRow>>);

/// A secret of an endpoint. Its value goes nowhere but to the hosts that it is bound to.
pub(crate) struct Lent {
    value: Zeroizing<Vec<u8>>,
    /// It counts no longer after that.
    not_after_ms: Option<u64>,
}

impl Lent {
    /// Nothing, when its time is over.
    pub(crate) fn at(&self, now_ms: u64) -> Option<&[u8]> {
        self.not_after_ms.is_none_or(|until| now_ms <= until).then_some(&self.value)
    }
}

impl Vault {
    pub(super) fn new(rows: Vec<SecretRow>) -> Vault {
        let mut versions: BTreeMap<String, Vec<SecretRow>> = BTreeMap::new();
        for row in rows {
            versions.entry(row.name.clone()).or_default().push(row);
        }
        Vault(versions)
    }

    /// The value now. The error is one sentence for the operator and repeats the reference only.
    pub(super) fn value(&self, reference: &SecretRef) -> Result<Zeroizing<Vec<u8>>, String> {
        let absent = || format!("there is no {}: make it with `tomada secrets set`", reference.0);
        match self.lend(reference) {
            Some(lent) => lent?.ok_or_else(absent).map(|lent| lent.value),
            // `apply` has made paths absolute, so what is left to resolve against is the working directory.
            None => config::resolve(reference, Path::new("")).map(Zeroizing::new),
        }
    }

    /// For an endpoint. None where the version before is meant and there is none.
    pub(super) fn of_endpoint(&self, reference: &SecretRef) -> Result<Option<Lent>, String> {
        match self.lend(reference) {
            Some(lent) => lent,
            None => Ok(Some(Lent { value: self.value(reference)?, not_after_ms: None })),
        }
    }

    /// None when the reference is not to a stored secret.
    fn lend(&self, reference: &SecretRef) -> Option<Result<Option<Lent>, String>> {
        let (name, previous) = reference.stored()?;
        let (name, number) = name.split_once(VERSION).map_or((name, None), |(name, number)| (name, Some(number)));
        let versions = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        let found = match number {
            Some(number) => versions.iter().find(|version| version.version.to_string() == number),
            None => versions.iter().rev().nth(usize::from(previous)),
        };
        Some(match found {
            Some(row) => match &row.value {
                Some(value) => Ok(Some(Lent { value: value.clone(), not_after_ms: row.not_after_ms })),
                None => Err(format!("{} cannot be opened: was its row or the key ring changed?", reference.0)),
            },
            None if previous && !versions.is_empty() => Ok(None),
            None => Err(format!("there is no {}: make it with `tomada secrets set {name}`", reference.0)),
        })
    }

    /// Of a stored secret each version that still counts, with its dates, so that both sides of a change are let in.
    pub(super) fn expand(&self, auth: &Auth) -> Auth {
        let mut auth = auth.clone();
        let secrets = auth.secrets_mut();
        *secrets = std::mem::take(secrets).into_iter().flat_map(|secret| self.versions(secret)).collect();
        auth
    }

    fn versions(&self, secret: Secret) -> Vec<Secret> {
        let versions = secret.reference.stored().and_then(|(name, previous)| {
            let versions = self.0.get(name).filter(|_| !previous)?;
            let of = |row: &SecretRow| {
                let until = row.not_after_ms.and_then(|ms| Timestamp::from_millisecond(ms as i64).ok());
                Secret {
                    reference: version_of(name, row.version),
                    not_before: secret.not_before,
                    not_after: match (secret.not_after, until) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    },
                }
            };
            Some(versions.iter().rev().map(of).collect())
        });
        versions.unwrap_or_else(|| vec![secret])
    }
}

/// How one version of a stored secret is referred to inside the hub.
pub(crate) fn version_of(name: &str, version: i64) -> SecretRef {
    SecretRef(format!("stored:{name}{VERSION}{version}"))
}

/// What stands between name and version inside the hub; a configuration cannot write it.
const VERSION: char = '#';
