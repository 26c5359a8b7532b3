//! What a key may do: scopes, the sources that it may publish as, the addresses that it may come from, and how long. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// One thing that a key may be good for. Every route of the API asks for exactly one; what shows payloads asks
        /// for `payload:read` as well.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub(crate) enum Scope {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl Scope {
            pub(crate) const ALL: &[Scope] = &[$(Scope::$name,)*];

            pub(crate) fn word(self) -> &'static str {
                match self {
                    $(Scope::$name => $word,)*
                }
            }
        }
    };
}

scopes! {
    /// What came in and what became of it, without any content.
    EventsRead = "events:read",
    EventsPublish = "events:publish",
    /// What events say: payloads, headers, and whatever connectors and targets said about them.
    PayloadRead = "payload:read",
    EventsReplay = "events:replay",
    DeadLettersRead = "dead-letters:read",
    EndpointsRead = "endpoints:read",
    /// Pause and resume.
    EndpointsWrite = "endpoints:write",
    ConnectorsRead = "connectors:read",
    /// Push, activate, roll back: whoever may do it decides what runs on every payload.
    ConnectorsDeploy = "connectors:deploy",
    MappingsRead = "mappings:read",
    MappingsWrite = "mappings:write",
    /// Sources, how they prove who they are, and when each secret was seen last.
    SourcesRead = "sources:read",
    SyncRead = "sync:read",
    SyncRun = "sync:run",
    /// The whole configuration, components included.
    ConfigApply = "config:apply",
    KeysManage = "keys:manage",
    /// Stored secrets: their versions, without any value. Whoever may do it decides who is let in.
    SecretsManage = "secrets:manage",
    /// The keys that wrap what is sealed; none of them is ever shown.
    KeyringManage = "keyring:manage",
    /// The audit log, and whether it is whole.
    AuditRead = "audit:read",
    /// Figures for whoever watches the hub: no content, no names of people.
    MetricsRead = "metrics:read",
    /// Which events are about a person, without what they say.
    PrivacyFind = "privacy:find",
    /// Everything that the hub holds about a person, content included: `payload:read` is not needed beside it.
    PrivacyExport = "privacy:export",
    PrivacyErase = "privacy:erase",
}

/// Stands for every scope, also those of later versions.
const EVERY: &str = "*";

/// A set of [`Scope`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scopes(u32);

impl Scopes {
    pub(crate) const EVERY: Scopes = Scopes(u32::MAX);

    pub(crate) fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u32) != 0
    }

    pub(crate) fn and(self, other: Scopes) -> Scopes {
        Scopes(self.0 | other.0)
    }

    pub(crate) fn words(self) -> Vec<String> {
        if self == Scopes::EVERY {
            return vec![EVERY.into()];
        }
        Scope::ALL.iter().filter(|scope| self.has(**scope)).map(|scope| scope.word().into()).collect()
    }

    /// Words that this version does not know grant nothing.
    pub(super) fn of_words(words: &[String]) -> Scopes {
        if words.iter().any(|word| word == EVERY) {
            return Scopes::EVERY;
        }
        let known = Scope::ALL.iter().filter(|scope| words.iter().any(|word| word == scope.word()));
        known.copied().collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Scopes {
        Scopes(scopes.into_iter().fold(0, |bits, scope| bits | 1 << scope as u32))
    }
}

/// Scopes under one name, as people need them. What a key has is the scopes; the role is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Sees everything except content.
    Reader,
    /// A reader who also replays, pauses, starts sync jobs and edits mappings.
    Operator,
    /// A reader who also sees who did what.
    Auditor,
    /// A system that publishes events.
    Publisher,
    /// Everything, also what later versions bring.
    Admin,
}

impl Role {
    pub(crate) const ALL: [&str; 5] = ["reader", "operator", "auditor", "publisher", "admin"];

    pub(crate) fn scopes(self) -> Scopes {
        use Scope::*;
        let reader = [
            EventsRead,
            DeadLettersRead,
            EndpointsRead,
            ConnectorsRead,
            MappingsRead,
            SourcesRead,
            SyncRead,
            MetricsRead,
        ];
        match self {
            Role::Reader => reader.into_iter().collect(),
            Role::Operator => {
                reader.into_iter().chain([EventsReplay, EndpointsWrite, MappingsWrite, SyncRun]).collect()
            }
            Role::Auditor => reader.into_iter().chain([AuditRead]).collect(),
            Role::Publisher => [EventsPublish].into_iter().collect(),
            Role::Admin => Scopes::EVERY,
        }
    }
}

/// What a key may do, as what, from where and how long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Grant {
    pub(crate) scopes: Scopes,
    /// The `source_system`s that it may publish as; none is any.
    pub(crate) sources: Option<Vec<String>>,
    /// Where its requests may come from; none is anywhere.
    pub(crate) addresses: Option<Vec<IpNet>>,
    pub(crate) not_before_ms: Option<u64>,
    pub(crate) expires_ms: Option<u64>,
}

