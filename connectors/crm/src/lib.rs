//! Carinho's CRM: a lead that is known gets its new contact counted, any other is created, and either way
//! `lead.registered` tells the lead's id to whoever needs it. What people write on WhatsApp is noted with their lead.
//! A client that was a lead advances it. For the sync jobs, what waits in CRM is fetched here and confirmed here.

use std::collections::BTreeMap;

use tomada_carinho::{Id, Settings, System, data, digits, event_unknown, found, pass_on, payload, same_phone, sync};
use tomada_sdk::prelude::*;
use tomada_sdk::time::rfc3339;

const LEADS: &str = "/api/v1/leads";

#[connector(
    name = "crm",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = [
        "lead.created",
        "client.registered",
        "lead.advanced",
        "whatsapp.inbound",
        "schedule.created",
        "billing.configured",
        "client.create",
        "sync.crm_operacao",
        "sync.crm_financeiro",
    ],
    emits = [
        "lead.registered",
        "lead.advanced",
        "lead.created",
        "whatsapp.identified",
        "schedule.pending",
        "billing.pending",
    ],
    description = "Keeps leads, deals and conversations in Carinho's CRM, and fetches what waits there."
)]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    let crm = System::new(cx, &event)?.with_service_origin();
    match event.event_type.as_str() {
        "lead.created" => register_lead(&crm, &event),
        "client.registered" => advance_lead(&crm, &event),
        "lead.advanced" => create_deal(&crm, &event),
        "whatsapp.inbound" => note_message(cx, &crm, &event),
        "schedule.created" => confirm_schedule(&crm, &event),
        "billing.configured" => confirm_billing(&crm, &event),
        "client.create" => Ok(pass_on(crm.post("/api/v1/clients"), &event).send()?.ok()?.into()),
        "sync.crm_operacao" => fetch(&crm, &event, "/api/v1/sync/pending-schedules", "schedule.pending"),
        "sync.crm_financeiro" => fetch(&crm, &event, "/api/v1/sync/pending-billing-setup", "billing.pending"),
        other => Err(event_unknown(
            other,
            &[
                "lead.created",
                "client.registered",
                "lead.advanced",
                "whatsapp.inbound",
                "schedule.created",
                "billing.configured",
                "client.create",
                "sync.crm_operacao",
                "sync.crm_financeiro",
            ],
        )),
    }
}

#[derive(Deserialize, Serialize)]
struct Lead {
    name: Option<String>,
    phone: String,
    email: Option<String>,
    source: Option<String>,
    utm_source: Option<String>,
    utm_medium: Option<String>,
    utm_campaign: Option<String>,
    message: Option<String>,
}

/// A lead as CRM has it.
#[derive(Deserialize)]
struct Known {
    id: Id,
    phone: Option<String>,
    interaction_count: Option<u64>,
    last_contact_at: Option<String>,
    source: Option<String>,
    message: Option<String>,
}

#[derive(Serialize)]
struct Registered {
    lead_id: Id,
    created: bool,
    #[serde(flatten)]
    lead: Lead,
}

/// Step 1 of "Lead criado".
fn register_lead(crm: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    let lead: Lead = payload(event)?;
    let (lead_id, created, note) = match find_lead(crm, &lead.phone)? {
        Some(known) if event.attempt > 1 && known.is_ours(&lead) => (known.id, true, "an earlier try created the lead"),
        Some(known) => {
            let last_contact_at = rfc3339(event.created_ms);
            // A retry whose first attempt got this far must not count the contact again.
            if !known.was_contacted_at(&last_contact_at) {
                let update = json!({
                    "last_contact_at": last_contact_at,
                    "interaction_count": known.interaction_count.unwrap_or_default() + 1,
                });
                crm.put(LEADS).segment(&known.id).json(&update).send()?.ok()?;
            }
            (known.id, false, "the lead was known")
        }
        None => {
            #[derive(Deserialize)]
            struct Created {
                id: Id,
            }
            let created: Created = data(crm.post(LEADS).json(&lead).send()?)?;
            (created.id, true, "the lead was created")
        }
    };
    Receipt::new().note(note).emit("lead.registered", &Registered { lead_id, created, lead })
}

