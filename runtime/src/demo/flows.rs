//! The flows as the demo plays them, one after the other: what partners and people would send, what comes of it, and
//! what must be true in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::loopback::SHORT_DELAY_S;
use super::proof::{self, Fact};
use super::standins::StandIns;
use super::watch::{BAD, DOUBTFUL, GOOD, QUIET, STRONG, Watch};
use crate::client::{Answer, Client};
use crate::config::Config;
use crate::send::{Accepted, Target, unix_seconds};

/// How long one flow may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the hub.
const OFTEN: Duration = Duration::from_millis(20);
/// What is proved about, so that what was stored before a flow is told apart.
const KINDS: [(&str, &str); 18] = [
    ("crm", "leads"),
    ("crm", "advances"),
    ("crm", "deals"),
    ("crm", "interactions"),
    ("crm", "confirmations"),
    ("crm", "events"),
    ("operacao", "schedules"),
    ("operacao", "billed"),
    ("financeiro", "clients"),
    ("financeiro", "invoices"),
    ("cuidadores", "ratings"),
    ("cuidadores", "events"),
    ("atendimento", "conversations"),
    ("atendimento", "messages"),
    ("marketing", "attributions"),
    ("zapi", "texts"),
    ("zapi", "button_lists"),
    ("email", "messages"),
];
/// Schedules that wait in CRM for the sync job.
const PENDING: usize = 3;
const SYNC_JOB: &str = "crm_operacao";

/// What is needed to play them.
pub(super) struct Flows<'a> {
    /// Of the hub.
    pub(super) url: String,
    pub(super) config: &'a Config,
    pub(super) stand_ins: &'a StandIns,
    pub(super) watch: Watch<'a>,
    /// Routes whose delay was shortened: event, endpoint, seconds as configured.
    pub(super) delays: &'a [(String, String, f64)],
    /// The systems misbehave: what is missing may be a dead letter.
    pub(super) chaos: bool,
    /// Whether all has been proved so far.
    pub(super) good: bool,
}

/// How it was when a flow, or a step of one, began.
struct Start {
    at: Instant,
    events: BTreeSet<String>,
    stored: BTreeMap<(&'static str, &'static str), usize>,
}

/// Someone who has not been here before.
struct Person {
    phone: String,
    email: String,
    /// For ids.
    number: u32,
}

const NAME: &str = "Maria Aparecida";
/// Where a fact is found that no other system knows.
const HUB: &str = "hub";

