//! How often who may ask: the generic cell rate algorithm (ITU-T I.371, annex A, the "virtual scheduling" form), one
//! number per subject in the memory of this process. Pure: time is an argument.
//!
//! Before authentication only failures weigh, and by address prefix: who proves who they are pays nothing, so honest
//! neighbours behind one address pay for nobody's traffic but for the strangers' attempts among them. Once those are
//! too many, everything from the prefix is refused before its body is read, because telling one from the other is the
//! work that a flood is after. After authentication each request weighs, by API key or by source.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use ipnet::IpNet;

use crate::config::Rate;

/// Address prefixes that are remembered at the same time, in about 4 MiB. Beyond them a new address is not counted: a
/// sender that has so many addresses is not stopped by counting them, and must not lock out those that have one.
const MAX_ADDRESSES: usize = 65_536;
/// Keys and sources that are remembered at the same time. Both are the operator's own, so this is only reached by who
/// makes keys without end; those beyond are let through.
const MAX_CALLERS: usize = 65_536;
/// Milliseconds from one look for entries that are idle to the next, while there is room.
const SWEEP_MS: u64 = 60_000;
/// The same when there is none.
const FULL_SWEEP_MS: u64 = 1_000;

const NS_PER_US: u64 = 1_000;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// A rate, made ready. Each request takes `interval_ns` of a time budget of `burst` intervals, which grows back as time
/// passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    interval_ns: u64,
    burst: u64,
}

impl Quota {
    /// None when the rate is no limit.
    pub(crate) fn new(rate: Rate) -> Option<Quota> {
        let interval_ns = (60 * NS_PER_S).checked_div(rate.per_minute.into())?.max(1);
        Some(Quota { interval_ns, burst: rate.burst.max(1).into() })
    }

    /// What is asked for to see whether the count works: one a second.
    pub(crate) fn probe() -> Quota {
        Quota { interval_ns: NS_PER_S, burst: 1 }
    }

    /// One node's part, while nobody counts for all of them.
    pub(crate) fn share(self, nodes: u32) -> Quota {
        let nodes = u64::from(nodes.max(1));
        Quota { interval_ns: self.interval_ns * nodes, burst: (self.burst / nodes).max(1) }
    }

    fn budget_ns(self) -> u64 {
        self.interval_ns * self.burst
    }

    /// In whole microseconds, as Redis counts.
    pub(crate) fn interval_us(self) -> u64 {
        self.interval_ns.div_ceil(NS_PER_US)
    }

    pub(crate) fn budget_us(self) -> u64 {
        self.interval_us() * self.burst
    }

    /// What one more request means for a subject whose budget is spoken for so far ahead, counted in microseconds.
    pub(crate) fn standing(self, ahead_us: u64) -> Standing {
        let whole = Quota { interval_ns: self.interval_us() * NS_PER_US, ..self };
        whole.ask_ns(&mut (ahead_us.min(self.budget_us()) * NS_PER_US), 0)
    }

    fn ask(self, stored_ns: &mut u64, now_ms: u64) -> Standing {
        self.ask_ns(stored_ns, now_ms * NS_PER_MS)
    }

    /// What one more request at this time means. `stored_ns` is the time until which the subject's budget is spoken for
    /// (the "theoretical arrival time"); it moves when the request is let in.
    fn ask_ns(self, stored_ns: &mut u64, now_ns: u64) -> Standing {
        let end_ns = now_ns + self.budget_ns();
        // Never further ahead than a whole budget, so that a clock that was set back, or a smaller burst, locks nobody
        // out.
        *stored_ns = (*stored_ns).clamp(now_ns, end_ns);
        let next_ns = *stored_ns + self.interval_ns;
        if next_ns <= end_ns {
            *stored_ns = next_ns;
        }
        Standing {
            name: "",
            quota: self.burst,
            window_s: self.budget_ns().div_ceil(NS_PER_S),
            remaining: end_ns.saturating_sub(next_ns) / self.interval_ns,
            wait_s: next_ns.saturating_sub(end_ns).div_ceil(NS_PER_S),
            reset_s: (next_ns - now_ns).div_ceil(NS_PER_S),
        }
    }
}

