//! Carinho's marketing: a registered lead that came through a campaign is attributed to it.

use tomada_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    base_url: String,
}

/// What matters of `lead.registered`.
#[derive(Deserialize)]
struct Lead {
    lead_id: Json,
    utm_source: Option<String>,
    utm_medium: Option<String>,
    utm_campaign: Option<String>,
}

/// What marketing wraps its answers in.
#[derive(Deserialize)]
struct Envelope {
    data: Option<Campaign>,
}

#[derive(Deserialize)]
struct Campaign {
    id: Json,
}

#[connector(
    name = "marketing",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = ["lead.registered"],
    description = "Attributes leads to Carinho's marketing campaigns."
)]
fn handle(cx: &Context<Settings>, event: Event<Lead>) -> Result<Receipt, Failure> {
    let lead = event.payload;
    let utm_campaign = lead.utm_campaign.unwrap_or_default();
    if utm_campaign.is_empty() {
        return Ok(Receipt::new().note("the lead came through no campaign"));
    }

    let api_key = cx.secret("api_key")?;
    let call = |request: Request| {
        let request = request.header("X-API-Key", &api_key).header("X-Source-System", "integracoes");
        request.header("X-Request-ID", &event.delivery_id).send()
    };
    let base_url = &cx.settings.base_url;
    let found = call(cx.get(format!("{base_url}/api/v1/campaigns/find")).query(&[
        ("utm_source", &lead.utm_source.unwrap_or_default()),
        ("utm_medium", &lead.utm_medium.unwrap_or_default()),
        ("utm_campaign", &utm_campaign),
    ]))?;
    let campaign = match found.found()? {
        Some(answer) => answer.json::<Envelope>()?.data,
        None => None,
    };
    let Some(campaign) = campaign else {
        return Ok(Receipt::new().note("marketing knows no such campaign"));
    };

    let attribution = json!({"lead_id": lead.lead_id, "campaign_id": campaign.id});
    let answer = call(cx.post(format!("{base_url}/api/v1/attribution")).json(&attribution))?.ok()?;
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
        assert_eq!(run.requests[1].header("X-API-Key"), Some("{api_key}"));
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