impl Grant {
    pub(crate) fn publishes_as(&self, source: &str) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.iter().any(|known| known == source))
    }

    /// An address that nobody knows is in no list.
    pub(crate) fn comes_from(&self, peer: Option<IpAddr>) -> bool {
        let Some(addresses) = &self.addresses else { return true };
        // A socket that listens on both families shows IPv4 peers as ::ffff:a.b.c.d.
        peer.is_some_and(|peer| addresses.iter().any(|net| net.contains(&peer.to_canonical())))
    }

    /// Whether a key with this grant may hand out the other one, or what would be more than it has itself.
    pub(crate) fn covers(&self, other: &Grant) -> Result<(), String> {
        // Of `*` over a list there may be no known scope left to name.
        if other.scopes.0 & !self.scopes.0 != 0 {
            let more = Scope::ALL.iter().find(|scope| other.scopes.has(**scope) && !self.scopes.has(**scope));
            return Err(format!("the scope `{}`", more.map_or(EVERY, |scope| scope.word())));
        }
        if self.sources.is_some() {
            let Some(sources) = &other.sources else { return Err("every source".into()) };
            if let Some(more) = sources.iter().find(|source| !self.publishes_as(source)) {
                return Err(format!("the source {more:?}"));
            }
        }
        if let Some(own) = &self.addresses {
            let Some(addresses) = &other.addresses else { return Err("every address".into()) };
            if let Some(more) = addresses.iter().find(|net| !own.iter().any(|own| own.contains(*net))) {
                return Err(format!("the addresses {more}"));
            }
        }
        if let Some(end) = self.expires_ms
            && other.expires_ms.is_none_or(|other| other > end)
        {
            return Err("a longer time".into());
        }
        Ok(())
    }
}

/// Reads `10.1.0.0/16`, `fd00::/8` or one address. The error says what to write.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().into(),
        Err(_) => text
            .parse::<IpNet>()
            .map_err(|_| format!("{text:?} is no network: write for instance 10.1.0.0/16, fd00:1::/64 or 10.1.2.3"))?,
    };
    // `10.0.0.5/8` would let sixteen million addresses in where somebody most likely meant one.
    if net.trunc() != net {
        return Err(format!("{text:?} has bits beyond its prefix: write {} or {}", net.trunc(), net.addr()));
    }
    // Peers are held against it in their IPv4 form, so it would let nobody in.
    if matches!(net.addr(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(format!("{text:?} is an IPv4 range in IPv6 form: write it as IPv4"));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        has: Written,
        asks: Written,
        /// What would be more than it has; none when it is covered.
        more: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        scopes: Vec<String>,
        sources: Option<Vec<String>>,
        addresses: Option<Vec<String>>,
        expires_ms: Option<u64>,
    }

    impl Written {
        fn grant(self) -> Grant {
            let addresses = self.addresses.map(|all| all.iter().map(|net| network(net).unwrap()).collect());
            let scopes = Scopes::of_words(&self.scopes);
            Grant { scopes, sources: self.sources, addresses, not_before_ms: None, expires_ms: self.expires_ms }
        }
    }

    #[test]
    fn nobody_grants_more_than_they_have() {
        cases::each("grant", |file, text| {
            let case: Case = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let covered = case.has.grant().covers(&case.asks.grant());
            assert_eq!(covered.err(), case.more, "{file}");
        });
    }

    #[test]
    fn scopes_are_words_and_back() {
        assert!(Scope::ALL.len() < 32, "they are bits of one number, and `*` is not all of them");
        for scope in Scope::ALL {
            let words = [*scope].into_iter().collect::<Scopes>().words();
            assert_eq!(words, [scope.word()]);
            assert_eq!(Scopes::of_words(&words), [*scope].into_iter().collect());
        }
        assert_eq!(Scopes::of_words(&["of:tomorrow".into()]), Scopes::default());
        for role in Role::ALL {
            let read: Role = serde_json::from_value(role.into()).unwrap();
            assert_eq!(read.scopes().has(Scope::PayloadRead), role == "admin", "content is never part of the others");
        }
    }

    #[test]
    fn networks_are_written_without_surprises() {
        for (text, read) in [("10.1.2.3", Some("10.1.2.3/32")), ("fd00::/8", Some("fd00::/8"))]
            .into_iter()
            .chain(["::ffff:10.0.0.0/104", "10.0.0.5/8", "10.0.0.0/33", "", "localhost"].map(|bad| (bad, None)))
        {
            assert_eq!(network(text).ok().map(|net| net.to_string()).as_deref(), read, "{text}");
        }
        let grant = Grant { addresses: Some(vec![network("10.0.0.0/8").unwrap()]), ..Grant::default() };
        for (peer, good) in [("10.1.1.1", true), ("::ffff:10.1.1.1", true), ("11.1.1.1", false), ("::1", false)] {
            assert_eq!(grant.comes_from(Some(peer.parse().unwrap())), good, "{peer}");
        }
        assert!(!grant.comes_from(None));
        assert!(Grant::default().comes_from(None));
    }
}
