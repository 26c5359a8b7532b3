//! Carinho's Operação: creates the schedules that wait in CRM, finds the services that nobody has billed, and marks
//! them billed once they have an invoice.

use tomada_carinho::{Id, Settings, System, data, event_unknown, is_set, pass_on, payload, sao_paulo_date, sync};
use tomada_sdk::prelude::*;

/// How far back the job `operacao_financeiro` looks.
const LOOK_BACK_DAYS: i64 = 7;

#[connector(
    name = "operacao",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = ["schedule.pending", "invoice.created", "sync.operacao_financeiro"],
    emits = ["schedule.created", "service.unbilled"],
    description = "Creates schedules in Carinho's Operação and finds the services that are not billed."
)]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    let operacao = System::new(cx, &event)?;
    match event.event_type.as_str() {
        "schedule.pending" => create_schedule(&operacao, &event),
        "invoice.created" => mark_billed(&operacao, &event),
        "sync.operacao_financeiro" => find_unbilled(&operacao, &event),
        other => Err(event_unknown(other, &["schedule.pending", "invoice.created", "sync.operacao_financeiro"])),
    }
}

/// The middle of the sync job `crm_operacao`; CRM confirms.
fn create_schedule(operacao: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Schedule {
        id: Id,
    }
    let pending: Schedule = payload(event)?;
    // The item's own key: whichever run or replay brings it, it is one schedule.
    let request = operacao.post_once("/api/v1/schedules", &format!("schedule.pending/{}", pending.id));
    let created: Schedule = data(pass_on(request, event).send()?)?;
    let confirmation = json!({"schedule_id": pending.id, "operacao_schedule_id": created.id});
    Receipt::new().note("the schedule was created").emit("schedule.created", &confirmation)
}

/// The end of "Serviço completado" and of the sync job `operacao_financeiro`.
fn mark_billed(operacao: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Invoice {
        invoice_id: Option<Id>,
        operacao_service_id: Option<Id>,
    }
    let invoice: Invoice = payload(event)?;
    let (Some(invoice_id), Some(service_id)) =
        (invoice.invoice_id.and_then(Id::given), invoice.operacao_service_id.and_then(Id::given))
    else {
        return Ok(Receipt::new().note("the invoice names no service of Operação"));
    };
    let request = operacao.put("/api/v1/services").segment(&service_id).segment("billed");
    Ok(request.json(&json!({"invoice_id": invoice_id})).send()?.ok()?.into())
}

