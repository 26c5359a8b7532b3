//! Carinho's Financeiro: registers clients, sets up billing, and makes one invoice of a service: priced first, then
//! written, each a delivery of its own.
//!
//! A service may come twice, when it is completed and from the nightly look for what was not billed. What follows has
//! the service in its key, and so does the invoice itself.

use std::collections::BTreeMap;

use tomada_carinho::{Id, Settings, System, data, event_unknown, is_set, pass_on, payload, sao_paulo_date};
use tomada_sdk::prelude::*;

/// When an invoice is due, counted from today.
const DUE_IN_DAYS: i64 = 3;

#[connector(
    name = "financeiro",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = ["client.registered", "service.completed", "service.unbilled", "invoice.priced", "billing.pending"],
    emits = ["invoice.priced", "invoice.created", "billing.configured"],
    description = "Registers clients, prices and invoices services and sets up billing in Carinho's Financeiro."
)]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    let financeiro = System::new(cx, &event)?;
    match event.event_type.as_str() {
        "client.registered" => register_client(&financeiro, &event),
        "service.completed" | "service.unbilled" => price(&financeiro, &event, cx.now_ms()),
        "invoice.priced" => invoice(&financeiro, &event),
        "billing.pending" => set_up_billing(&financeiro, &event),
        other => Err(event_unknown(
            other,
            &["client.registered", "service.completed", "service.unbilled", "invoice.priced", "billing.pending"],
        )),
    }
}

/// Step 4 of "Cliente cadastrado".
fn register_client(financeiro: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Client {
        id: Id,
        name: Option<String>,
        email: Option<String>,
        phone: Option<String>,
        cpf: Option<String>,
    }
    let client: Client = payload(event)?;
    let request = financeiro.post("/api/clients").json(&json!({
        "crm_client_id": client.id,
        "name": client.name,
        "email": client.email,
        "phone": client.phone,
        "cpf": client.cpf,
    }));
    Ok(request.send()?.ok()?.into())
}

/// What an invoice says, and what `invoice.priced` carries.
#[derive(Deserialize, Serialize)]
struct Priced {
    client_id: Id,
    operacao_service_id: Id,
    /// In BRL, as Financeiro's pricing wrote it.
    amount: Json,
    description: String,
    /// `2026-11-27`
    due_date: String,
}

/// Step 3 of "Serviço completado", first half, and the middle of the sync job `operacao_financeiro`.
fn price(financeiro: &System<'_>, event: &Event<Raw>, now_ms: u64) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Service {
        id: Id,
        client_id: Id,
        service_type: String,
        /// A number, or a text of one.
        duration_hours: Json,
        #[serde(default)]
        is_weekend: Json,
        #[serde(default)]
        is_holiday: Json,
        #[serde(default)]
        is_night: Json,
        #[serde(default)]
        is_recurring: Json,
    }
    #[derive(Deserialize)]
    struct Price {
        total: Json,
    }
    let service: Service = payload(event)?;
    if event.event_type == "service.completed" && is_set(&service.is_recurring) {
        return Ok(Receipt::new().note("a recurring service is not invoiced by itself"));
    }
    let request = financeiro.post("/api/pricing/calculate").json(&json!({
        "service_type": service.service_type,
        "hours": service.duration_hours,
        "is_weekend": is_set(&service.is_weekend),
        "is_holiday": is_set(&service.is_holiday),
        "is_night": is_set(&service.is_night),
    }));
    let Price { total } = data(request.send()?)?;
    if !is_amount(&total) {
        return Err(Failure::rejected(
            "total-invalid",
            "Financeiro's price for the service is negative or no number: look at its pricing, then replay",
        ));
    }

    let hours = service.duration_hours.as_str().map_or_else(|| service.duration_hours.to_string(), str::to_owned);
    let (id, service_type, hours) = (&service.id, &service.service_type, hours.replace('.', ","));
    let key = format!("service/{id}");
    let priced = Priced {
        client_id: service.client_id,
        amount: total,
        // For the client.
        description: format!("Cuidado domiciliar, {service_type}, {hours} h (serviço nº {id})"),
        due_date: sao_paulo_date(now_ms, DUE_IN_DAYS),
        operacao_service_id: service.id,
    };
    Receipt::new().note("the service was priced").emit_once("invoice.priced", &priced, key)
}

/// A number that is not negative, or a text of one, as Laravel makes of decimals.
fn is_amount(total: &Json) -> bool {
    let amount = total.as_str().map_or_else(|| total.as_f64(), |text| text.parse().ok());
    amount.is_some_and(|amount: f64| amount.is_finite() && amount >= 0.0)
}

/// Step 3 of "Serviço completado", second half.
fn invoice(financeiro: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Created {
        id: Id,
    }
    let priced: Priced = payload(event)?;
    let service_id = &priced.operacao_service_id;
    let request = financeiro.post_once("/api/invoices", &format!("operacao-service-{service_id}"));
    let Created { id } = data(request.json(&priced).send()?)?;
    let key = format!("service/{service_id}");
    let created = json!({
        "id": id,
        "invoice_id": id,
        "operacao_service_id": service_id,
        "client_id": priced.client_id,
        "amount": priced.amount,
        "due_date": priced.due_date,
    });
    Receipt::new().note("the invoice was created").emit_once("invoice.created", &created, key)
}

