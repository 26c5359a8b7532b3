//! Carinho's Cuidadores: fetches what changed about caregivers, confirms it once CRM has it, and hands in what clients
//! think of them.

use tomada_carinho::{Id, Settings, System, data, event_unknown, payload, sync};
use tomada_sdk::prelude::*;

const UPDATED: &str = "caregiver.updated";

#[connector(
    name = "cuidadores",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = ["feedback.received", "event.delivered", "sync.cuidadores_crm"],
    emits = ["caregiver.updated"],
    description = "Fetches caregivers' updates from Carinho's Cuidadores and hands in their ratings."
)]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    let cuidadores = System::new(cx, &event)?;
    match event.event_type.as_str() {
        "feedback.received" => rate(&cuidadores, &event),
        "event.delivered" => confirm(&cuidadores, &event),
        "sync.cuidadores_crm" => {
            let job: sync::Job = payload(&event)?;
            let items: Option<Vec<Json>> = data(cuidadores.get("/api/v1/sync/pending-updates").send()?)?;
            sync::page(&job, items.unwrap_or_default(), UPDATED)
        }
        other => Err(event_unknown(other, &["feedback.received", "event.delivered", "sync.cuidadores_crm"])),
    }
}

fn rate(cuidadores: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Feedback {
        caregiver_id: Option<Id>,
        service_id: Option<Id>,
        client_id: Option<Id>,
        rating: Json,
        comment: Option<String>,
        channel: Option<String>,
    }
    let feedback: Feedback = payload(event)?;
    let Some(caregiver_id) = feedback.caregiver_id.and_then(Id::given) else {
        return Ok(Receipt::new().note("the feedback names no caregiver"));
    };
    let request = cuidadores.post("/api/v1/caregivers").segment(&caregiver_id).segment("ratings").json(&json!({
        "service_id": feedback.service_id,
        "client_id": feedback.client_id,
        "rating": feedback.rating,
        "comment": feedback.comment,
        "channel": feedback.channel,
    }));
    Ok(request.send()?.ok()?.into())
}

/// The end of the sync job `cuidadores_crm`.
fn confirm(cuidadores: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Delivered {
        event_type: String,
        payload: Json,
    }
    let delivered: Delivered = payload(event)?;
    if delivered.event_type != UPDATED {
        return Ok(Receipt::new().note(format!("{UPDATED} only is confirmed here")));
    }
    let id = delivered.payload.get("id").map(Id::deserialize).and_then(Result::ok).ok_or_else(|| {
        Failure::rejected(
            "id-missing",
            format!("what was delivered of {UPDATED} has no id to confirm: leave `id` in its mapping"),
        )
    })?;
    let request = cuidadores.post("/api/v1/sync/confirm").segment(&id);
    Ok(request.json(&json!({})).send()?.ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, event};

    const PENDING: &str = "https://cui.test/api/v1/sync/pending-updates";

    fn host() -> Host {
        Host::new().settings(json!({"base_url": "https://cui.test", "auth": "internal_token"})).secret("api_key")
    }

    fn page(cursor: Json) -> Event<Raw> {
        event("sync.cuidadores_crm", json!({"job": "cuidadores_crm", "run": "r", "cursor": cursor}))
    }

    #[test]
    fn updates_are_fetched() {
        let items =
            json!({"data": [{"id": 9, "caregiver_id": 8, "status": "available"}, {"caregiver_id": 3}, {"id": 2}]});
        let run = host().answer(Method::Get, PENDING, 200, items.clone()).run(handle, page(json!(null)));
        assert_eq!(
            run.emitted(),
            [
                ("caregiver.updated", json!({"id": 2})),
                ("caregiver.updated", json!({"id": 9, "caregiver_id": 8, "status": "available"})),
            ]
        );
        let keys: Vec<_> = run.receipt().emitted.iter().filter_map(|event| event.idempotency_key.as_deref()).collect();
        assert_eq!(keys, ["caregiver.updated/2", "caregiver.updated/9"]);
        assert_eq!(run.receipt().note.as_deref(), Some("items: 2, left out without an id: 1"));
        assert_eq!(run.requests[0].header("X-Internal-Token"), Some("{api_key}"));
        assert_eq!(run.requests[0].header("X-Source-System"), Some("integracoes"));
        assert_eq!(run.requests[0].header("X-Request-ID"), Some("dlv_0000000000001"));

        let run = host().answer(Method::Get, PENDING, 200, items).run(handle, page(json!("9")));
        assert!(run.emitted().is_empty());
        let run = host().answer(Method::Get, PENDING, 500, json!({})).run(handle, page(json!(null)));
        assert!(matches!(run.failure(), Failure::Transient(detail) if detail.code == "http-500"));
    }

    #[test]
    fn an_update_that_crm_has_is_confirmed() {
        let delivered = json!({"event_id": "evt_1", "event_type": "caregiver.updated", "payload": {"id": "u/9"}});
        let run = host()
            .answer(Method::Post, "https://cui.test/api/v1/sync/confirm/u%2F9", 200, json!({}))
            .run(handle, event("event.delivered", delivered));
        assert_eq!(run.requests[0].json(), json!({}));
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(run.receipt().http_status, Some(200));
    }

    #[test]
    fn nothing_else_is_confirmed() {
        let delivered = json!({"event_id": "evt_1", "event_type": "lead.created", "payload": {"id": 9}});
        let run = host().run(handle, event("event.delivered", delivered));
        assert_eq!(run.receipt().note.as_deref(), Some("caregiver.updated only is confirmed here"));

        for payload in [json!({"caregiver_id": 8}), json!({"id": null}), json!([1]), json!("9")] {
            let delivered = json!({"event_id": "evt_1", "event_type": "caregiver.updated", "payload": payload});
            let run = host().run(handle, event("event.delivered", delivered));
            assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == "id-missing"), "{run:?}");
        }
    }

    #[test]
    fn a_rating_reaches_its_caregiver() {
        let ratings = "https://cui.test/api/v1/caregivers/8/ratings";
        let feedback = json!({"service_id": 77, "caregiver_id": 8, "client_id": 55, "phone": "5511987654321",
            "rating": 5, "comment": "Muito atenciosa", "channel": "email"});
        let run = host()
            .answer(Method::Post, ratings, 201, json!({"success": true, "data": {"id": 1}}))
            .run(handle, event("feedback.received", feedback.clone()));
        assert_eq!(
            run.requests[0].json(),
            json!({"service_id": 77, "client_id": 55, "rating": 5, "comment": "Muito atenciosa", "channel": "email"})
        );
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(run.receipt().http_status, Some(201));

        let run =
            host().answer(Method::Post, ratings, 422, json!({})).run(handle, event("feedback.received", feedback));
        assert!(matches!(run.failure(), Failure::Rejected(detail) if detail.code == "http-422"));
    }

    #[test]
    fn feedback_that_names_no_caregiver_is_not_theirs() {
        for caregiver_id in [json!(null), json!("")] {
            let feedback =
                json!({"caregiver_id": caregiver_id, "phone": "5511987654321", "rating": 4, "channel": "whatsapp"});
            let run = host().run(handle, event("feedback.received", feedback));
            assert_eq!(run.receipt().note.as_deref(), Some("the feedback names no caregiver"));
        }
    }

    #[test]
    fn an_unknown_event_is_refused() {
        let run = host().run(handle, event("caregiver.updated", json!({})));
        let Failure::Rejected(detail) = run.failure() else { panic!("{run:?}") };
        assert_eq!(detail.code, "event-unknown");
        assert!(detail.message.contains("feedback.received, event.delivered, sync.cuidadores_crm"));
    }
}
