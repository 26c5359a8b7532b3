//! What must be true after each flow, from what the stand-ins have stored since it began.

use std::collections::BTreeSet;

use serde_json::Value;

use super::standins::phone_digits;

/// A sentence and how often what it says was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    /// Where it is found.
    system: &'static str,
    one: String,
    many: String,
    count: usize,
    expected: usize,
}

impl Fact {
    pub(super) fn new(
        system: &'static str,
        count: usize,
        expected: usize,
        one: impl Into<String>,
        many: impl Into<String>,
    ) -> Fact {
        Fact { system, one: one.into(), many: many.into(), count, expected }
    }

    pub(super) fn holds(&self) -> bool {
        self.count == self.expected
    }

    /// Less than there should be at this system: the rest may be a dead letter.
    pub(super) fn lacks_at(&self, system: &str) -> bool {
        self.system == system && self.count < self.expected
    }

    pub(super) fn what(&self) -> String {
        let Fact { one, many, count, expected, .. } = self;
        match (count, expected) {
            (0, _) => format!("no {}", if *expected > 1 { many } else { one }),
            (1, 1) => format!("exactly one {one}"),
            _ if self.holds() => format!("exactly {count} {many}"),
            _ => format!("{count} {}, there should be {expected}", if *count == 1 { one } else { many }),
        }
    }
}

/// What a system has stored of a kind since the flow began.
pub(super) type Stored<'a> = &'a dyn Fn(&str, &str) -> Vec<Value>;

fn one(system: &'static str, count: usize, one: &str, many: &str) -> Fact {
    Fact::new(system, count, 1, one, many)
}

fn count(stored: Stored<'_>, system: &str, kind: &str, is: impl Fn(&Value) -> bool) -> usize {
    stored(system, kind).iter().filter(|record| is(record)).count()
}

/// A number is equal to its text.
fn is(value: &Value, expected: &Value) -> bool {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    !value.is_null() && plain(value) == plain(expected)
}

fn to(phone: &str) -> impl Fn(&Value) -> bool {
    let phone = phone_digits(phone);
    move |record| phone_digits(record["phone"].as_str().unwrap_or_default()) == phone
}

fn plain_event(stored: Stored<'_>, system: &'static str, event_type: &str) -> Fact {
    let found = count(stored, system, "events", |event| event["_meta"]["event_type"] == *event_type);
    one(system, found, &format!("event {event_type} at {system}"), &format!("events {event_type} at {system}"))
}

/// Lead criado.
pub(super) fn lead(stored: Stored<'_>, phone: &str) -> Vec<Fact> {
    let created: Vec<Value> = stored("crm", "leads").into_iter().filter(to(phone)).collect();
    let id = created.first().map(|lead| lead["id"].clone()).unwrap_or_default();
    let of_lead = if id.is_null() { "of the lead".into() } else { format!("of lead {id}") };
    let attributed = count(stored, "marketing", "attributions", |attribution| is(&attribution["lead_id"], &id));
    vec![
        one("crm", created.len(), "lead created at CRM", "leads created at CRM"),
        one("zapi", count(stored, "zapi", "texts", to(phone)), "WhatsApp text at Z-API", "WhatsApp texts at Z-API"),
        one(
            "marketing",
            attributed,
            &format!("attribution {of_lead} at marketing"),
            &format!("attributions {of_lead} at marketing"),
        ),
    ]
}

/// Cliente cadastrado; `client` is the event's payload.
pub(super) fn client(stored: Stored<'_>, client: &Value) -> Vec<Fact> {
    let phone = client["phone"].as_str().unwrap_or_default();
    let lead = |record: &Value| is(&record["lead_id"], &client["lead_id"]);
    let deals = count(stored, "crm", "deals", |deal| lead(deal) && is(&deal["client_id"], &client["id"]));
    let mails = count(stored, "email", "messages", |mail| mail["to"] == client["email"]);
    let clients = count(stored, "financeiro", "clients", |known| is(&known["crm_client_id"], &client["id"]));
    vec![
        one("email", mails, "welcome by e-mail", "welcomes by e-mail"),
        one("zapi", count(stored, "zapi", "texts", to(phone)), "welcome by WhatsApp", "welcomes by WhatsApp"),
        one(
            "crm",
            count(stored, "crm", "advances", lead),
            "step forward of the lead at CRM",
            "steps forward of the lead at CRM",
        ),
        one("crm", deals, "deal at CRM", "deals at CRM"),
        one("financeiro", clients, "client at Financeiro", "clients at Financeiro"),
    ]
}

