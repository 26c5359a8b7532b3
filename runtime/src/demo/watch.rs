//! What happens in a hub, line by line: events from its API, calls from the stand-ins, in the order of their causes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use super::standins::{Received, StandIns};
use crate::client::Client;

pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();
pub(super) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
pub(super) const NAME: Style = AnsiColor::Cyan.on_default();
pub(super) const QUIET: Style = Style::new().dimmed();
pub(super) const STRONG: Style = Style::new().bold();

/// Events that are asked for at once; more than those between two looks are not shown.
const PAGE: u32 = 200;
/// Between two looks at the breakers.
const BREAKERS_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Watch<'a> {
    client: Client,
    stand_ins: &'a StandIns,
    began: Instant,
    /// How many calls the stand-ins were asked for.
    fetched: usize,
    /// Those of them that are not told yet.
    calls: Vec<Received>,
    events: BTreeMap<String, Event>,
    /// Delivery → the status and number of attempts that were told last.
    told: BTreeMap<String, (String, u64)>,
    /// Events of before.
    old: BTreeSet<String>,
    open_breakers: BTreeSet<String>,
    breakers_opened: usize,
    breakers_seen: Instant,
}

/// A delivery that was given up, as the API tells it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct DeadLetter {
    event: String,
    event_type: String,
    pub(super) endpoint: String,
    reason: String,
    code: Option<String>,
    message: Option<String>,
}

impl std::fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} → {}: {}", self.event_type, self.endpoint, self.reason)?;
        if let Some(code) = &self.code {
            write!(f, ", {code}")?;
        }
        self.message.as_ref().map_or(Ok(()), |message| write!(f, ", {message}"))
    }
}

/// What it took.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) events: usize,
    pub(super) deliveries: usize,
    pub(super) attempts: u64,
    /// Attempts after the first one.
    pub(super) retries: u64,
    pub(super) breakers_opened: usize,
}

#[derive(Debug, Clone, Deserialize)]
struct Event {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    source: String,
    status: String,
    parent: Option<String>,
    deliveries: Vec<Delivery>,
}

#[derive(Debug, Clone, Deserialize)]
struct Delivery {
    id: String,
    endpoint: String,
    status: String,
    attempts: u64,
}

impl Delivery {
    fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "delivered" | "skipped" | "dead")
    }
}

