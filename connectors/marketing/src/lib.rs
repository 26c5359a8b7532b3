//! Carinho's marketing: a registered lead that came through a campaign is attributed to it, and conversions are
//! registered.

use tomada_carinho::{Id, Settings, System, data, event_unknown, pass_on, payload};
use tomada_sdk::prelude::*;

#[connector(
    name = "marketing",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = ["lead.registered", "conversion.registered"],
    description = "Attributes leads to Carinho's marketing campaigns and registers conversions."
)]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    let marketing = System::new(cx, &event)?;
    match event.event_type.as_str() {
        "lead.registered" => attribute(&marketing, &event),
        "conversion.registered" => {
            Ok(pass_on(marketing.post("/api/v1/campaigns/conversions"), &event).send()?.ok()?.into())
        }
        other => Err(event_unknown(other, &["lead.registered", "conversion.registered"])),
    }
}

/// Step 3 of "Lead criado".
fn attribute(marketing: &System<'_>, event: &Event<Raw>) -> Result<Receipt, Failure> {
    #[derive(Deserialize)]
    struct Lead {
        lead_id: Id,
        utm_source: Option<String>,
        utm_medium: Option<String>,
        utm_campaign: Option<String>,
    }
    #[derive(Deserialize)]
    struct Campaign {
        id: Id,
    }
    let lead: Lead = payload(event)?;
    let utm_campaign = lead.utm_campaign.unwrap_or_default();
    if utm_campaign.is_empty() {
        return Ok(Receipt::new().note("the lead came through no campaign"));
    }

    let request = marketing.get("/api/v1/campaigns/find").query(&[
        ("utm_source", &lead.utm_source.unwrap_or_default()),
        ("utm_medium", &lead.utm_medium.unwrap_or_default()),
        ("utm_campaign", &utm_campaign),
    ]);
    let campaign = match request.send()?.found()? {
        Some(answer) => data::<Option<Campaign>>(answer)?,
        None => None,
    };
    let Some(campaign) = campaign else {
        return Ok(Receipt::new().note("marketing knows no such campaign"));
    };

    let attribution = json!({"lead_id": lead.lead_id, "campaign_id": campaign.id});
    let answer = marketing.post("/api/v1/attribution").json(&attribution).send()?.ok()?;
    Ok(Receipt::from(answer).note("the lead was attributed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, event};

    const FIND: &str =
        "https://m.test/api/v1/campaigns/find?utm_source=google&utm_medium=&utm_campaign=inverno%20%26%20frio";

    fn host() -> Host {
        Host::new().settings(json!({"base_url": "https://m.test"})).secret("api_key")
    }

    fn lead(utm_campaign: &str) -> Json {
        json!({"lead_id": 42, "created": true, "utm_source": "google", "utm_campaign": utm_campaign})
    }

    #[test]
    fn a_lead_is_attributed_to_its_campaign() {
        let run = host()
            .answer(Method::Get, FIND, 200, json!({"data": {"id": 9, "name": "Inverno"}}))
            .answer(Method::Post, "https://m.test/api/v1/attribution", 201, json!({}))
            .run(handle, event("lead.registered", lead("inverno & frio")));
        assert_eq!(run.receipt().http_status, Some(201));
        assert_eq!(run.requests[1].json(), json!({"lead_id": 42, "campaign_id": 9}));
        for request in &run.requests {
            assert_eq!(request.header("X-API-Key"), Some("{api_key}"));
            assert_eq!(request.header("X-Request-ID"), Some("dlv_0000000000001"));
        }
        assert_eq!(run.requests[1].header("Idempotency-Key"), Some("dlv_0000000000001"));
    }

    #[test]
    fn an_attribution_that_fails_is_not_one() {
        let run = host()
            .answer(Method::Get, FIND, 200, json!({"id": "c-9"}))
            .answer(Method::Post, "https://m.test/api/v1/attribution", 503, json!({}))
            .run(handle, event("lead.registered", lead("inverno & frio")));
        assert!(matches!(run.failure(), Failure::Transient(detail) if detail.code == "http-503"));
        assert_eq!(run.requests[1].json(), json!({"lead_id": 42, "campaign_id": "c-9"}));
    }

    #[test]
    fn a_conversion_is_registered_as_it_is() {
        let mut event = event("conversion.registered", json!(null));
        event.payload = Raw(br#"{"campaign_id": 9, "value": 1500.00}"#.to_vec());
        let run = host()
            .answer(Method::Post, "https://m.test/api/v1/campaigns/conversions", 201, json!({"data": {"id": 1}}))
            .run(handle, event);
        assert_eq!(run.requests[0].body, br#"{"campaign_id": 9, "value": 1500.00}"#);
        assert_eq!(run.requests[0].header("Content-Type"), Some("application/json"));
        assert_eq!(run.requests[0].header("Idempotency-Key"), Some("dlv_0000000000001"));
        assert_eq!(run.receipt().http_status, Some(201));
    }

    #[test]
    fn an_unknown_event_is_refused() {
        let run = host().run(handle, event("lead.created", json!({})));
        let Failure::Rejected(detail) = run.failure() else { panic!("{run:?}") };
        assert_eq!(detail.code, "event-unknown");
        assert!(detail.message.contains("lead.registered, conversion.registered"));
    }

    #[test]
    fn without_a_campaign_there_is_nothing_to_do() {
        let run = host().run(handle, event("lead.registered", lead("")));
        assert_eq!(run.receipt().note.as_deref(), Some("the lead came through no campaign"));

        for (status, body) in [(404, json!({"message": "not found"})), (200, json!({"data": null}))] {
            let run = host()
                .answer(Method::Get, FIND, status, body)
                .run(handle, event("lead.registered", lead("inverno & frio")));
            assert_eq!(run.receipt().note.as_deref(), Some("marketing knows no such campaign"));
        }
    }
}