/// Serviço completado; `service` is the event's payload.
pub(super) fn service(stored: Stored<'_>, service: &Value) -> Vec<Fact> {
    let phone = service["client_phone"].as_str().unwrap_or_default();
    let asked = count(stored, "zapi", "button_lists", |message| {
        let buttons = message["buttonList"]["buttons"].as_array().into_iter().flatten();
        let ids: Vec<&str> = buttons.filter_map(|button| button["id"].as_str()).collect();
        to(phone)(message) && ids == ["rating_1", "rating_2", "rating_3", "rating_4", "rating_5"]
    });
    let mails =
        count(stored, "email", "messages", |mail| mail["to"] == service["client_email"] && link(mail).is_some());
    let of_service = |field: &'static str| move |record: &Value| is(&record[field], &service["id"]);
    vec![
        one("zapi", count(stored, "zapi", "texts", to(phone)), "thank-you by WhatsApp", "thank-yous by WhatsApp"),
        one("zapi", asked, "question with five buttons by WhatsApp", "questions with five buttons by WhatsApp"),
        one("email", mails, "question with a link by e-mail", "questions with a link by e-mail"),
        one(
            "financeiro",
            count(stored, "financeiro", "invoices", of_service("operacao_service_id")),
            "invoice at Financeiro",
            "invoices at Financeiro",
        ),
        one(
            "operacao",
            count(stored, "operacao", "billed", of_service("service_id")),
            "mark as billed at Operação",
            "marks as billed at Operação",
        ),
        plain_event(stored, "crm", "service.completed"),
        plain_event(stored, "cuidadores", "service.completed"),
    ]
}

/// The answer to the link in the mail.
pub(super) fn rating(stored: Stored<'_>, service: &Value, stars: u64) -> Vec<Fact> {
    let of_caregiver = |rating: &Value| {
        is(&rating["caregiver_id"], &service["caregiver_id"])
            && is(&rating["service_id"], &service["id"])
            && rating["rating"] == stars
    };
    let found = count(stored, "cuidadores", "ratings", of_caregiver);
    vec![one("cuidadores", found, "rating of the caregiver at Cuidadores", "ratings of the caregiver at Cuidadores")]
}

/// WhatsApp recebido, a text of a person that is known as `lead`.
pub(super) fn message(stored: Stored<'_>, phone: &str, lead: &Value) -> Vec<Fact> {
    let noted = count(stored, "crm", "interactions", |interaction| is(&interaction["lead_id"], lead));
    let begun = count(stored, "atendimento", "conversations", |conversation| {
        to(phone)(conversation) && is(&conversation["crm_lead_id"], lead)
    });
    vec![
        one(
            "crm",
            noted,
            &format!("interaction of lead {lead} at CRM"),
            &format!("interactions of lead {lead} at CRM"),
        ),
        one(
            "atendimento",
            begun,
            "conversation with this lead at Atendimento",
            "conversations with this lead at Atendimento",
        ),
        Fact::new("crm", count(stored, "crm", "leads", to(phone)), 0, "second lead at CRM", "second leads at CRM"),
    ]
}

/// WhatsApp recebido, a rating by button.
pub(super) fn button(stored: Stored<'_>, phone: &str) -> Vec<Fact> {
    let spoken = stored("atendimento", "messages").len() + stored("atendimento", "conversations").len();
    vec![
        one("zapi", count(stored, "zapi", "texts", to(phone)), "thank-you by WhatsApp", "thank-yous by WhatsApp"),
        Fact::new("atendimento", spoken, 0, "message of it at Atendimento", "messages of it at Atendimento"),
    ]
}