/// How a subject stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Of the policy.
    pub(crate) name: &'static str,
    /// Requests per window.
    pub(crate) quota: u64,
    pub(crate) window_s: u64,
    /// Requests that would be let in at once.
    pub(crate) remaining: u64,
    /// 0 when the request is let in, else seconds, rounded up, until one will be.
    pub(crate) wait_s: u64,
    /// Seconds, rounded up, until the whole quota is there again.
    reset_s: u64,
}

impl Standing {
    /// By this policy.
    pub(crate) fn under(self, name: &'static str) -> Standing {
        Standing { name, ..self }
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.wait_s > 0
    }

    /// Seconds until there is more than now: until one is let in, or, of who is not refused, until all are.
    pub(crate) fn until_s(&self) -> u64 {
        if self.is_refused() { self.wait_s } else { self.reset_s }
    }
}

/// The name of the policy for addresses.
pub(crate) const ADDRESS: &str = "address";

/// Who is counted after authentication.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// The public id of an API key.
    Key(Box<str>),
    Source(Arc<str>),
}

impl Caller {
    /// The name of the policy.
    pub(crate) fn policy(&self) -> &'static str {
        match self {
            Caller::Key(_) => "api-key",
            Caller::Source(_) => "source",
        }
    }

    pub(crate) fn id(&self) -> &str {
        match self {
            Caller::Key(id) => id,
            Caller::Source(name) => name,
        }
    }
}

/// Of an address as much as one customer of a network usually has: all of IPv4's 32 bits, 64 of IPv6's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Prefix {
    V4(u32),
    V6(u64),
}

impl Prefix {
    pub(crate) fn of(address: IpAddr) -> Prefix {
        match address.to_canonical() {
            IpAddr::V4(address) => Prefix::V4(address.into()),
            IpAddr::V6(address) => Prefix::V6((u128::from(address) >> 64) as u64),
        }
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        match self {
            Prefix::V4(bits) => bits.to_be_bytes().to_vec(),
            Prefix::V6(bits) => bits.to_be_bytes().to_vec(),
        }
    }
}

/// The other end of a connection, which the listener notes with each request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Whether limits by address leave an address alone: this machine and private networks. What comes from there is our
/// own, or a proxy behind which everybody has the same address: to refuse that for one client's failures would refuse
/// all of them. A proxy that is configured as such says who is behind it.
pub(crate) fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_private() || address.is_link_local() || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || address == Ipv6Addr::UNSPECIFIED
        }
    }
}

/// Whether an address is one of a list of networks.
pub(crate) fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Who sent a request: the peer, or, while that is a proxy of ours, whom it names. `forwarded` are the values of
/// `X-Forwarded-For` in their order. What a client writes there itself stands left of what our proxy adds, so it is read
/// from the right, and only as far as proxies of ours go.
pub(crate) fn client<'f>(
    proxies: &[IpNet],
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'f str>,
) -> IpAddr {
    let mut address = peer.to_canonical();
    for hop in forwarded.rev().flat_map(|value| value.rsplit(',')) {
        if !is_in(proxies, address) {
            break;
        }
        let hop = hop.trim();
        let socket = || hop.parse::<std::net::SocketAddr>().map(|socket| socket.ip());
        let Ok(before) = hop.parse::<IpAddr>().or_else(|_| socket()) else { break };
        address = before.to_canonical();
    }
    address
}

/// What this process remembers of everybody.
#[derive(Default)]
pub(crate) struct Limits {
    addresses: Memory<Prefix>,
    callers: Memory<Caller>,
}

impl Limits {
    /// Whether requests of an address are refused unseen, because too many before failed. Counts nothing.
    pub(crate) fn refuses(&self, quota: Option<Quota>, address: IpAddr, now_ms: u64) -> Option<Standing> {
        let quota = quota.filter(|_| !is_local(address))?;
        let mut stored = self.addresses.entries.get_mut(&Prefix::of(address))?;
        let before = *stored;
        let standing = quota.ask(&mut stored, now_ms);
        if standing.is_refused() {
            return Some(standing.under(ADDRESS));
        }
        *stored = before;
        None
    }

    /// Counts a request of an address that did not prove who sent it.
    pub(crate) fn failed(&self, quota: Option<Quota>, address: IpAddr, now_ms: u64) {
        if let Some(quota) = quota.filter(|_| !is_local(address)) {
            self.addresses.count(Prefix::of(address), quota, MAX_ADDRESSES, now_ms);
        }
    }