impl<'a> Watch<'a> {
    /// Begins now: what happened before is not told.
    pub(super) async fn start(mut client: Client, stand_ins: &'a StandIns) -> Result<Watch<'a>> {
        let events: BTreeMap<String, Event> =
            look(&mut client).await?.into_iter().map(|event| (event.id.clone(), event)).collect();
        let fetched = stand_ins.received_since(0).len();
        Ok(Watch {
            client,
            stand_ins,
            began: Instant::now(),
            fetched,
            calls: Vec::new(),
            old: events.keys().cloned().collect(),
            events,
            told: BTreeMap::new(),
            open_breakers: BTreeSet::new(),
            breakers_opened: 0,
            breakers_seen: Instant::now(),
        })
    }

    /// Tells what is new.
    pub(super) async fn look(&mut self) -> Result<()> {
        let asked = Instant::now();
        let mut events = look(&mut self.client).await?;
        let calls = self.stand_ins.received_since(self.fetched);
        self.fetched += calls.len();
        self.calls.extend(calls);
        events.reverse();
        for event in events {
            if !self.events.contains_key(&event.id) {
                let parent = self.endpoint_of(event.parent.as_deref()).map(str::to_owned);
                // What came of a delivery is told after the calls that were the delivery.
                if let (Some(delivery), Some(endpoint)) = (&event.parent, &parent) {
                    self.tell_calls_of(delivery, endpoint);
                }
                self.tell_event(&event, parent.as_deref());
            }
            for delivery in &event.deliveries {
                self.tell_trouble(&event.id, delivery).await?;
            }
            self.events.insert(event.id.clone(), event);
        }
        // The events of later calls may not have been among these.
        self.tell_calls(|call| call.at < asked);
        if self.breakers_seen.elapsed() > BREAKERS_EVERY {
            self.breakers_seen = Instant::now();
            self.look_at_breakers().await?;
        }
        Ok(())
    }

    async fn look_at_breakers(&mut self) -> Result<()> {
        #[derive(Deserialize)]
        struct Endpoint {
            name: String,
            breaker: String,
        }
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Endpoint>,
        }
        let page: Page = self.client.get("/api/endpoints").await?.json()?;
        for endpoint in page.items {
            let (name, was_open) = (&endpoint.name, self.open_breakers.contains(&endpoint.name));
            match (was_open, endpoint.breaker.as_str()) {
                (false, "open") => {
                    self.breakers_opened += 1;
                    self.line("…", DOUBTFUL, name, "breaker opened: nothing is sent there for a while");
                    self.open_breakers.insert(endpoint.name);
                }
                (true, "closed") => {
                    self.line("✓", GOOD, name, "breaker closed");
                    self.open_breakers.remove(name);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// From now on times are told from here.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// The events that there are now.
    pub(super) fn known(&self) -> BTreeSet<String> {
        self.events.keys().cloned().collect()
    }

    pub(super) fn knows(&self, id: &str) -> bool {
        self.events.contains_key(id)
    }

    fn since<'e>(&'e self, known: &'e BTreeSet<String>) -> impl Iterator<Item = &'e Event> {
        self.events.values().filter(|event| !known.contains(&event.id))
    }

    /// Events of a type that have come since.
    pub(super) fn count(&self, event_type: &str, known: &BTreeSet<String>) -> usize {
        self.since(known).filter(|event| event.event_type == event_type).count()
    }

    /// Whether nothing is left to do for all that has come since. What is held waits for an operator.
    pub(super) fn is_quiet(&self, known: &BTreeSet<String>) -> bool {
        let mut deliveries = self.since(known).flat_map(|event| &event.deliveries);
        deliveries.all(|delivery| delivery.is_over() || delivery.status == "held")
    }

    /// What is neither delivered nor given up of all that has come since, in words.
    pub(super) fn unfinished(&self, known: &BTreeSet<String>) -> Vec<String> {
        let of = |event: &Event| {
            let open = event.deliveries.iter().filter(|delivery| !delivery.is_over());
            let line = |delivery: &Delivery| {
                let (endpoint, status, attempts) = (&delivery.endpoint, &delivery.status, delivery.attempts);
                format!("{} → {endpoint}: {status} after attempt {attempts}", event.event_type)
            };
            open.map(line).collect::<Vec<_>>()
        };
        self.since(known).flat_map(of).collect()
    }

    /// What was given up of all that has come since.
    pub(super) async fn dead_letters(&mut self, known: &BTreeSet<String>) -> Result<Vec<DeadLetter>> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<DeadLetter>,
        }
        let page: Page = self.client.get("/api/dead-letters?limit=500").await?.json()?;
        Ok(page
            .items
            .into_iter()
            .filter(|letter| self.knows(&letter.event) && !known.contains(&letter.event))
            .collect())
    }

    /// Of all that has come since the beginning.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally { breakers_opened: self.breakers_opened, ..Tally::default() };
        for event in self.since(&self.old) {
            tally.events += 1;
            for delivery in &event.deliveries {
                tally.deliveries += 1;
                tally.attempts += delivery.attempts;
                tally.retries += delivery.attempts.saturating_sub(1);
            }
        }
        tally
    }

    /// Events of before the beginning.
    pub(super) fn old(&self) -> &BTreeSet<String> {
        &self.old
    }

    /// The connection to the hub.
    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The endpoint of a delivery.
    fn endpoint_of(&self, delivery: Option<&str>) -> Option<&str> {
        let mut deliveries = self.events.values().flat_map(|event| &event.deliveries);
        Some(&deliveries.find(|known| Some(known.id.as_str()) == delivery)?.endpoint)
    }

    fn tell_event(&self, event: &Event, parent: Option<&str>) {
        let how = match parent {
            Some(endpoint) => format!("came of the delivery to {endpoint}"),
            None => format!("accepted from {}", event.source),
        };
        let owed = match &event.deliveries[..] {
            [] => format!("{DOUBTFUL}no route takes it ({}){DOUBTFUL:#}", event.status),
            deliveries => {
                let names: Vec<&str> = deliveries.iter().map(|delivery| delivery.endpoint.as_str()).collect();
                format!("owed to {}", names.join(", "))
            }
        };
        let (event_type, id) = (&event.event_type, &event.id);
        self.line("•", STRONG, "hub", &format!("{STRONG}{event_type}{STRONG:#} {how}, {owed}  {QUIET}{id}{QUIET:#}"));
    }

    /// The calls that were this delivery; where a system is not told of which delivery a call is, all that it got.
    fn tell_calls_of(&mut self, delivery: &str, endpoint: &str) {
        let system = self.stand_ins.system_of(endpoint).to_owned();
        self.tell_calls(|call| match call.header("x-request-id").or(call.header("webhook-id")) {
            Some(id) => id == delivery,
            None => *call.system == *system,
        });
    }

    fn tell_calls(&mut self, which: impl Fn(&Received) -> bool) {
        let (told, kept): (Vec<_>, _) = std::mem::take(&mut self.calls).into_iter().partition(which);
        self.calls = kept;
        for call in &told {
            self.tell_call(call);
        }
    }

    fn tell_call(&self, call: &Received) {
        let (mark, style) = if call.status.is_success() { ("✓", GOOD) } else { ("✗", BAD) };
        // Z-API's path holds a token.
        let path = match call.path.rsplit_once('/') {
            Some((_, last)) if call.path.contains("/token/") => format!("…/{last}"),
            _ => call.path.clone(),
        };
        let (note, method, status) = (&call.note, &call.method, call.status.as_u16());
        self.line(mark, style, &call.system, &format!("{note}  {QUIET}{method} {path} → {status}{QUIET:#}"));
    }

    /// Tells of a delivery that did not arrive at once, each time it fares worse.
    async fn tell_trouble(&mut self, event: &str, delivery: &Delivery) -> Result<()> {
        let now = (delivery.status.clone(), delivery.attempts);
        let (mark, style, what) = match delivery.status.as_str() {
            "waiting" if delivery.attempts > 0 => ("…", DOUBTFUL, "will be tried again"),
            "held" => ("…", DOUBTFUL, "held, the endpoint is paused"),
            "dead" => ("✗", BAD, "dead letter"),
            _ => return Ok(()),
        };
        if self.told.get(&delivery.id) == Some(&now) {
            return Ok(());
        }
        // What went wrong is told after the calls that it went wrong with.
        self.tell_calls_of(&delivery.id, &delivery.endpoint);
        let answer: Value = self.client.get(&format!("/api/events/{event}")).await?.json()?;
        let mut deliveries = answer["deliveries"].as_array().into_iter().flatten();
        let last = deliveries
            .find(|found| found["id"] == *delivery.id)
            .and_then(|found| found["attempt_list"].as_array()?.last().cloned())
            .unwrap_or_default();
        let (outcome, message) = (last["outcome"].as_str().unwrap_or("no attempt"), last["message"].as_str());
        let (id, attempts, message) = (&delivery.id, delivery.attempts, message.unwrap_or_default());
        let line = format!("{what} after attempt {attempts}: {outcome} {message}  {QUIET}{id}{QUIET:#}");
        self.line(mark, style, &delivery.endpoint, &line);
        self.told.insert(delivery.id.clone(), now);
        Ok(())
    }

    fn line(&self, mark: &str, style: Style, who: &str, what: &str) {
        let ms = self.began.elapsed().as_millis();
        anstream::println!("  {QUIET}{ms:>7} ms{QUIET:#}  {style}{mark}{style:#} {NAME}{who:<17}{NAME:#} {what}");
    }
}

async fn look(client: &mut Client) -> Result<Vec<Event>> {
    #[derive(Deserialize)]
    struct Page {
        items: Vec<Event>,
    }
    let page: Page = client.get(&format!("/api/events?limit={PAGE}")).await?.json()?;
    Ok(page.items)
}
