//! How a system misbehaves: drawn from a seed, and bounded, so that what is tried again arrives in the end.
//!
//! Most systems fail a few times, with calls between that go well; CRM is down for three calls in a row at its start,
//! which opens a breaker; marketing refuses one creation for good; Z-API loses one answer, which must not lead to a
//! second message. A delivery has five attempts, and no plan has more than four failures for it to meet.

use std::collections::VecDeque;
use std::time::Duration;

use axum::http::{Method, StatusCode};

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is answered as it should be.
    Fine,
    /// It is answered with this and a Retry-After in seconds, and does nothing else.
    Fails(StatusCode, Option<u32>),
    /// It is answered late.
    Slow(Duration),
    /// The connection breaks before the system has seen the call.
    Broken,
    /// The system does what it was asked to, and the connection breaks before the answer.
    Lost,
}

/// What is to become of the next calls of one system.
#[derive(Debug)]
pub(super) struct Plan {
    calls: VecDeque<Fate>,
    events: VecDeque<Fate>,
    /// One creation is still to be refused.
    refuses: bool,
}

impl Plan {
    pub(super) fn new(system: &str, seed: u64) -> Plan {
        let name = system
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut dice = Dice(seed ^ name);
        let fails = |status| Fate::Fails(status, None);
        let busy = Fate::Fails(StatusCode::TOO_MANY_REQUESTS, Some(1 + dice.roll(2) as u32));
        let slow = Fate::Slow(Duration::from_millis(1000 + 100 * dice.roll(20)));
        let error = fails(StatusCode::INTERNAL_SERVER_ERROR);
        let down = fails(StatusCode::SERVICE_UNAVAILABLE);
        // SMTP's word for "try again".
        let grey = fails(StatusCode::from_u16(451).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
        let (start, mut troubles): (&[Fate], Vec<Fate>) = match system {
            "crm" => (&[down, Fate::Broken, down, Fate::Fine, Fate::Fine], vec![Fate::Lost, slow]),
            "email" => (&[], vec![grey, slow]),
            "zapi" => (&[], vec![error, busy, slow, Fate::Lost]),
            "marketing" => (&[error], vec![slow]),
            _ => (&[], vec![error, Fate::Lost, slow, busy]),
        };
        let mut calls: VecDeque<Fate> = start.iter().copied().collect();
        while !troubles.is_empty() {
            calls.extend(std::iter::repeat_n(Fate::Fine, dice.roll(2) as usize));
            calls.push_back(troubles.swap_remove(dice.roll(troubles.len() as u64) as usize));
        }
        let events = if dice.roll(2) == 0 { [down, Fate::Broken].into() } else { [busy].into() };
        Plan { calls, events, refuses: system == "marketing" }
    }

    pub(super) fn next(&mut self, method: &Method, path: &str) -> Fate {
        if path.ends_with("/webhooks/events") {
            return self.events.pop_front().unwrap_or(Fate::Fine);
        }
        let fate = self.calls.pop_front().unwrap_or(Fate::Fine);
        if matches!(fate, Fate::Fine | Fate::Slow(_)) && self.refuses && *method == Method::POST {
            self.refuses = false;
            return Fate::Fails(StatusCode::UNPROCESSABLE_ENTITY, None);
        }
        fate
    }
}

/// SplitMix64: small, and the same on every machine.
struct Dice(u64);

impl Dice {
    /// From 0 to `sides` − 1.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(system: &str, seed: u64, path: &str) -> Vec<Fate> {
        let mut plan = Plan::new(system, seed);
        (0..40).map(|_| plan.next(&Method::POST, path)).collect()
    }

    #[test]
    fn a_seed_says_it_all() {
        assert_eq!(drawn("operacao", 7, "/api"), drawn("operacao", 7, "/api"));
        let kinds: std::collections::BTreeSet<String> =
            (0..50).map(|seed| format!("{:?}", drawn("operacao", seed, "/api"))).collect();
        assert!(kinds.len() > 10, "{} plans of 50 seeds", kinds.len());
    }

    #[test]
    fn no_plan_outlasts_five_attempts_and_all_end() {
        for seed in 0..200 {
            for system in ["crm", "operacao", "zapi", "email", "marketing"] {
                for path in ["/api/v1/leads", "/api/v1/webhooks/events"] {
                    let fates = drawn(system, seed, path);
                    let failures = fates.iter().filter(|fate| !matches!(fate, Fate::Fine | Fate::Slow(_))).count();
                    assert!((1..=4).contains(&failures), "{system} {seed}: {fates:?}");
                    assert!(fates[20..].iter().all(|fate| *fate == Fate::Fine), "{system} {seed}: {fates:?}");
                    for fate in fates {
                        match fate {
                            Fate::Slow(time) => assert!((1000..=3000).contains(&time.as_millis()), "{time:?}"),
                            Fate::Fails(_, Some(seconds)) => assert!((1..=2).contains(&seconds), "{seconds}"),
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn some_troubles_are_certain() {
        for seed in 0..50 {
            let failed = |fate: &Fate| matches!(fate, Fate::Fails(..) | Fate::Broken);
            assert!(drawn("crm", seed, "/api/v1/leads")[..3].iter().all(failed));
            let refused = Fate::Fails(StatusCode::UNPROCESSABLE_ENTITY, None);
            let of_marketing = drawn("marketing", seed, "/api/v1/attribution");
            assert_eq!(of_marketing.iter().filter(|fate| **fate == refused).count(), 1, "{of_marketing:?}");
            assert!(drawn("zapi", seed, "/send-text").contains(&Fate::Lost));
        }
    }
}
