//! Carinho's Operação: schedules, and services with what is still to be billed.

use serde_json::{Value, json};

use super::door::{Api, EVENTS, Profile, is_date, must_be_known, require};
use super::{Call, Records, Reply, fields, plain};

pub(super) static OPERACAO: Api = Api { profile: Profile::InternalToken, events: EVENTS, answer, seed };

fn answer(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    match (call.method.as_str(), &call.segments()[..]) {
        ("POST", ["api", "v1", "schedules"]) => {
            let schedule = call.object(&["client_id", "service_type", "start_datetime"])?;
            require(is_date(&schedule["start_datetime"]), "start_datetime", "must be a date")?;
            Ok(records.create("schedules", 8001, schedule, "schedule #"))
        }
        ("GET", ["api", "v1", "services"]) => list(call, records),
        ("PUT", ["api", "v1", "services", id, "billed"]) => bill(id, call, records),
        (_, ["api", "v1", "schedules" | "services"] | ["api", "v1", "services", _, "billed"]) => {
            Err(Reply::wrong_verb())
        }
        _ => Err(Reply::unknown_path()),
    }
}

/// Services of a status whose day is between two days, both included.
fn list(call: &Call<'_>, records: &Records) -> Result<Reply, Reply> {
    let given = |name: &str| call.asked(name).ok_or_else(|| Reply::invalid(name, "is required"));
    let (status, from, to) = (given("status")?, given("start_date")?, given("end_date")?);
    require(is_date(&from.into()), "start_date", "must be a date")?;
    require(is_date(&to.into()), "end_date", "must be a date")?;
    let found: Vec<Value> = records
        .of("services")
        .iter()
        .filter(|service| service["status"] == *status)
        .filter(|service| {
            let day = service["completed_at"].as_str().and_then(|time| time.get(..10)).unwrap_or_default();
            (&from[..10]..=&to[..10]).contains(&day)
        })
        .cloned()
        .collect();
    let billed = found.iter().filter(|service| service["billed"] == true).count();
    let note = format!("{} services are {status}, {billed} of them billed", found.len());
    Ok(Reply::list(found, note))
}

/// Each is kept: two invoices of one service are one too many.
fn bill(id: &str, call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    must_be_known(id)?;
    let mut billed = call.object(&["invoice_id"])?;
    if let Ok(service) = records.find_mut("services", id) {
        service.insert("billed".into(), true.into());
        service.insert("invoice_id".into(), billed["invoice_id"].clone());
    }
    billed.insert("service_id".into(), id.into());
    let note = format!("service {id} billed with invoice {}", plain(&billed["invoice_id"]));
    Ok(Reply::done(records.add("billed", 1, billed), note))
}

/// `services` that were completed yesterday.
fn seed(what: &str, count: usize, records: &mut Records) -> bool {
    if what != "services" {
        return false;
    }
    let yesterday = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24);
    for _ in 0..count {
        let n = records.of("services").len();
        records.add(
            "services",
            records.seeded_from + 9001,
            fields(json!({
                "client_id": 2001 + n, "caregiver_id": 601, "client_name": "Maria Aparecida",
                "client_phone": "5511937072960", "client_email": "maria@example.com", "caregiver_name": "Rosa Lima",
                "service_type": "horista", "duration_hours": 4, "is_weekend": false, "is_holiday": false,
                "is_night": false, "is_recurring": false, "status": "completed", "billed": false,
                "completed_at": yesterday.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
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
    fn services_are_listed_by_their_day_and_billed() {
        let mut operacao = Internal::new(&OPERACAO).unwrap();
        assert!(operacao.seed("services", 2) && !operacao.seed("schedules", 1));
        let day = operacao.records("services")[0]["completed_at"].as_str().unwrap()[..10].to_owned();
        let path = |status: &str, from: &str, to: &str| {
            format!("/api/v1/services?status={status}&start_date={from}&end_date={to}")
        };
        let mut listed = |path: String| operacao.call("GET", &path, Value::Null, &[]).body["data"].clone();
        assert_eq!(listed(path("completed", &day, &day)).as_array().unwrap().len(), 2);
        assert_eq!(listed(path("completed", "2020-01-01", "2020-01-08")), json!([]));
        assert_eq!(listed(path("scheduled", &day, &day)), json!([]));

        let billed = json!({ "invoice_id": 7001 });
        operacao.requires("PUT", "/api/v1/services/9001/billed", &billed, &["invoice_id"]);
        assert_eq!(operacao.records("services")[0]["billed"], true);
        assert_eq!(operacao.records("services")[1]["billed"], false);
        assert_eq!(operacao.records("billed")[0]["service_id"], "9001");
        assert_eq!(operacao.status("PUT", "/api/v1/services/404/billed", billed), 404);
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut operacao = Internal::new(&OPERACAO).unwrap();
        operacao.admits_only("x-internal-token", "/api/v1/services");
        let schedule = json!({ "client_id": 1, "service_type": "horista", "start_datetime": "2026-12-01 08:00:00" });
        let required = ["client_id", "service_type", "start_datetime"];
        operacao.requires("POST", "/api/v1/schedules", &schedule, &required);
        let soon = json!({ "client_id": 1, "service_type": "horista", "start_datetime": "soon" });
        assert_eq!(operacao.status("POST", "/api/v1/schedules", soon), 422);
        for query in ["", "?status=completed&start_date=2026-11-01", "?status=completed&start_date=x&end_date=y"] {
            assert_eq!(operacao.status("GET", &format!("/api/v1/services{query}"), Value::Null), 422, "{query}");
        }
        assert_eq!(operacao.status("POST", "/api/v1/services/1/billed", json!({})), 405);
        assert_eq!(operacao.status("GET", "/api/v1/schedules", json!({})), 405);
        assert_eq!(operacao.status("GET", "/api/v1/services/1", json!({})), 404);
    }
}
