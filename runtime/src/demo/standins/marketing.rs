//! Carinho's marketing system: campaigns by their UTM values, and leads attributed to them.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Call, Reply, System, is_authorised, is_json};

/// A campaign of this name is not known; all others come to be when they are first asked for.
const UNKNOWN: &str = "desconhecida";

pub(super) struct Marketing {
    api_key: String,
    /// Source, medium and campaign; the position gives the id.
    campaigns: Vec<[String; 3]>,
    attributions: u64,
}

impl Marketing {
    pub(super) fn new(api_key: String) -> Marketing {
        Marketing { api_key, campaigns: Vec::new(), attributions: 0 }
    }

    fn find(&mut self, call: &Call<'_>) -> Reply {
        let utm = ["utm_source", "utm_medium", "utm_campaign"].map(|name| {
            call.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
        });
        if utm[2].is_empty() {
            return Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, "utm_campaign is missing");
        }
        if utm[2] == UNKNOWN {
            return Reply::refused(StatusCode::NOT_FOUND, "no such campaign");
        }
        let index = self.campaigns.iter().position(|known| *known == utm).unwrap_or_else(|| {
            self.campaigns.push(utm.clone());
            self.campaigns.len() - 1
        });
        let [source, medium, campaign] = utm;
        let (id, note) = (501 + index, format!("campaign {} is {campaign}", 501 + index));
        let found = json!({ "id": id, "utm_source": source, "utm_medium": medium, "utm_campaign": campaign });
        Reply::new(StatusCode::OK, json!({ "data": found }), note)
    }

    fn attribute(&mut self, call: &Call<'_>) -> Reply {
        if !is_json(call) {
            return Reply::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json");
        }
        let body: Value = serde_json::from_slice(call.body).unwrap_or_default();
        let (lead, campaign) = (&body["lead_id"], &body["campaign_id"]);
        if lead.is_null() || campaign.is_null() {
            return Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, "lead_id and campaign_id are both needed");
        }
        self.attributions += 1;
        let note = format!("lead {lead} attributed to campaign {campaign}");
        let stored = json!({ "id": self.attributions, "lead_id": lead, "campaign_id": campaign });
        Reply::new(StatusCode::CREATED, json!({ "success": true, "data": stored }), note)
    }
}

impl System for Marketing {
    fn secrets(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([("api_key", self.api_key.clone())])
    }

    fn answer(&mut self, call: &Call<'_>) -> Reply {
        if !is_authorised(call, &self.api_key) {
            return Reply::refused(StatusCode::UNAUTHORIZED, "wrong or missing X-API-Key");
        }
        match call.path {
            "/api/v1/campaigns/find" if call.method == Method::GET => self.find(call),
            "/api/v1/attribution" if call.method == Method::POST => self.attribute(call),
            "/api/v1/campaigns/find" | "/api/v1/attribution" => Reply::wrong_verb(),
            _ => Reply::unknown_path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call;
    use super::*;

    const HEADERS: [(&str, &str); 2] = [("x-api-key", "key"), ("content-type", "application/json")];

    #[test]
    fn a_campaign_keeps_its_id_and_takes_leads() {
        let mut marketing = Marketing::new("key".into());
        for _ in 0..2 {
            let path = "/api/v1/campaigns/find?utm_source=google&utm_medium=cpc&utm_campaign=inverno";
            let found = call(&mut marketing, Method::GET, path, &HEADERS, Value::Null);
            assert_eq!(found.body["data"]["id"], 501);
        }
        let body = json!({ "lead_id": 1001, "campaign_id": 501 });
        let reply = call(&mut marketing, Method::POST, "/api/v1/attribution", &HEADERS, body);
        assert_eq!((reply.status, &reply.body["data"]["lead_id"]), (StatusCode::CREATED, &json!(1001)));
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut marketing = Marketing::new("key".into());
        let mut status = |method, path, headers: &[_], body| call(&mut marketing, method, path, headers, body).status;
        let (find, attribution) = ("/api/v1/campaigns/find?utm_campaign=desconhecida", "/api/v1/attribution");
        assert_eq!(status(Method::GET, find, &HEADERS, json!(null)), StatusCode::NOT_FOUND);
        assert_eq!(status(Method::GET, find, &[], json!(null)), StatusCode::UNAUTHORIZED);
        assert_eq!(status(Method::GET, attribution, &HEADERS, json!(null)), StatusCode::METHOD_NOT_ALLOWED);
        let half = json!({ "campaign_id": 501 });
        assert_eq!(status(Method::POST, attribution, &HEADERS, half), StatusCode::UNPROCESSABLE_ENTITY);
    }
}