/// The lead with this phone, by CRM's order the first. CRM is asked for it, and its answer is checked nevertheless: a
/// list that was not filtered would have the contact counted for somebody else.
fn find_lead(crm: &System<'_>, phone: &str) -> Result<Option<Known>, Failure> {
    if digits(phone).is_empty() {
        return Err(Failure::rejected(
            "phone-missing",
            "there is no phone, by which CRM knows its leads: ask the source for one",
        ));
    }
    let leads: Vec<Known> = found(crm.get(LEADS).query(&[("phone", phone)]).send()?)?;
    Ok(leads.into_iter().find(|known| known.phone.as_deref().is_some_and(|theirs| same_phone(theirs, phone))))
}

impl Known {
    /// Whether this is what an earlier try of the same event created, though its answer never came: nobody has been in
    /// contact since, and it says what we would say.
    fn is_ours(&self, lead: &Lead) -> bool {
        self.last_contact_at.is_none()
            && self.interaction_count.unwrap_or_default() <= 1
            && (&self.source, &self.message) == (&lead.source, &lead.message)
    }

    /// To the second, in UTC, with CRM's fractions or without.
    fn was_contacted_at(&self, rfc3339: &str) -> bool {
        let second = rfc3339.trim_end_matches('Z');
        self.last_contact_at.as_ref().is_some_and(|theirs| theirs.replacen(' ', "T", 1).starts_with(second))
    }
}

#[derive(Deserialize, Serialize)]
struct Advanced {
    lead_id: Id,
    client_id: Id,
    value: Json,
    service_type: String,
}

/// Step 3 of "Cliente cadastrado", first half. The deal is a delivery of its own, so that its retry advances nothing.
fn advance_lead(crm: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Client {
        id: Id,
        lead_id: Option<Id>,
        value: Option<Json>,
        service_type: Option<String>,
    }
    let client: Client = payload(event)?;
    let Some(lead_id) = client.lead_id.and_then(Id::given) else {
        return Ok(Receipt::new().note("the client was no lead"));
    };
    let advanced = Advanced {
        lead_id,
        client_id: client.id,
        value: client.value.unwrap_or_else(|| json!(0)),
        service_type: client.service_type.filter(|given| !given.is_empty()).unwrap_or_else(|| "horista".to_owned()),
    };
    let request = crm.post(LEADS).segment(&advanced.lead_id).segment("advance");
    let answer = request.json(&json!({})).send()?.ok()?;
    Receipt::from(answer).note("the lead was advanced").emit("lead.advanced", &advanced)
}

/// Step 3 of "Cliente cadastrado", second half.
fn create_deal(crm: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    let deal: Advanced = payload(event)?;
    Ok(crm.post("/api/v1/deals").json(&deal).send()?.ok()?.into())
}

/// Step 3 of "WhatsApp recebido".
fn note_message(cx: &Context<Settings>, crm: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Message {
        phone: String,
        name: Option<String>,
        body: Option<String>,
        channel: Option<String>,
        message_id: Option<String>,
        received_at: Option<String>,
    }
    let message: Message = payload(event)?;
    let mut identified: BTreeMap<String, Json> = payload(event)?;
    let content = message.body.unwrap_or_default();
    let lead = find_lead(crm, &message.phone)?;
    identified.insert("lead_id".to_owned(), json!(lead.as_ref().map(|lead| &lead.id)));

    let receipt = match lead {
        Some(lead) => {
            let interaction = json!({
                "channel": message.channel.as_deref().unwrap_or("whatsapp"),
                "direction": "inbound",
                "content": content,
                "metadata": {"message_id": message.message_id, "received_at": message.received_at},
            });
            let request = crm.post(LEADS).segment(&lead.id).segment("interactions");
            Receipt::from(request.json(&interaction).send()?.ok()?).note("the message was noted with its lead")
        }
        None => {
            // One lead for a burst of first messages, which all come before CRM knows the lead. Operators see the key, so
            // the phone does not stand in it.
            let date = &rfc3339(event.created_ms)[.."2026-11-24".len()];
            let who = cx.hmac_sha256("api_key", digits(&message.phone))?.hex();
            let key = format!("whatsapp/{}/{date}", &who[..16]);
            let lead = json!({
                "name": message.name,
                "phone": message.phone,
                "source": "whatsapp",
                "message": content,
            });
            Receipt::new().note("CRM knows nobody with this phone: a new lead").emit_once("lead.created", &lead, key)?
        }
    };
    receipt.emit("whatsapp.identified", &identified)
}

