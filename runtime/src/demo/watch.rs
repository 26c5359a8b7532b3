//! What happens in a hub, line by line: events from its API, calls from the stand-ins, in the order of their causes.

use std::collections::BTreeMap;
use std::time::Instant;

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
const PAGE: u32 = 100;

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
        let events = look(&mut client).await?.into_iter().map(|event| (event.id.clone(), event)).collect();
        let fetched = stand_ins.received_since(0).len();
        Ok(Watch {
            client,
            stand_ins,
            began: Instant::now(),
            fetched,
            calls: Vec::new(),
            events,
            told: BTreeMap::new(),
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
                self.tell_calls(|call| parent.as_deref() == Some(&*call.system));
                self.tell_event(&event, parent.as_deref());
            }
            for delivery in &event.deliveries {
                self.tell_trouble(&event.id, delivery).await?;
            }
            self.events.insert(event.id.clone(), event);
        }
        // The events of later calls may not have been among these.
        self.tell_calls(|call| call.at < asked);
        Ok(())
    }

    /// Whether nothing is left to do for an event and those that came of it.
    pub(super) fn is_over(&self, id: &str) -> bool {
        let Some(event) = self.events.get(id) else { return false };
        event.deliveries.iter().all(|delivery| {
            let mut children = self.events.values().filter(|event| event.parent.as_ref() == Some(&delivery.id));
            delivery.is_over() && children.all(|child| self.is_over(&child.id))
        })
    }

    /// What is not delivered of an event and those that came of it, in words.
    pub(super) fn open(&self, id: &str) -> Vec<String> {
        let Some(event) = self.events.get(id) else { return vec![format!("{id} is not among the hub's events")] };
        let mut open = Vec::new();
        for delivery in &event.deliveries {
            if !matches!(delivery.status.as_str(), "delivered" | "skipped") {
                let (endpoint, status, attempts) = (&delivery.endpoint, &delivery.status, delivery.attempts);
                open.push(format!("{} → {endpoint}: {status} after attempt {attempts}", event.event_type));
            }
            for child in self.events.values().filter(|event| event.parent.as_ref() == Some(&delivery.id)) {
                open.extend(self.open(&child.id));
            }
        }
        open
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
        anstream::println!("  {QUIET}{ms:>7} ms{QUIET:#}  {style}{mark}{style:#} {NAME}{who:<10}{NAME:#} {what}");
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