impl Flows<'_> {
    /// Plays all of them.
    ///
    /// # Errors
    /// The hub does not answer, or refuses what it should take.
    pub(super) async fn play(&mut self) -> Result<()> {
        let person = Person::new()?;
        let lead = self.lead(&person).await?;
        self.client(&person, &lead).await?;
        self.service(&person).await?;
        self.whatsapp(&person, &lead).await?;
        self.sync().await
    }

    /// The id that CRM gave to the lead, null when it has none.
    async fn lead(&mut self, person: &Person) -> Result<Value> {
        heading("Lead criado", "someone leaves a contact on the site");
        let start = self.start();
        let lead = json!({
            "name": NAME,
            "phone": person.phone,
            "email": person.email,
            "source": "site",
            "utm_source": "google",
            "utm_medium": "cpc",
            "utm_campaign": "cuidadores-sp",
            "message": "Preciso de uma cuidadora para minha mãe.",
        });
        if self.post("site/lead", &lead).await? {
            self.settle(&start).await?;
            self.judge(&start, |stored| proof::lead(stored, &person.phone)).await?;
        }
        let leads = self.stand_ins.records("crm", "leads");
        let theirs = leads.iter().rfind(|lead| lead["phone"] == *person.phone);
        Ok(theirs.map(|lead| lead["id"].clone()).unwrap_or_default())
    }

    async fn client(&mut self, person: &Person, lead: &Value) -> Result<()> {
        heading("Cliente cadastrado", "the lead becomes a client");
        let start = self.start();
        let client = json!({
            "id": person.number,
            "name": NAME,
            "email": person.email,
            "phone": person.phone,
            "cpf": "529.982.247-25",
            "lead_id": lead,
            "value": 4200,
            "service_type": "mensal",
        });
        if self.post("crm/client-registered", &client).await? {
            self.settle(&start).await?;
            self.judge(&start, |stored| proof::client(stored, &client)).await?;
        }
        Ok(())
    }

    async fn service(&mut self, person: &Person) -> Result<()> {
        heading("Serviço completado", "a caregiver has done her work");
        for (event, endpoint, was_s) in self.delays {
            let was = hours(*was_s);
            anstream::println!(
                "  {QUIET}{event} → {endpoint} waits {was}, shortened to {SHORT_DELAY_S} s here{QUIET:#}"
            );
        }
        if !self.delays.is_empty() {
            anstream::println!();
        }
        let start = self.start();
        let service = json!({
            "id": person.number + 1,
            "client_id": person.number,
            "caregiver_id": 601,
            "client_name": NAME,
            "client_phone": person.phone,
            "client_email": person.email,
            "caregiver_name": "Rosa Lima",
            "service_type": "horista",
            "duration_hours": 4,
            "is_weekend": true,
            "is_holiday": false,
            "is_night": false,
            "is_recurring": false,
            "completed_at": now(),
        });
        if self.post("operacao/service-completed", &service).await? {
            self.settle(&start).await?;
            self.judge(&start, |stored| proof::service(stored, &service)).await?;
            self.rate(&start, &service).await?;
        }
        Ok(())
    }

    /// The client follows the link in the mail and gives five stars.
    async fn rate(&mut self, mailed: &Start, service: &Value) -> Result<()> {
        let mails = mailed.stored(self.stand_ins, "email", "messages");
        let Some(link) = mails.iter().find_map(proof::link) else { return Ok(()) };
        anstream::println!("\n{STRONG}GET /feedback/…{STRONG:#}  {QUIET}the link in the e-mail{QUIET:#}");
        let start = self.start();
        let mut browser = Client::connect(&self.url, None).await?;
        let forged = browser.get(&forged(&link)).await?;
        let page = browser.get(&link).await?;
        let shown = page.status == 200 && String::from_utf8_lossy(&page.body).contains("rating");
        anstream::println!("{STRONG}POST /feedback/…{STRONG:#}  rating=5\n");
        let mut form = HeaderMap::new();
        form.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let thanks = browser.send(Method::POST, &link, form, Bytes::from_static(b"rating=5")).await?;
        let accepted = (200..400).contains(&thanks.status);
        if accepted {
            while self.watch.count("feedback.received", &start.events) == 0 && !start.is_late() {
                self.look().await?;
            }
            self.settle(&start).await?;
        }
        let received = self.watch.count("feedback.received", &start.events);
        let mut facts = vec![
            Fact::new(HUB, usize::from(shown), 1, "page to rate the service", "pages to rate the service"),
            Fact::new(HUB, usize::from(accepted), 1, "thank-you page", "thank-you pages"),
            Fact::new(HUB, usize::from(forged.status < 400), 0, "page for a forged link", "pages for a forged link"),
            Fact::new(HUB, received, 1, "feedback.received from the link", "feedback.received from the link"),
        ];
        facts.extend(proof::rating(&|system, kind| start.stored(self.stand_ins, system, kind), service, 5));
        self.conclude(&start, &facts).await
    }

    async fn whatsapp(&mut self, person: &Person, lead: &Value) -> Result<()> {
        heading("WhatsApp recebido", "the client writes, and rates with a button");
        let start = self.start();
        let text = self.callback(person, json!({ "text": { "message": "Bom dia! A Rosa pode vir na sexta?" } }))?;
        if !self.post("whatsapp", &text).await? {
            return Ok(());
        }
        self.settle(&start).await?;
        self.judge(&start, |stored| proof::message(stored, &person.phone, lead)).await?;

        anstream::println!();
        let start = self.start();
        let pressed = json!({ "buttonsResponseMessage": { "buttonId": "rating_5", "message": "5" } });
        let button = self.callback(person, pressed)?;
        if self.post("whatsapp", &button).await? {
            self.settle(&start).await?;
            let received = self.watch.count("feedback.received", &start.events);
            let mut facts = proof::button(&|system, kind| start.stored(self.stand_ins, system, kind), &person.phone);
            let what = "feedback.received from the button";
            facts.push(Fact::new(HUB, received, 1, what, what));
            self.conclude(&start, &facts).await?;
        }
        Ok(())
    }

    /// As Z-API posts it, with this content.
    fn callback(&self, person: &Person, content: Value) -> Result<Value> {
        let mut settings = self.config.endpoints.values().map(|endpoint| &endpoint.settings);
        let instance = settings.find_map(|settings| settings.get("instance_id")?.as_str());
        let mut callback = json!({
            "type": "ReceivedCallback",
            "instanceId": instance.unwrap_or("carinho"),
            "messageId": format!("3EB0{}", super::standins::random()?.to_uppercase()),
            "phone": person.phone,
            "fromMe": false,
            "isGroup": false,
            "isNewsletter": false,
            "isStatusReply": false,
            "isEdit": false,
            "waitingMessage": false,
            "momment": unix_seconds() * 1000,
            "status": "RECEIVED",
            "senderName": NAME,
            "chatName": NAME,
            "connectedPhone": "5511999999999",
        });
        for (name, value) in content.as_object().into_iter().flatten() {
            callback[name.as_str()] = value.clone();
        }
        Ok(callback)
    }

    async fn sync(&mut self) -> Result<()> {
        heading(SYNC_JOB, "what waits in CRM is created at Operação and confirmed");
        self.stand_ins.seed("crm", "schedules", PENDING);
        let schedules = self.stand_ins.records("crm", "schedules");
        let items = schedules[schedules.len() - PENDING..].to_vec();
        let start = self.start();
        anstream::println!(
            "{STRONG}POST /api/sync-jobs/{SYNC_JOB}/run{STRONG:#}  {QUIET}{PENDING} schedules wait{QUIET:#}\n"
        );
        let answer = self.watch.client().post(&format!("/api/sync-jobs/{SYNC_JOB}/run"), Bytes::new()).await?;
        if answer.status == 404 {
            self.not_configured(&format!("the sync job {SYNC_JOB}"));
            return Ok(());
        }
        answer.ok().context("the sync job was not started")?;
        while self.runs().await? && !start.is_late() {
            self.look().await?;
        }
        self.settle(&start).await?;
        self.judge(&start, |stored| proof::schedules(stored, &items)).await
    }

    /// Whether the job's last run is still under way.
    async fn runs(&mut self) -> Result<bool> {
        #[derive(Deserialize)]
        struct Run {
            state: String,
        }
        #[derive(Deserialize)]
        struct Job {
            name: String,
            last_run: Option<Run>,
        }
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Job>,
        }
        let page: Page = self.watch.client().get("/api/sync-jobs").await?.json()?;
        let run = page.items.into_iter().find(|job| job.name == SYNC_JOB).and_then(|job| job.last_run);
        Ok(run.is_none_or(|run| run.state == "running"))
    }

    fn start(&mut self) -> Start {
        self.watch.begin();
        let stored = KINDS.iter().map(|(system, kind)| ((*system, *kind), self.stand_ins.records(system, kind).len()));
        Start { at: Instant::now(), events: self.watch.known(), stored: stored.collect() }
    }

    /// Sends a webhook as its source would; false when the configuration has none of that name.
    async fn post(&mut self, webhook: &str, body: &Value) -> Result<bool> {
        let paths = self.config.sources.values().flat_map(|source| &source.webhooks).map(|webhook| &webhook.path);
        let matches = |path: &&String| path.trim_start_matches("/webhooks/").trim_end_matches("/{token}") == webhook;
        let Some(path) = paths.into_iter().find(matches) else {
            self.not_configured(&format!("/webhooks/{webhook}"));
            return Ok(false);
        };
        anstream::println!("{STRONG}POST {path}{STRONG:#}  {}\n", telling(body));
        let request = Target::find(self.config, webhook)?.sign(body.to_string().into(), None, None, unix_seconds())?;
        let answer: Answer = request.post(&mut Client::connect(&self.url, None).await?).await?;
        let accepted: Accepted = answer.json().context("the webhook was not accepted")?;
        let start = Instant::now();
        while !self.watch.knows(&accepted.id) && start.elapsed() < PATIENCE {
            self.look().await?;
        }
        Ok(true)
    }

    fn not_configured(&mut self, what: &str) {
        anstream::println!("  {DOUBTFUL}– not configured: {what}{DOUBTFUL:#}");
        self.good = false;
    }

    async fn look(&mut self) -> Result<()> {
        self.watch.look().await?;
        tokio::time::sleep(OFTEN).await;
        Ok(())
    }

    /// Until nothing is left to do: only then is "exactly one" more than "one so far".
    async fn settle(&mut self, start: &Start) -> Result<()> {
        self.watch.look().await?;
        while !self.watch.is_quiet(&start.events) && !start.is_late() {
            self.look().await?;
        }
        Ok(())
    }

    async fn judge(&mut self, start: &Start, facts: impl Fn(proof::Stored<'_>) -> Vec<Fact>) -> Result<()> {
        let facts = facts(&|system, kind| start.stored(self.stand_ins, system, kind));
        self.conclude(start, &facts).await
    }

    /// Says which facts hold. In chaos a dead letter of the same system may take the place of what is missing there.
    async fn conclude(&mut self, start: &Start, facts: &[Fact]) -> Result<()> {
        let unfinished = self.watch.unfinished(&start.events);
        let dead = self.watch.dead_letters(&start.events).await?;
        let systems: Vec<&str> = dead.iter().map(|letter| self.stand_ins.system_of(&letter.endpoint)).collect();
        let excused = |fact: &Fact| self.chaos && systems.iter().any(|system| fact.lacks_at(system));
        anstream::println!();
        for fact in facts {
            let (mark, style) = match () {
                () if fact.holds() => ("✓", GOOD),
                () if excused(fact) => ("–", DOUBTFUL),
                () => ("✗", BAD),
            };
            anstream::println!("  {style}{mark} {}{style:#}", fact.what());
        }
        let (mark, style) = if self.chaos { ("–", DOUBTFUL) } else { ("✗", BAD) };
        for letter in &dead {
            anstream::println!("  {style}{mark} dead letter: {letter}{style:#}");
        }
        for line in &unfinished {
            anstream::println!("  {BAD}✗ {line}{BAD:#}");
        }
        let good = facts.iter().all(|fact| fact.holds() || excused(fact));
        self.good &= good && unfinished.is_empty() && (self.chaos || dead.is_empty());
        Ok(())
    }

    /// What chaos took: attempts, retries, breakers, dead letters.
    pub(super) async fn sum_up(&mut self) -> Result<()> {
        let tally = self.watch.tally();
        let old = self.watch.old().clone();
        let dead = self.watch.dead_letters(&old).await?;
        heading("Chaos", "what it took");
        let rows = [
            ("events", tally.events, "those of the flows and what came of them"),
            ("deliveries", tally.deliveries, "owed because of them"),
            ("attempts", tally.attempts as usize, ""),
            ("retries", tally.retries as usize, "of these, after a failure"),
            ("open breakers", tally.breakers_opened, ""),
            ("dead letters", dead.len(), ""),
        ];
        for (name, count, what) in rows {
            anstream::println!("  {name:<14}{STRONG}{count:>5}{STRONG:#}  {QUIET}{what}{QUIET:#}");
        }
        for letter in &dead {
            anstream::println!("  {DOUBTFUL}–{DOUBTFUL:#} {QUIET}{letter}{QUIET:#}");
        }
        for (count, what) in [(tally.retries as usize, "retry"), (tally.breakers_opened, "open breaker")] {
            self.expect_some(count, what);
        }
        self.expect_some(dead.len(), "dead letter");
        if self.good {
            anstream::println!("\n  {GOOD}✓ each message arrived once, or is a dead letter with its reason{GOOD:#}");
        }
        Ok(())
    }

    fn expect_some(&mut self, count: usize, what: &str) {
        if count == 0 {
            anstream::println!("  {BAD}✗ there should be a {what}{BAD:#}");
            self.good = false;
        }
    }
}

