//! Carinho's site, as far as it is told of its leads.

use super::door::{Api, EVENTS, Profile, must_be_known, no_lists};
use super::{Call, Records, Reply, plain};

pub(super) static SITE: Api = Api { profile: Profile::ApiKey, events: EVENTS, answer, seed: no_lists };

fn answer(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    match (call.method.as_str(), &call.segments()[..]) {
        ("POST", ["api", "v1", "leads", "confirm"]) => {
            let confirmation = call.object(&["ref", "received_at"])?;
            must_be_known(&plain(&confirmation["ref"]))?;
            Ok(records.create("confirmations", 1, confirmation, "confirmation #"))
        }
        ("PUT", ["api", "v1", "leads", reference, "status"]) => {
            must_be_known(reference)?;
            let mut status = call.object(&["status"])?;
            status.insert("ref".into(), (*reference).into());
            let note = format!("lead {reference} is {}", plain(&status["status"]));
            Ok(Reply::done(records.add("statuses", 1, status), note))
        }
        (_, ["api", "v1", "leads", "confirm"] | ["api", "v1", "leads", _, "status"]) => Err(Reply::wrong_verb()),
        _ => Err(Reply::unknown_path()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::System as _;
    use super::super::door::Internal;
    use super::*;

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut site = Internal::new(&SITE).unwrap();
        let (confirm, status) = ("/api/v1/leads/confirm", "/api/v1/leads/L-7/status");
        site.admits_only("x-api-key", confirm);
        let confirmation = json!({ "ref": "L-7", "received_at": "2026-11-24T12:00:00Z" });
        site.requires("POST", confirm, &confirmation, &["ref", "received_at"]);
        site.requires("PUT", status, &json!({ "status": "contacted" }), &["status"]);
        assert_eq!(site.records("confirmations")[0]["ref"], "L-7");
        assert_eq!(site.records("statuses")[0]["ref"], "L-7");
        assert_eq!(site.status("POST", confirm, json!({ "ref": "404", "received_at": "now" })), 404);
        assert_eq!(site.status("PUT", "/api/v1/leads/404/status", json!({ "status": "x" })), 404);
        assert_eq!(site.status("GET", confirm, Value::Null), 405);
        assert_eq!(site.status("POST", status, json!({ "status": "x" })), 405);
        assert_eq!(site.status("GET", "/api/v1/leads", Value::Null), 404);
    }
}