    /// Counts a request of a known caller, unless it is refused.
    pub(crate) fn take(&self, caller: Caller, quota: Quota, now_ms: u64) -> Standing {
        let name = caller.policy();
        self.callers.count(caller, quota, MAX_CALLERS, now_ms).under(name)
    }
}

/// Until when the budget of each subject is spoken for, in nanoseconds since 1970. Who is not in it has a whole budget,
/// so an entry that lies in the past is worth nothing.
struct Memory<K: Eq + Hash> {
    entries: DashMap<K, u64>,
    swept_ms: AtomicU64,
}

impl<K: Eq + Hash> Default for Memory<K> {
    fn default() -> Self {
        Memory { entries: DashMap::new(), swept_ms: AtomicU64::new(0) }
    }
}

impl<K: Eq + Hash> Memory<K> {
    fn count(&self, subject: K, quota: Quota, most: usize, now_ms: u64) -> Standing {
        if let Some(mut stored) = self.entries.get_mut(&subject) {
            return quota.ask(&mut stored, now_ms);
        }
        self.sweep(most, now_ms);
        if self.entries.len() >= most {
            return quota.ask(&mut 0, now_ms);
        }
        quota.ask(&mut self.entries.entry(subject).or_insert(0), now_ms)
    }

    /// Forgets who has a whole budget again. Only one of those that come at the same time does it.
    fn sweep(&self, most: usize, now_ms: u64) {
        let swept_ms = self.swept_ms.load(Ordering::Relaxed);
        let pause_ms = if self.entries.len() < most { SWEEP_MS } else { FULL_SWEEP_MS };
        // A clock that was set back must not put it off.
        let due = now_ms < swept_ms || now_ms - swept_ms >= pause_ms;
        if due && self.swept_ms.compare_exchange(swept_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.entries.retain(|_, stored| *stored > now_ms * NS_PER_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        rate: Rate,
        step: Vec<Step>,
    }

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Step {
        at_ms: u64,
        /// Asks so many times; what is expected is said of the last.
        #[serde(default = "once")]
        times: u32,
        /// A change of the configuration in between.
        rate: Option<Rate>,
        remaining: u64,
        #[serde(default)]
        wait_s: u64,
        until_s: u64,
    }

    fn once() -> u32 {
        1
    }

    #[test]
    fn each_case_is_let_in_and_refused_as_it_says() {
        cases::each("limits", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let limits = Limits::default();
            let mut quota = Quota::new(case.rate).unwrap();
            for (at, step) in case.step.iter().enumerate() {
                quota = step.rate.map_or(quota, |rate| Quota::new(rate).unwrap());
                let ask = || limits.take(Caller::Source("partner".into()), quota, 1_767_225_600_000 + step.at_ms);
                for _ in 1..step.times {
                    ask();
                }
                let standing = ask();
                let (wait_s, remaining) = (standing.wait_s, standing.remaining);
                assert_eq!(
                    (remaining, wait_s, standing.until_s()),
                    (step.remaining, step.wait_s, step.until_s),
                    "{file}: step {}",
                    at + 1
                );
            }
        });
    }

    fn rate(per_minute: u32, burst: u32) -> Quota {
        Quota::new(Rate { per_minute, burst }).unwrap()
    }

    #[test]
    fn a_share_is_a_part_and_never_nothing() {
        let whole = rate(60, 100);
        assert_eq!((whole.share(0), whole.share(1)), (whole, whole));
        assert_eq!(whole.share(4), rate(15, 25));
        assert_eq!(whole.share(1000).burst, 1);
    }

    #[test]
    fn who_is_counted_elsewhere_stands_as_one_who_is_counted_here() {
        for quota in [rate(60, 3), rate(7_000, 50), rate(6_000_000, 1000), rate(1, 1)] {
            let mut stored_ns = 0_u64;
            for _ in 0..=quota.burst {
                let there = quota.standing(stored_ns.div_ceil(NS_PER_US));
                let here = quota.ask(&mut stored_ns, 0);
                assert_eq!(
                    (there.is_refused(), there.remaining, there.quota),
                    (here.is_refused(), here.remaining, here.quota)
                );
                assert!(there.wait_s.abs_diff(here.wait_s) <= 1 && there.until_s().abs_diff(here.until_s()) <= 1);
            }
            assert_eq!(quota.standing(u64::MAX).wait_s, quota.standing(quota.budget_us()).wait_s);
        }
    }

    #[test]
    fn a_rate_of_nothing_is_no_limit() {
        assert_eq!(Quota::new(Rate { per_minute: 0, burst: 5 }), None);
    }

    #[test]
    fn only_failures_weigh_before_authentication_and_local_addresses_never_do() {
        let (limits, quota) = (Limits::default(), Some(rate(60, 2)));
        let [one, other] = ["203.0.113.7", "203.0.113.8"].map(|address| address.parse::<IpAddr>().unwrap());
        for _ in 0..1000 {
            assert_eq!(limits.refuses(quota, one, 0), None, "who only asks is never refused");
        }
        limits.failed(quota, one, 0);
        assert_eq!(limits.refuses(quota, one, 0), None);
        limits.failed(quota, one, 0);
        let refused = limits.refuses(quota, one, 0).unwrap();
        assert_eq!((refused.name, refused.wait_s), ("address", 1));
        assert!(limits.refuses(quota, "::ffff:203.0.113.7".parse().unwrap(), 0).is_some(), "it is the same address");
        assert_eq!(limits.refuses(quota, other, 0), None);
        assert_eq!(limits.refuses(None, one, 0), None);
        assert_eq!(limits.refuses(quota, one, 1000), None, "a second later there is room for one");
        for local in ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "172.17.0.1", "fd00::1", "fe80::1", "0.0.0.0"] {
            let local = local.parse().unwrap();
            (0..100).for_each(|_| limits.failed(quota, local, 0));
            assert_eq!(limits.refuses(quota, local, 0), None, "{local}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_and_its_neighbour_another() {
        let (limits, quota) = (Limits::default(), Some(rate(60, 2)));
        for host in 1..=2 {
            limits.failed(quota, format!("2001:db8:1:2::{host}").parse().unwrap(), 0);
        }
        assert!(limits.refuses(quota, "2001:db8:1:2:ffff::9".parse().unwrap(), 0).is_some());
        assert_eq!(limits.refuses(quota, "2001:db8:1:3::1".parse().unwrap(), 0), None);
    }

    #[test]
    fn a_million_addresses_do_not_fill_the_memory_and_go_when_they_are_idle() {
        let (limits, quota) = (Limits::default(), Some(rate(60, 100)));
        let honest: IpAddr = "203.0.113.7".parse().unwrap();
        for n in 0..1_000_000_u32 {
            // All within a second, so that none of them is idle.
            limits.failed(quota, std::net::Ipv4Addr::from(0x0100_0000 + n).into(), u64::from(n / 2000));
        }
        assert_eq!(limits.addresses.entries.len(), MAX_ADDRESSES);
        assert_eq!(limits.refuses(quota, honest, 500), None, "nobody is locked out for it");
        limits.failed(quota, honest, 5000);
        assert_eq!(limits.addresses.entries.len(), 1, "what is idle goes");
    }

    #[test]
    fn requests_at_the_same_time_get_no_more_than_there_is() {
        let (limits, quota) = (Limits::default(), rate(60, 100));
        let taken = std::thread::scope(|scope| {
            let ask = || {
                let caller = || Caller::Key("id".into());
                (0..100).filter(|_| !limits.take(caller(), quota, 0).is_refused()).count()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(taken, 100);
    }

    #[test]
    fn a_proxy_is_believed_as_far_as_it_is_ours() {
        let proxies: Vec<IpNet> = ["127.0.0.0/8", "10.0.0.5/32"].map(|net| net.parse().unwrap()).to_vec();
        for (peer, forwarded, expected) in [
            // No proxy of ours: what it says is what anybody may say.
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:127.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            // The client's own line stands on the left.
            ("127.0.0.1", &["192.0.2.1, 198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", &["192.0.2.1", "198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", &["192.0.2.1, 198.51.100.1,10.0.0.5"], "198.51.100.1"),
            ("127.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("127.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("127.0.0.1", &["198.51.100.1, unknown"], "127.0.0.1"),
            ("10.0.0.5", &["198.51.100.1, 10.0.0.6"], "10.0.0.6"),
        ] {
            let found = client(&proxies, peer.parse().unwrap(), forwarded.iter().copied());
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
    }
}
