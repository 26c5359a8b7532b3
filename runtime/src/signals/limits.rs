//! Limits over all nodes: counted by Redis while it answers, else by each node for its share.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Signals, Weight};
use crate::keyring::Keyring;
use crate::limits::{ADDRESS, Caller, Limits, Prefix, Quota, Standing, is_local};

pub(crate) struct SharedLimits {
    /// This node's own count.
    own: Limits,
    signals: Arc<Signals>,
    ring: Arc<Keyring>,
}

impl SharedLimits {
    pub(crate) fn new(signals: Arc<Signals>, ring: Arc<Keyring>) -> SharedLimits {
        SharedLimits { own: Limits::default(), signals, ring }
    }

    /// Whether requests of an address are refused unseen, because too many before failed. Counts nothing.
    pub(crate) async fn refuses(&self, quota: Option<Quota>, address: IpAddr, now_ms: u64) -> Option<Standing> {
        let quota = quota.filter(|_| !is_local(address))?;
        match self.over_all(ADDRESS, &Prefix::of(address).bytes(), quota, Weight::Nothing).await {
            Some(standing) => standing.is_refused().then_some(standing),
            None => self.own.refuses(Some(self.share(quota)), address, now_ms),
        }
    }

    /// Counts a request of an address that did not prove who sent it.
    pub(crate) async fn failed(&self, quota: Option<Quota>, address: IpAddr, now_ms: u64) {
        let Some(quota) = quota.filter(|_| !is_local(address)) else { return };
        if self.over_all(ADDRESS, &Prefix::of(address).bytes(), quota, Weight::One).await.is_none() {
            self.own.failed(Some(self.share(quota)), address, now_ms);
        }
    }

    /// Counts a request of a known caller, unless it is refused.
    pub(crate) async fn take(&self, caller: Caller, quota: Quota, now_ms: u64) -> Standing {
        match self.over_all(caller.policy(), caller.id().as_bytes(), quota, Weight::One).await {
            Some(standing) => standing,
            None => self.own.take(caller, self.share(quota), now_ms),
        }
    }

    /// The subject's name in Redis says nothing to who reads it there.
    async fn over_all(&self, policy: &'static str, subject: &[u8], quota: Quota, weight: Weight) -> Option<Standing> {
        if !self.signals.is_up() {
            return None;
        }
        let name = hex::encode(self.ring.index("limit", &[policy.as_bytes(), subject]));
        self.signals.limit(&name, quota, weight).await.map(|standing| standing.under(policy))
    }

    fn share(&self, quota: Quota) -> Quota {
        quota.share(self.signals.nodes())
    }
}