/// The end of the sync job `crm_operacao`.
fn confirm_schedule(crm: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Schedule {
        schedule_id: Id,
        operacao_schedule_id: Id,
    }
    let schedule: Schedule = payload(event)?;
    let confirmation = json!({"operacao_schedule_id": schedule.operacao_schedule_id});
    let request = crm.post("/api/v1/sync/confirm").segment(&schedule.schedule_id);
    Ok(request.json(&confirmation).send()?.ok()?.into())
}

/// The end of the sync job `crm_financeiro`: CRM gets what Financeiro answered.
fn confirm_billing(crm: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Billing {
        contract_id: Id,
    }
    let billing: Billing = payload(event)?;
    let request = crm.post("/api/v1/contracts").segment(&billing.contract_id).segment("billing-setup");
    Ok(pass_on(request, event).send()?.ok()?.into())
}

/// The beginning of a sync job.
fn fetch(crm: &System<'_>, event: &Event<Raw>, path: &str, event_type: &str) -> Result<Receipt, Failure> {
    let job: sync::Job = payload(event)?;
    let items: Option<Vec<Json>> = data(crm.get(path).send()?)?;
    sync::page(&job, items.unwrap_or_default(), event_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, Run, event};

    const FIND: &str = "https://crm.test/api/v1/leads?phone=%2811%29%2098765-4321";
    const FIND_SENDER: &str = "https://crm.test/api/v1/leads?phone=5511987654321";
    const LEADS: &str = "https://crm.test/api/v1/leads";

    fn host() -> Host {
        Host::new().settings(json!({"base_url": "https://crm.test"})).secret("api_key")
    }

    fn deliver(prepare: impl Fn(Host) -> Host) -> Run {
        deliver_at(1, prepare)
    }

    fn deliver_at(attempt: u32, prepare: impl Fn(Host) -> Host) -> Run {
        let mut event = event("lead.created", lead());
        event.attempt = attempt;
        prepare(host()).run(handle, event)
    }

    fn lead() -> Json {
        json!({"name": "Ana Souza", "phone": "(11) 98765-4321", "email": null, "source": "site",
            "utm_campaign": "inverno"})
    }

    fn message() -> Json {
        json!({"phone": "5511987654321", "name": "Ana", "body": "Bom dia!", "type": "text", "channel": "whatsapp",
            "message_id": "3EB0", "received_at": "2026-01-01T00:00:00Z", "lead_id": null,
            "text": {"message": "Bom dia!"}})
    }

    #[test]
    fn an_unknown_lead_is_created() {
        let run = deliver(|host| {
            let others = json!({"data": [{"id": 1, "phone": "5521987654321"}, {"id": 2, "phone": null}]});
            host.answer(Method::Get, FIND, 200, others).answer(
                Method::Post,
                LEADS,
                201,
                json!({"success": true, "data": {"id": 42}}),
            )
        });
        for request in &run.requests {
            assert_eq!(request.header("X-API-Key"), Some("{api_key}"));
            assert_eq!(request.header("X-Service-Origin"), Some("integracoes"));
            assert_eq!(request.header("X-Source-System"), Some("integracoes"));
            assert_eq!(request.header("X-Request-ID"), Some("dlv_0000000000001"));
        }
        assert_eq!(run.requests[0].header("Idempotency-Key"), None);
        assert_eq!(run.requests[1].header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(
            run.requests[1].json(),
            json!({"name": "Ana Souza", "phone": "(11) 98765-4321", "email": null, "source": "site",
                "utm_source": null, "utm_medium": null, "utm_campaign": "inverno", "message": null})
        );
        let (event_type, payload) = &run.emitted()[0];
        assert_eq!(*event_type, "lead.registered");
        assert_eq!(
            *payload,
            json!({"lead_id": 42, "created": true, "name": "Ana Souza", "phone": "(11) 98765-4321", "email": null,
                "source": "site", "utm_source": null, "utm_medium": null, "utm_campaign": "inverno", "message": null})
        );
    }

    #[test]
    fn a_known_lead_has_its_contact_counted() {
        let known = json!({"data": [
            {"id": "a/1", "phone": "5511987654321", "interaction_count": 3, "last_contact_at": "2025-12-31T10:00:00Z"},
            {"id": "a/2", "phone": "5511987654321", "interaction_count": 8},
        ]});
        let run = deliver(|host| {
            host.answer(Method::Get, FIND, 200, known.clone()).answer(
                Method::Put,
                "https://crm.test/api/v1/leads/a%2F1",
                200,
                json!({}),
            )
        });
        let update = json!({"last_contact_at": "2026-01-01T00:00:00Z", "interaction_count": 4});
        assert_eq!(run.requests[1].json(), update);
        assert_eq!(run.requests[1].header("Idempotency-Key"), Some("dlv_0000000000001"));
        let (_, payload) = &run.emitted()[0];
        assert_eq!((&payload["lead_id"], &payload["created"]), (&json!("a/1"), &json!(false)));
    }

    #[test]
    fn a_retry_counts_nothing_twice() {
        for last_contact_at in ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000Z", "2026-01-01 00:00:00"] {
            let known = json!({"id": 7, "phone": "11987654321", "last_contact_at": last_contact_at});
            let run = deliver(|host| host.answer(Method::Get, FIND, 200, json!({"data": [known]})));
            assert_eq!(run.emitted()[0].1["lead_id"], 7);
            assert_eq!(run.emitted()[0].1["created"], false);
        }
    }

    #[test]
    fn a_retry_knows_the_lead_that_the_first_try_created() {
        let known = json!([{"id": 7, "phone": "11987654321", "source": "site", "interaction_count": 1}]);
        let run = deliver_at(2, |host| host.answer(Method::Get, FIND, 200, known.clone()));
        assert_eq!(run.emitted()[0].1["created"], true);
        assert_eq!(run.receipt().note.as_deref(), Some("an earlier try created the lead"));

        // Anybody else's, or one that somebody talked to, is counted.
        for (attempt, field, value) in [
            (1, "source", json!("site")),
            (2, "source", json!("indicação")),
            (2, "message", json!("Olá")),
            (2, "interaction_count", json!(2)),
            (2, "last_contact_at", json!("2025-12-31T10:00:00Z")),
        ] {
            let mut known = known.clone();
            known[0][field] = value;
            let run = deliver_at(attempt, |host| {
                let host = host.answer(Method::Get, FIND, 200, known.clone());
                host.answer(Method::Put, "https://crm.test/api/v1/leads/7", 200, json!({}))
            });
            assert_eq!(run.emitted()[0].1["created"], false, "{attempt} {field}");
        }
    }

    #[test]
    fn failures_are_the_right_kind() {
        let run = deliver(|host| host.answer(Method::Get, FIND, 503, json!(null)));
        assert!(matches!(run.failure(), Failure::Transient(detail) if detail.code == "http-503"));
        let run = deliver(|host| host.answer(Method::Get, FIND, 401, json!(null)));
        assert!(matches!(run.failure(), Failure::Unauthorized(_)));
        let run = deliver(|host| {
            let host = host.answer(Method::Get, FIND, 200, json!([]));
            host.answer(Method::Post, LEADS, 201, json!({"success": true, "data": {}}))
        });
        assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == "answer-invalid"));

        for event_type in ["lead.created", "whatsapp.inbound"] {
            let run = host().run(handle, event(event_type, json!({"name": "Ana", "phone": "-"})));
            assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == "phone-missing"));
        }
        let run = host().run(handle, event("service.completed", json!({})));
        let Failure::Rejected(detail) = run.failure() else { panic!("{run:?}") };
        assert_eq!(detail.code, "event-unknown");
        assert!(detail.message.contains("lead.created, client.registered, lead.advanced, whatsapp.inbound"));
        for event_type in ["client.registered", "lead.advanced", "schedule.created", "billing.configured"] {
            let run = host().run(handle, event(event_type, json!({"lead_id": 1})));
            assert!(
                matches!(run.failure(), Failure::Rejected(detail) if detail.code == "payload-invalid"),
                "{event_type}"
            );
        }
    }

    #[test]
    fn a_client_that_was_a_lead_advances_it() {
        let advance = "https://crm.test/api/v1/leads/1001/advance";
        for (client, expected) in [
            (
                json!({"id": 55, "name": "Ana", "lead_id": 1001}),
                json!({"lead_id": 1001, "client_id": 55, "value": 0, "service_type": "horista"}),
            ),
            (
                json!({"id": "55", "lead_id": "1001", "value": null, "service_type": ""}),
                json!({"lead_id": "1001", "client_id": "55", "value": 0, "service_type": "horista"}),
            ),
            (
                json!({"id": 55, "lead_id": 1001, "value": 1500.5, "service_type": "mensalista"}),
                json!({"lead_id": 1001, "client_id": 55, "value": 1500.5, "service_type": "mensalista"}),
            ),
        ] {
            let run =
                host().answer(Method::Post, advance, 200, json!({})).run(handle, event("client.registered", client));
            assert_eq!(run.requests[0].json(), json!({}));
            assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));
            assert_eq!(run.receipt().http_status, Some(200));
            assert_eq!(run.emitted(), [("lead.advanced", expected)]);
        }
    }

    #[test]
    fn a_client_that_was_no_lead_advances_nothing() {
        for lead_id in [json!(null), json!("")] {
            let run = host().run(handle, event("client.registered", json!({"id": 55, "lead_id": lead_id})));
            assert_eq!(run.receipt().note.as_deref(), Some("the client was no lead"));
            assert!(run.emitted().is_empty());
        }
    }

    #[test]
    fn an_advance_that_fails_emits_no_deal() {
        let advance = "https://crm.test/api/v1/leads/1001/advance";
        for (status, kind) in [(404, "Rejected"), (502, "Transient"), (429, "RateLimited")] {
            let run = host()
                .answer(Method::Post, advance, status, json!({}))
                .run(handle, event("client.registered", json!({"id": 55, "lead_id": 1001})));
            assert!(format!("{:?}", run.failure()).starts_with(&format!("Failure::{kind}(")), "{status}");
        }
    }

    #[test]
    fn an_advanced_lead_becomes_a_deal() {
        let deal = json!({"lead_id": 1001, "client_id": 55, "value": 0, "service_type": "horista"});
        let run = host()
            .answer(Method::Post, "https://crm.test/api/v1/deals", 201, json!({"success": true, "data": {"id": 3}}))
            .run(handle, event("lead.advanced", deal.clone()));
        assert_eq!(run.requests[0].json(), deal);
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(run.receipt().http_status, Some(201));
    }

    #[test]
    fn a_message_is_noted_with_its_lead() {
        let run = host()
            .answer(
                Method::Get,
                FIND_SENDER,
                200,
                json!({"data": [{"id": 1, "phone": "5511900000000"}, {"id": 7, "phone": "(11) 98765-4321"}]}),
            )
            .answer(Method::Post, "https://crm.test/api/v1/leads/7/interactions", 201, json!({}))
            .run(handle, event("whatsapp.inbound", message()));
        assert_eq!(
            run.requests[1].json(),
            json!({"channel": "whatsapp", "direction": "inbound", "content": "Bom dia!",
                "metadata": {"message_id": "3EB0", "received_at": "2026-01-01T00:00:00Z"}})
        );
        assert_eq!(run.requests[1].header("Idempotency-Key"), Some("dlv_0000000000001"));
        let mut identified = message();
        identified["lead_id"] = json!(7);
        assert_eq!(run.emitted(), [("whatsapp.identified", identified)]);
    }

    #[test]
    fn the_first_message_of_a_stranger_is_a_lead() {
        let mut event = event("whatsapp.inbound", message());
        // 2026-11-24T23:59:59Z
        event.created_ms = 1_795_564_799_000;
        let run = host().answer(Method::Get, FIND_SENDER, 200, json!({"data": []})).run(handle, event);
        assert_eq!(
            run.emitted(),
            [
                (
                    "lead.created",
                    json!({"name": "Ana", "phone": "5511987654321", "source": "whatsapp", "message": "Bom dia!"})
                ),
                ("whatsapp.identified", message()),
            ]
        );
        let keys: Vec<_> = run.receipt().emitted.iter().map(|event| event.idempotency_key.as_deref()).collect();
        let [Some(key), None] = keys[..] else { panic!("{keys:?}") };
        assert!(key.starts_with("whatsapp/") && key.ends_with("/2026-11-24"), "{key}");
        assert!(!key.contains("987654321"), "{key}");
    }

    #[test]
    fn a_message_that_is_not_noted_is_not_passed_on() {
        let run = host()
            .answer(Method::Get, FIND_SENDER, 200, json!([{"id": 7, "phone": "5511987654321"}]))
            .answer(Method::Post, "https://crm.test/api/v1/leads/7/interactions", 500, json!({}))
            .run(handle, event("whatsapp.inbound", message()));
        assert!(matches!(run.failure(), Failure::Transient(detail) if detail.code == "http-500"));
    }

    #[test]
    fn what_was_synchronised_is_confirmed() {
        let run = host()
            .answer(Method::Post, "https://crm.test/api/v1/sync/confirm/12", 200, json!({}))
            .run(handle, event("schedule.created", json!({"schedule_id": 12, "operacao_schedule_id": "op-9"})));
        assert_eq!(run.requests[0].json(), json!({"operacao_schedule_id": "op-9"}));
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));

        let billing = json!({"contract_id": "c/5", "id": 88, "status": "active"});
        let run = host()
            .answer(Method::Post, "https://crm.test/api/v1/contracts/c%2F5/billing-setup", 200, json!({}))
            .run(handle, event("billing.configured", billing.clone()));
        assert_eq!(run.requests[0].json(), billing);
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));
    }

    #[test]
    fn a_client_is_created_as_it_is() {
        let mut event = event("client.create", json!(null));
        event.payload = Raw(br#"{"name": "Ana", "value": 1.50}"#.to_vec());
        let run = host().answer(Method::Post, "https://crm.test/api/v1/clients", 201, json!({})).run(handle, event);
        assert_eq!(run.requests[0].body, br#"{"name": "Ana", "value": 1.50}"#);
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(run.receipt().http_status, Some(201));
    }

    #[test]
    fn what_waits_is_fetched() {
        for (job, path, event_type) in [
            ("sync.crm_operacao", "pending-schedules", "schedule.pending"),
            ("sync.crm_financeiro", "pending-billing-setup", "billing.pending"),
        ] {
            let url = format!("https://crm.test/api/v1/sync/{path}");
            let items = json!({"data": [{"id": 12, "client_id": 55}, {"client_id": 56}, {"id": 4}]});
            let page = |cursor: Json| event(job, json!({"job": "j", "run": "r", "cursor": cursor}));
            let run = host().answer(Method::Get, &url, 200, items.clone()).run(handle, page(json!(null)));
            assert_eq!(
                run.emitted(),
                [(event_type, json!({"id": 4})), (event_type, json!({"id": 12, "client_id": 55}))]
            );
            let keys: Vec<_> = run.receipt().emitted.iter().filter_map(|event| event.idempotency_key.clone()).collect();
            assert_eq!(keys, [format!("{event_type}/4"), format!("{event_type}/12")]);
            assert_eq!(run.receipt().note.as_deref(), Some("items: 2, left out without an id: 1"));

            let run = host().answer(Method::Get, &url, 200, items).run(handle, page(json!("4")));
            assert_eq!(run.emitted(), [(event_type, json!({"id": 12, "client_id": 55}))]);
            let run = host().answer(Method::Get, &url, 200, json!({"data": null})).run(handle, page(json!(null)));
            assert!(run.emitted().is_empty());
            let run = host().answer(Method::Get, &url, 503, json!({})).run(handle, page(json!(null)));
            assert!(matches!(run.failure(), Failure::Transient(_)));
        }
    }
}
