//! Carinho's Cuidadores: caregivers, their ratings, and what has changed about them.

use serde_json::{Value, json};

use super::door::{Api, EVENTS, Profile, must_be_known, require};
use super::{Call, Records, Reply, fields};

pub(super) static CUIDADORES: Api = Api { profile: Profile::InternalToken, events: EVENTS, answer, seed };

fn answer(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    match (call.method.as_str(), &call.segments()[..]) {
        ("GET", ["api", "v1", "sync", "pending-updates"]) => {
            let pending = records.of("updates").iter().filter(|update| update["status"] == "pending");
            let pending: Vec<Value> = pending.cloned().collect();
            let note = format!("{} updates are pending", pending.len());
            Ok(Reply::list(pending, note))
        }
        ("POST", ["api", "v1", "sync", "confirm", id]) => confirm(id, call, records),
        ("POST", ["api", "v1", "caregivers", id, "ratings"]) => rate(id, call, records),
        (
            _,
            ["api", "v1", "sync", "pending-updates"]
            | ["api", "v1", "sync", "confirm", _]
            | ["api", "v1", "caregivers", _, "ratings"],
        ) => Err(Reply::wrong_verb()),
        _ => Err(Reply::unknown_path()),
    }
}

/// Each confirmation is kept: two of one update are one too many.
fn confirm(id: &str, call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    let mut confirmation = call.object_or_nothing()?;
    let update = records.find_mut("updates", id)?;
    update.insert("status".into(), "confirmed".into());
    let update = update.clone();
    confirmation.insert("update_id".into(), update["id"].clone());
    records.add("confirmations", 1, confirmation);
    Ok(Reply::done(update.into(), format!("update {id} confirmed")))
}

fn rate(id: &str, call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    must_be_known(id)?;
    let mut rating = call.object(&["rating"])?;
    let stars = rating["rating"].as_u64().filter(|stars| (1..=5).contains(stars));
    require(stars.is_some(), "rating", "must be 1 to 5")?;
    rating.insert("caregiver_id".into(), id.into());
    let what = format!("rating # of caregiver {id}, {} stars,", stars.unwrap_or_default());
    Ok(records.create("ratings", 1, rating, &what))
}

/// `updates` of caregivers that the other systems do not know of yet.
fn seed(what: &str, count: usize, records: &mut Records) -> bool {
    if what != "updates" {
        return false;
    }
    for _ in 0..count {
        let n = records.of("updates").len();
        records.add(
            "updates",
            records.seeded_from + 401,
            fields(json!({
                "caregiver_id": 601 + n, "name": "Rosa Lima", "phone": "5511955554444", "city": "São Paulo",
                "availability": "weekdays", "updated_at": "2026-11-24T09:00:00-03:00", "status": "pending",
            })),
        );
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::System as _;
    use super::super::door::Internal;
    use super::*;

    #[test]
    fn what_is_confirmed_is_no_longer_pending() {
        let mut cuidadores = Internal::new(&CUIDADORES).unwrap();
        assert!(cuidadores.seed("updates", 2) && !cuidadores.seed("ratings", 1));
        assert_eq!(cuidadores.status("POST", "/api/v1/sync/confirm/401", Value::Null), 200);
        let pending = cuidadores.call("GET", "/api/v1/sync/pending-updates", Value::Null, &[]).body["data"].clone();
        assert_eq!((pending.as_array().unwrap().len(), &pending[0]["id"]), (1, &json!(402)));
        assert_eq!(cuidadores.records("confirmations")[0]["update_id"], 401);
        assert_eq!(cuidadores.status("POST", "/api/v1/sync/confirm/409", Value::Null), 404);
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut cuidadores = Internal::new(&CUIDADORES).unwrap();
        cuidadores.admits_only("x-internal-token", "/api/v1/sync/pending-updates");
        let path = "/api/v1/caregivers/601/ratings";
        cuidadores.requires("POST", path, &json!({ "rating": 5, "service_id": 9 }), &["rating"]);
        assert_eq!(cuidadores.records("ratings")[0]["caregiver_id"], "601");
        for rating in [json!(0), json!(6), json!("five"), json!(4.5)] {
            assert_eq!(cuidadores.status("POST", path, json!({ "rating": rating })), 422, "{rating}");
        }
        assert_eq!(cuidadores.status("POST", "/api/v1/caregivers/404/ratings", json!({ "rating": 5 })), 404);
        assert_eq!(cuidadores.status("GET", path, Value::Null), 405);
        assert_eq!(cuidadores.status("POST", "/api/v1/sync/pending-updates", Value::Null), 405);
        assert_eq!(cuidadores.status("GET", "/api/v1/caregivers", Value::Null), 404);
    }
}