/// The beginning of the sync job `operacao_financeiro`.
fn find_unbilled(operacao: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    let job: sync::Job = payload(event)?;
    // The days before the job was due, so that a late try asks for the same ones.
    let start_date = sao_paulo_date(event.created_ms, -LOOK_BACK_DAYS);
    let end_date = sao_paulo_date(event.created_ms, 0);
    let request = operacao.get("/api/v1/services").query(&[
        ("status", "completed"),
        ("start_date", &start_date),
        ("end_date", &end_date),
    ]);
    let services: Option<Vec<Json>> = data(request.send()?)?;
    // A list that was not filtered would have services invoiced that never took place.
    let is_completed = |service: &Json| service.get("status").is_none_or(|status| status == "completed");
    let is_billed = |service: &Json| service.get("billed").is_some_and(is_set);
    let mut services = services.unwrap_or_default();
    services.retain(|service| is_completed(service) && !is_billed(service));
    sync::page(&job, services, "service.unbilled")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, event};

    const SERVICES: &str = "https://op.test/api/v1/services?status=completed&start_date=2026-11-17&end_date=2026-11-24";

    fn host() -> Host {
        Host::new().settings(json!({"base_url": "https://op.test", "auth": "internal_token"})).secret("api_key")
    }

    #[test]
    fn a_pending_schedule_is_created_once() {
        let mut event = event("schedule.pending", json!(null));
        event.payload = Raw(br#"{"id": 12, "client_id": 55, "hours": 4.50}"#.to_vec());
        let run = host()
            .answer(
                Method::Post,
                "https://op.test/api/v1/schedules",
                201,
                json!({"success": true, "data": {"id": "s9"}}),
            )
            .run(handle, event);
        let request = &run.requests[0];
        assert_eq!(request.body, br#"{"id": 12, "client_id": 55, "hours": 4.50}"#);
        assert_eq!(request.header("Content-Type"), Some("application/json"));
        assert_eq!(request.header("Idempotency-Key"), Some("schedule.pending/12"));
        assert_eq!(request.header("X-Internal-Token"), Some("{api_key}"));
        assert_eq!(request.header("X-Source-System"), Some("integracoes"));
        assert_eq!(request.header("X-Request-ID"), Some("dlv_0000000000001"));
        assert_eq!(run.emitted(), [("schedule.created", json!({"schedule_id": 12, "operacao_schedule_id": "s9"}))]);
    }

    #[test]
    fn a_schedule_that_was_not_created_is_not_confirmed() {
        for (status, body, kind, code) in [
            (422, json!({}), "Rejected", "http-422"),
            (500, json!({}), "Transient", "http-500"),
            (201, json!({"success": true}), "Rejected", "answer-invalid"),
        ] {
            let run = host()
                .answer(Method::Post, "https://op.test/api/v1/schedules", status, body)
                .run(handle, event("schedule.pending", json!({"id": 12})));
            let failure = run.failure();
            assert!(format!("{failure:?}").starts_with(&format!("Failure::{kind}(")), "{failure:?}");
            assert_eq!(failure.detail().code, code);
        }
        let run = host().run(handle, event("schedule.pending", json!({"client_id": 55})));
        assert_eq!(run.failure().detail().code, "payload-invalid");
    }

    #[test]
    fn an_invoiced_service_is_marked_billed() {
        let invoice =
            json!({"id": 901, "invoice_id": 901, "operacao_service_id": 77, "client_id": 55, "amount": 180.5});
        let run = host()
            .answer(Method::Put, "https://op.test/api/v1/services/77/billed", 200, json!({}))
            .run(handle, event("invoice.created", invoice));
        assert_eq!(run.requests[0].json(), json!({"invoice_id": 901}));
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(run.receipt().http_status, Some(200));

        for invoice in [json!({"invoice_id": 901}), json!({"invoice_id": 901, "operacao_service_id": ""})] {
            let run = host().run(handle, event("invoice.created", invoice));
            assert_eq!(run.receipt().note.as_deref(), Some("the invoice names no service of Operação"));
        }
    }

    #[test]
    fn unbilled_services_are_found() {
        let services = json!({"data": [
            {"id": 3, "status": "completed", "billed": false, "client_id": 55},
            {"id": 1, "status": "completed"},
            {"id": 2, "status": "completed", "billed": true},
            {"id": 4, "status": "completed", "billed": 1},
            {"id": 5, "status": "completed", "billed": 0},
            {"id": 6, "status": "scheduled", "billed": false},
            {"status": "completed", "billed": false},
        ]});
        let mut event =
            event("sync.operacao_financeiro", json!({"job": "operacao_financeiro", "run": "r", "cursor": null}));
        // 2026-11-25T02:00:00Z is 23:00 of the 24th in São Paulo.
        event.created_ms = 1_795_572_000_000;
        let run = host().answer(Method::Get, SERVICES, 200, services).run(handle, event);
        assert_eq!(
            run.emitted(),
            [
                ("service.unbilled", json!({"id": 1, "status": "completed"})),
                ("service.unbilled", json!({"id": 3, "status": "completed", "billed": false, "client_id": 55})),
                ("service.unbilled", json!({"id": 5, "status": "completed", "billed": 0})),
            ]
        );
        let keys: Vec<_> = run.receipt().emitted.iter().filter_map(|event| event.idempotency_key.as_deref()).collect();
        assert_eq!(keys, ["service.unbilled/1", "service.unbilled/3", "service.unbilled/5"]);
        assert_eq!(run.receipt().note.as_deref(), Some("items: 3, left out without an id: 1"));
        assert_eq!(run.requests[0].header("Idempotency-Key"), None);
    }

    #[test]
    fn a_long_list_is_paged() {
        let services: Vec<Json> = (1..=201).map(|id| json!({"id": id, "billed": false})).collect();
        let page = |cursor: Json| {
            let mut event = event("sync.operacao_financeiro", json!({"cursor": cursor}));
            event.created_ms = 1_795_572_000_000;
            host().answer(Method::Get, SERVICES, 200, json!(services)).run(handle, event)
        };
        let first = page(json!(null));
        assert_eq!((first.emitted().len(), first.receipt().cursor.as_deref()), (200, Some("200")));
        let second = page(json!("200"));
        assert_eq!(second.emitted(), [("service.unbilled", json!({"id": 201, "billed": false}))]);
        assert_eq!(second.receipt().cursor, None);
    }

    #[test]
    fn an_unknown_event_is_refused() {
        let run = host().run(handle, event("lead.created", json!({})));
        let Failure::Rejected(detail) = run.failure() else { panic!("{run:?}") };
        assert_eq!(detail.code, "event-unknown");
        assert!(detail.message.contains("schedule.pending, invoice.created, sync.operacao_financeiro"));
    }
}
