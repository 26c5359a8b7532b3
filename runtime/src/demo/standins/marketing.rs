//! Carinho's marketing system: campaigns by their UTM values, leads attributed to them, and conversions.

use axum::http::StatusCode;
use serde_json::json;

use super::door::{Api, EVENTS, Profile, no_lists};
use super::{Call, Records, Reply, fields, plain};

pub(super) static MARKETING: Api = Api { profile: Profile::ApiKey, events: EVENTS, answer, seed: no_lists };

/// A campaign of this name is not known; all others come to be when they are first asked for.
const UNKNOWN: &str = "desconhecida";

fn answer(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    match (call.method.as_str(), call.path) {
        ("GET", "/api/v1/campaigns/find") => find(call, records),
        ("POST", "/api/v1/attribution") => {
            let attribution = call.object(&["lead_id", "campaign_id"])?;
            let (lead, campaign) = (plain(&attribution["lead_id"]), plain(&attribution["campaign_id"]));
            let made = records.create("attributions", 1, attribution, "attribution #");
            Ok(Reply { note: format!("lead {lead} attributed to campaign {campaign}"), ..made })
        }
        ("POST", "/api/v1/campaigns/conversions") => {
            let conversion = call.object(&["campaign_id"])?;
            Ok(records.create("conversions", 1, conversion, "conversion #"))
        }
        (_, "/api/v1/campaigns/find" | "/api/v1/attribution" | "/api/v1/campaigns/conversions") => {
            Err(Reply::wrong_verb())
        }
        _ => Err(Reply::unknown_path()),
    }
}

fn find(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    let asked = |name| call.asked(name).unwrap_or_default();
    let campaign = asked("utm_campaign");
    if campaign.is_empty() {
        return Err(Reply::invalid("utm_campaign", "is required"));
    }
    if campaign == UNKNOWN {
        return Err(Reply::refused(StatusCode::NOT_FOUND, "no such campaign"));
    }
    let utm = json!({
        "utm_source": asked("utm_source"), "utm_medium": asked("utm_medium"), "utm_campaign": campaign,
    });
    let same = |known: &&serde_json::Value| {
        ["utm_source", "utm_medium", "utm_campaign"].iter().all(|field| known[*field] == utm[*field])
    };
    let found = match records.of("campaigns").iter().find(same) {
        Some(known) => known.clone(),
        None => records.add("campaigns", 501, fields(utm)),
    };
    let note = format!("campaign {} is {campaign}", found["id"]);
    Ok(Reply::new(StatusCode::OK, json!({ "data": found }), note))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::System as _;
    use super::super::door::Internal;
    use super::*;

    #[test]
    fn a_campaign_keeps_its_id_and_takes_leads() {
        let mut marketing = Internal::new(&MARKETING).unwrap();
        for _ in 0..2 {
            let path = "/api/v1/campaigns/find?utm_source=google&utm_medium=cpc&utm_campaign=inverno";
            assert_eq!(marketing.call("GET", path, Value::Null, &[]).body["data"]["id"], 501);
        }
        let other = "/api/v1/campaigns/find?utm_source=bing&utm_medium=cpc&utm_campaign=inverno";
        assert_eq!(marketing.call("GET", other, Value::Null, &[]).body["data"]["id"], 502);
        let body = json!({ "lead_id": 1001, "campaign_id": 501 });
        let reply = marketing.call("POST", "/api/v1/attribution", body, &[]);
        assert_eq!((reply.status, &reply.body["data"]["lead_id"]), (StatusCode::CREATED, &json!(1001)));
        assert_eq!(marketing.records("attributions").len(), 1);
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut marketing = Internal::new(&MARKETING).unwrap();
        let find = "/api/v1/campaigns/find";
        marketing.admits_only("x-api-key", find);
        let attribution = json!({ "lead_id": 1001, "campaign_id": 501 });
        marketing.requires("POST", "/api/v1/attribution", &attribution, &["lead_id", "campaign_id"]);
        marketing.requires("POST", "/api/v1/campaigns/conversions", &json!({ "campaign_id": 501 }), &["campaign_id"]);
        assert_eq!(marketing.status("GET", find, Value::Null), 422);
        assert_eq!(marketing.status("GET", &format!("{find}?utm_campaign=desconhecida"), Value::Null), 404);
        assert_eq!(marketing.status("GET", "/api/v1/attribution", Value::Null), 405);
        assert_eq!(marketing.status("GET", "/api/v1/campaigns", Value::Null), 404);
    }
}