impl Start {
    fn stored(&self, stand_ins: &StandIns, system: &str, kind: &str) -> Vec<Value> {
        let before = self.stored.iter().find(|((of, what), _)| *of == system && *what == kind);
        stand_ins.records(system, kind).into_iter().skip(before.map_or(0, |(_, count)| *count)).collect()
    }

    fn is_late(&self) -> bool {
        self.at.elapsed() > PATIENCE
    }
}

impl Person {
    /// With a mobile number of São Paulo that no earlier run has used.
    fn new() -> Result<Person> {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random number: {error}"))?;
        let number = u32::from_le_bytes(bytes) % 100_000_000;
        Ok(Person { phone: format!("55119{number:08}"), email: format!("maria.{number}@example.com"), number })
    }
}

/// A body without all that is not so.
fn telling(body: &Value) -> Value {
    let fields = body.as_object().into_iter().flatten().filter(|(_, value)| **value != Value::Bool(false));
    Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn heading(title: &str, what: &str) {
    anstream::println!("\n{STRONG}── {title}{STRONG:#}  {QUIET}{what}{QUIET:#}\n");
}

/// A link whose signature has another first character.
fn forged(link: &str) -> String {
    let Some((start, signature)) = link.rsplit_once('.') else { return format!("{link}x") };
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{start}.{first}{}", signature.get(1..).unwrap_or_default())
}

fn hours(seconds: f64) -> String {
    match seconds / 3600.0 {
        1.0 => "an hour".into(),
        hours if hours > 1.0 => format!("{hours} hours"),
        _ => format!("{seconds} s"),
    }
}

/// RFC 3339, UTC, to the second.
fn now() -> String {
    jiff::Timestamp::from_second(unix_seconds() as i64).map_or_else(|_| String::new(), |now| now.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_link_differs_in_its_signature_only() {
        assert_eq!(forged("/feedback/abc.Aef"), "/feedback/abc.Bef");
        assert_eq!(forged("/feedback/abc.def"), "/feedback/abc.Aef");
        assert_eq!(forged("/feedback/abc"), "/feedback/abcx");
    }

    #[test]
    fn what_is_not_so_is_not_shown() {
        assert_eq!(
            telling(&json!({ "a": false, "b": null, "c": { "d": false } })),
            json!({ "b": null, "c": { "d": false } })
        );
    }

    #[test]
    fn a_delay_is_said_in_words() {
        assert_eq!([7200.0, 3600.0, 5400.0, 90.0].map(hours), ["2 hours", "an hour", "1.5 hours", "90 s"]);
    }
}