/// crm_operacao; `items` are CRM's pending schedules.
pub(super) fn schedules(stored: Stored<'_>, items: &[Value]) -> Vec<Fact> {
    let created = stored("operacao", "schedules");
    let ids: Vec<&Value> = created.iter().map(|schedule| &schedule["id"]).collect();
    let confirmations = stored("crm", "confirmations");
    let confirmed: BTreeSet<String> = confirmations
        .iter()
        .filter(|confirmation| ids.iter().any(|id| is(&confirmation["operacao_schedule_id"], id)))
        .filter(|confirmation| items.iter().any(|item| is(&confirmation["schedule_id"], &item["id"])))
        .map(|confirmation| format!("{} {}", confirmation["schedule_id"], confirmation["operacao_schedule_id"]))
        .collect();
    let n = items.len();
    vec![
        Fact::new("operacao", created.len(), n, "schedule created at Operação", "schedules created at Operação"),
        Fact::new("crm", confirmations.len(), n, "confirmation at CRM", "confirmations at CRM"),
        Fact::new(
            "crm",
            confirmed.len(),
            n,
            "confirmation of its own id",
            "confirmations, each of another with its new id",
        ),
    ]
}

/// The way to rate a service that a mail shows.
pub(super) fn link(mail: &Value) -> Option<String> {
    let text = mail["text"].as_str()?;
    let path = &text[text.find("/feedback/")?..];
    let end = path.find(|c: char| !(c.is_ascii_alphanumeric() || "/-_.=~".contains(c))).unwrap_or(path.len());
    Some(path[..end].trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[derive(Default)]
    struct Store(BTreeMap<(String, String), Vec<Value>>);

    impl Store {
        fn add(&mut self, system: &str, kind: &str, record: Value) -> &mut Store {
            self.0.entry((system.into(), kind.into())).or_default().push(record);
            self
        }

        fn holds(&self, facts: impl Fn(Stored<'_>) -> Vec<Fact>) -> Vec<bool> {
            let stored =
                |system: &str, kind: &str| self.0.get(&(system.into(), kind.into())).cloned().unwrap_or_default();
            facts(&stored).iter().map(Fact::holds).collect()
        }
    }

    const PHONE: &str = "(11) 98888-7777";

    fn text() -> Value {
        json!({ "phone": "5511988887777", "message": "Olá" })
    }

    #[test]
    fn a_fact_holds_for_as_many_as_there_should_be() {
        let said = |count, expected| Fact::new("crm", count, expected, "lead", "leads").what();
        assert_eq!(said(1, 1), "exactly one lead");
        assert_eq!(said(0, 1), "no lead");
        assert_eq!(said(2, 1), "2 leads, there should be 1");
        assert_eq!(said(0, 0), "no lead");
        assert_eq!(said(1, 0), "1 lead, there should be 0");
        assert_eq!(said(3, 3), "exactly 3 leads");
        assert_eq!(said(0, 3), "no leads");
        let fact = |count, expected| Fact::new("crm", count, expected, "lead", "leads");
        assert!(fact(1, 1).holds() && !fact(2, 1).holds() && !fact(0, 1).holds());
        assert!(fact(0, 1).lacks_at("crm") && !fact(0, 1).lacks_at("zapi") && !fact(2, 1).lacks_at("crm"));
    }

    #[test]
    fn lead_criado() {
        let mut store = Store::default();
        let facts = |stored: Stored<'_>| lead(stored, PHONE);
        assert_eq!(store.holds(facts), [false; 3]);
        store.add("crm", "leads", json!({ "id": 6, "phone": "5511900000000" }));
        store.add("marketing", "attributions", json!({ "lead_id": 6 }));
        assert_eq!(store.holds(facts), [false; 3]);
        store.add("crm", "leads", json!({ "id": 7, "phone": "5511988887777" }));
        store.add("zapi", "texts", text()).add("marketing", "attributions", json!({ "lead_id": "7" }));
        assert_eq!(store.holds(facts), [true; 3]);
        store.add("zapi", "texts", text());
        assert_eq!(store.holds(facts), [true, false, true]);
    }

    #[test]
    fn cliente_cadastrado() {
        let mut store = Store::default();
        let payload = json!({ "id": 70, "phone": PHONE, "email": "a@b", "lead_id": 7 });
        let facts = |stored: Stored<'_>| client(stored, &payload);
        store.add("email", "messages", json!({ "to": "other@b" })).add("crm", "deals", json!({ "lead_id": 7 }));
        assert_eq!(store.holds(facts), [false; 5]);
        store.add("email", "messages", json!({ "to": "a@b" })).add("zapi", "texts", text());
        store.add("crm", "advances", json!({ "lead_id": 7 }));
        store.add("crm", "deals", json!({ "lead_id": 7, "client_id": 70 }));
        store.add("financeiro", "clients", json!({ "crm_client_id": 70 }));
        assert_eq!(store.holds(facts), [true; 5]);
        store.add("crm", "advances", json!({ "lead_id": 7 }));
        assert_eq!(store.holds(facts), [true, true, false, true, true]);
    }

    #[test]
    fn servico_completado() {
        let mut store = Store::default();
        let payload = json!({ "id": 9, "caregiver_id": 601, "client_phone": PHONE, "client_email": "a@b" });
        let facts = |stored: Stored<'_>| [service(stored, &payload), rating(stored, &payload, 5)].concat();
        let buttons = |ids: &[u8]| {
            let buttons: Vec<Value> = ids.iter().map(|id| json!({ "id": format!("rating_{id}") })).collect();
            json!({ "phone": "5511988887777", "buttonList": { "buttons": buttons } })
        };
        store.add("zapi", "button_lists", buttons(&[1, 2, 3, 4]));
        store.add("email", "messages", json!({ "to": "a@b", "text": "sem link" }));
        store.add("crm", "events", json!({ "_meta": { "event_type": "service.started" } }));
        store.add("cuidadores", "ratings", json!({ "caregiver_id": "601", "service_id": 9, "rating": 4 }));
        assert_eq!(store.holds(facts), [false; 8]);
        store.add("zapi", "texts", text()).add("zapi", "button_lists", buttons(&[1, 2, 3, 4, 5]));
        store.add("email", "messages", json!({ "to": "a@b", "text": "https://hub/feedback/a.b" }));
        store.add("financeiro", "invoices", json!({ "operacao_service_id": 9 }));
        store.add("operacao", "billed", json!({ "service_id": "9" }));
        for system in ["crm", "cuidadores"] {
            store.add(system, "events", json!({ "_meta": { "event_type": "service.completed" } }));
        }
        store.add("cuidadores", "ratings", json!({ "caregiver_id": "601", "service_id": 9, "rating": 5 }));
        assert_eq!(store.holds(facts), [true; 8]);
        store.add("financeiro", "invoices", json!({ "operacao_service_id": 9 }));
        assert_eq!(store.holds(facts), [true, true, true, false, true, true, true, true]);
    }

    #[test]
    fn whatsapp_recebido() {
        let mut store = Store::default();
        let lead = json!(7);
        let facts = |stored: Stored<'_>| message(stored, PHONE, &lead);
        assert_eq!(store.holds(facts), [false, false, true]);
        store.add("crm", "interactions", json!({ "lead_id": 7 }));
        store.add("atendimento", "conversations", json!({ "phone": "5511988887777", "crm_lead_id": 7 }));
        assert_eq!(store.holds(facts), [true; 3]);
        assert_eq!(store.holds(|stored| button(stored, PHONE)), [false, false]);
        store.add("crm", "leads", text());
        assert_eq!(store.holds(facts), [true, true, false]);
    }

    #[test]
    fn crm_operacao() {
        let mut store = Store::default();
        let items = [json!({ "id": 301 }), json!({ "id": 302 })];
        let facts = |stored: Stored<'_>| schedules(stored, &items);
        for (item, created) in [(301, 8001), (302, 8002)] {
            assert_eq!(store.holds(facts), [false; 3]);
            store.add("operacao", "schedules", json!({ "id": created }));
            store.add("crm", "confirmations", json!({ "schedule_id": item, "operacao_schedule_id": created }));
        }
        assert_eq!(store.holds(facts), [true; 3]);
        store.add("operacao", "schedules", json!({ "id": 8003 }));
        store.add("crm", "confirmations", json!({ "schedule_id": 301, "operacao_schedule_id": 8001 }));
        assert_eq!(store.holds(facts), [false, false, true]);
    }

    #[test]
    fn a_link_ends_where_the_text_goes_on() {
        for (text, path) in [
            ("Avalie: https://hub.test/feedback/eyJ-_.AbC9 Obrigado", Some("/feedback/eyJ-_.AbC9")),
            ("<http://127.0.0.1:8080/feedback/a.b>", Some("/feedback/a.b")),
            ("em http://hub/feedback/a.b.", Some("/feedback/a.b")),
            ("nada", None),
        ] {
            assert_eq!(link(&json!({ "text": text })).as_deref(), path, "{text}");
        }
        assert_eq!(link(&json!({})), None);
    }
}