/// The middle of the sync job `crm_financeiro`; CRM gets the answer.
fn set_up_billing(financeiro: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Pending {
        id: Id,
        contract_id: Option<Id>,
    }
    let pending: Pending = payload(event)?;
    // The item's own key: whichever run or replay brings it, it is one set-up.
    let request = financeiro.post_once("/api/billing/setup", &format!("billing.pending/{}", pending.id));
    let mut configured: BTreeMap<String, Json> = data(pass_on(request, event).send()?)?;
    // An item without it is the contract itself.
    let contract_id = pending.contract_id.and_then(Id::given).unwrap_or(pending.id);
    configured.insert("contract_id".to_owned(), json!(contract_id));
    Receipt::new().note("billing was set up").emit("billing.configured", &configured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, Run, event};

    const PRICE: &str = "https://fin.test/api/pricing/calculate";
    const INVOICES: &str = "https://fin.test/api/invoices";
    const SETUP: &str = "https://fin.test/api/billing/setup";

    fn host() -> Host {
        // 2026-11-25T02:00:00Z is 23:00 of the 24th in São Paulo.
        Host::new().settings(json!({"base_url": "https://fin.test"})).secret("api_key").now_ms(1_795_572_000_000)
    }

    fn service() -> Json {
        json!({"id": 77, "client_id": 55, "caregiver_id": 8, "client_name": "Ana Souza",
            "client_phone": "5511987654321", "client_email": "ana@exemplo.com.br", "caregiver_name": "Rita",
            "service_type": "horista", "duration_hours": 4.5, "is_weekend": true, "is_holiday": false, "is_night": 1, "is_recurring": false,
            "completed_at": "2026-11-24T22:00:00Z"})
    }

    fn priced() -> Json {
        json!({"client_id": 55, "operacao_service_id": 77, "amount": 180.5,
            "description": "Cuidado domiciliar, horista, 4,5 h (serviço nº 77)", "due_date": "2026-11-27"})
    }

    fn keys(run: &Run) -> Vec<Option<&str>> {
        run.receipt().emitted.iter().map(|event| event.idempotency_key.as_deref()).collect()
    }

    #[test]
    fn a_client_is_registered() {
        let client = json!({"id": 55, "name": "Ana Souza", "email": "ana@exemplo.com.br", "phone": "5511987654321",
            "cpf": "12345678909", "lead_id": 1001});
        let run = host()
            .answer(Method::Post, "https://fin.test/api/clients", 201, json!({"success": true, "data": {"id": 3}}))
            .run(handle, event("client.registered", client));
        let request = &run.requests[0];
        assert_eq!(
            request.json(),
            json!({"crm_client_id": 55, "name": "Ana Souza", "email": "ana@exemplo.com.br", "phone": "5511987654321",
                "cpf": "12345678909"})
        );
        assert_eq!(request.header("X-API-Key"), Some("{api_key}"));
        assert_eq!(request.header("X-Source-System"), Some("integracoes"));
        assert_eq!(request.header("X-Request-ID"), Some("dlv_0000000000001"));
        assert_eq!(request.header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(run.receipt().http_status, Some(201));
    }

    #[test]
    fn a_service_is_priced_under_one_key_wherever_it_comes_from() {
        for event_type in ["service.completed", "service.unbilled"] {
            let run = host()
                .answer(Method::Post, PRICE, 200, json!({"total": 180.5}))
                .run(handle, event(event_type, service()));
            assert_eq!(
                run.requests[0].json(),
                json!({"service_type": "horista", "hours": 4.5, "is_weekend": true, "is_holiday": false,
                    "is_night": true})
            );
            assert_eq!(run.emitted(), [("invoice.priced", priced())]);
            assert_eq!(keys(&run), [Some("service/77")]);
        }
    }

    #[test]
    fn what_laravel_makes_of_decimals_is_taken_and_left() {
        let service = json!({"id": "s-7", "client_id": "c-5", "service_type": "diarista", "duration_hours": "12.00"});
        let run = host()
            .answer(Method::Post, PRICE, 200, json!({"success": true, "data": {"total": "320.00"}}))
            .run(handle, event("service.unbilled", service));
        assert_eq!(
            run.requests[0].json(),
            json!({"service_type": "diarista", "hours": "12.00", "is_weekend": false, "is_holiday": false,
                "is_night": false})
        );
        assert_eq!(
            run.emitted(),
            [(
                "invoice.priced",
                json!({"client_id": "c-5", "operacao_service_id": "s-7", "amount": "320.00",
                    "description": "Cuidado domiciliar, diarista, 12,00 h (serviço nº s-7)", "due_date": "2026-11-27"})
            )]
        );
        assert_eq!(keys(&run), [Some("service/s-7")]);
    }

    #[test]
    fn a_recurring_service_is_left_to_the_nightly_job() {
        for is_recurring in [json!(true), json!(1)] {
            let mut service = service();
            service["is_recurring"] = is_recurring;
            let run = host().run(handle, event("service.completed", service.clone()));
            assert_eq!(run.receipt().note.as_deref(), Some("a recurring service is not invoiced by itself"));
            assert!(run.emitted().is_empty());

            let run = host()
                .answer(Method::Post, PRICE, 200, json!({"total": 180}))
                .run(handle, event("service.unbilled", service));
            let [(event_type, priced)] = &run.emitted()[..] else { panic!("{run:?}") };
            assert_eq!((*event_type, &priced["amount"]), ("invoice.priced", &json!(180)));
        }
    }

    #[test]
    fn a_price_that_is_none_makes_no_invoice() {
        for (status, body, kind, code) in [
            (200, json!({"total": -1}), "Rejected", "total-invalid"),
            (200, json!({"total": "muito"}), "Rejected", "total-invalid"),
            (200, json!({"total": "NaN"}), "Rejected", "total-invalid"),
            (200, json!({"total": null}), "Rejected", "total-invalid"),
            (200, json!({"total": true}), "Rejected", "total-invalid"),
            (200, json!({}), "Rejected", "answer-invalid"),
            (422, json!({}), "Rejected", "http-422"),
            (500, json!({}), "Transient", "http-500"),
        ] {
            let run =
                host().answer(Method::Post, PRICE, status, body).run(handle, event("service.completed", service()));
            let failure = run.failure();
            assert!(format!("{failure:?}").starts_with(&format!("Failure::{kind}(")), "{failure:?}");
            assert_eq!(failure.detail().code, code);
        }
    }

    #[test]
    fn a_priced_service_is_invoiced_under_its_own_key() {
        let run = host()
            .answer(Method::Post, INVOICES, 201, json!({"success": true, "data": {"id": 901, "status": "open"}}))
            .run(handle, event("invoice.priced", priced()));
        assert_eq!(run.requests[0].json(), priced());
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("operacao-service-77"));
        assert_eq!(
            run.emitted(),
            [(
                "invoice.created",
                json!({"id": 901, "invoice_id": 901, "operacao_service_id": 77, "client_id": 55, "amount": 180.5,
                    "due_date": "2026-11-27"})
            )]
        );
        assert_eq!(keys(&run), [Some("service/77")]);
    }

    #[test]
    fn a_retry_asks_for_the_same_invoice() {
        let mut second = event("invoice.priced", priced());
        second.attempt = 2;
        let first =
            host().answer(Method::Post, INVOICES, 502, json!({})).run(handle, event("invoice.priced", priced()));
        assert!(matches!(first.failure(), Failure::Transient(detail) if detail.code == "http-502"));
        let second = host().answer(Method::Post, INVOICES, 200, json!({"id": 901})).run(handle, second);
        assert_eq!(first.requests[0].body, second.requests[0].body);
        for run in [&first, &second] {
            assert_eq!(run.requests[0].header("Idempotency-Key"), Some("operacao-service-77"));
        }
    }

    #[test]
    fn billing_is_set_up_and_its_answer_goes_back() {
        for (item, key, contract_id) in [
            (r#"{"id": 4, "contract_id": 19, "value": 1500.00}"#, "billing.pending/4", json!(19)),
            (r#"{"id": "c-19", "value": 1500.00}"#, "billing.pending/c-19", json!("c-19")),
        ] {
            let mut event = event("billing.pending", json!(null));
            event.payload = Raw(item.as_bytes().to_vec());
            let run = host()
                .answer(Method::Post, SETUP, 201, json!({"success": true, "data": {"id": 6, "status": "active"}}))
                .run(handle, event);
            assert_eq!(run.requests[0].body, item.as_bytes());
            assert_eq!(run.requests[0].header("Content-Type"), Some("application/json"));
            assert_eq!(run.requests[0].header("Idempotency-Key"), Some(key));
            assert_eq!(
                run.emitted(),
                [("billing.configured", json!({"contract_id": contract_id, "id": 6, "status": "active"}))]
            );
        }
        let run =
            host().answer(Method::Post, SETUP, 503, json!({})).run(handle, event("billing.pending", json!({"id": 4})));
        assert!(matches!(run.failure(), Failure::Transient(_)));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (event_type, payload, code) in [
            ("lead.created", json!({}), "event-unknown"),
            ("client.registered", json!({"name": "Ana"}), "payload-invalid"),
            ("service.completed", json!({"id": 77, "client_id": 55, "service_type": "horista"}), "payload-invalid"),
            ("invoice.priced", json!({"client_id": 55}), "payload-invalid"),
            ("billing.pending", json!({"contract_id": 4}), "payload-invalid"),
        ] {
            let run = host().run(handle, event(event_type, payload));
            assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == code), "{event_type}: {run:?}");
        }
    }
}
