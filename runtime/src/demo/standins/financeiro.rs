//! Carinho's Financeiro: clients, prices, invoices and how contracts are billed. Its paths have no version in them.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::door::{Api, Profile, is_date, no_lists, require};
use super::{Call, Records, Reply};

pub(super) static FINANCEIRO: Api =
    Api { profile: Profile::ApiKey, events: "/api/webhooks/events", answer, seed: no_lists };

/// Reais for an hour.
const HOUR: f64 = 40.0;

fn answer(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    match (call.method.as_str(), &call.segments()[..]) {
        ("POST", ["api", "clients"]) => {
            let client = call.object(&["crm_client_id", "name"])?;
            Ok(records.create("clients", 6001, client, "client #"))
        }
        ("POST", ["api", "pricing", "calculate"]) => price(&call.object(&["service_type", "hours"])?),
        ("POST", ["api", "invoices"]) => {
            let invoice = call.object(&["client_id", "operacao_service_id", "amount", "due_date"])?;
            require(number(&invoice["amount"]).is_some_and(|amount| amount > 0.0), "amount", "must be above zero")?;
            require(is_date(&invoice["due_date"]), "due_date", "must be a date")?;
            Ok(records.create("invoices", 7001, invoice, "invoice #"))
        }
        ("POST", ["api", "billing", "setup"]) => {
            let setup = call.object(&["contract_id", "client_id"])?;
            Ok(records.create("billing_setups", 1, setup, "billing #"))
        }
        (_, ["api", "clients" | "invoices"] | ["api", "pricing", "calculate"] | ["api", "billing", "setup"]) => {
            Err(Reply::wrong_verb())
        }
        _ => Err(Reply::unknown_path()),
    }
}

/// Answers the bare total, in reais.
fn price(service: &Map<String, Value>) -> Result<Reply, Reply> {
    let hours = number(&service["hours"]).filter(|hours| *hours > 0.0);
    let hours = hours.ok_or_else(|| Reply::invalid("hours", "must be above zero"))?;
    let mut rate = HOUR;
    for (field, surcharge) in [("is_weekend", 1.2), ("is_holiday", 1.5), ("is_night", 1.25)] {
        match service.get(field) {
            Some(Value::Bool(true)) => rate *= surcharge,
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(_) => return Err(Reply::invalid(field, "must be true or false")),
        }
    }
    let total = (hours * rate * 100.0).round() / 100.0;
    Ok(Reply::new(StatusCode::OK, json!({ "total": total }), format!("{hours} hours cost R$ {total:.2}")))
}

/// As Laravel's `numeric`: a text may be one.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::super::System as _;
    use super::super::door::Internal;
    use super::*;

    #[test]
    fn a_service_has_its_price_and_each_post_makes_an_invoice() {
        let mut financeiro = Internal::new(&FINANCEIRO).unwrap();
        let path = "/api/pricing/calculate";
        let plain = json!({ "service_type": "horista", "hours": 4, "is_weekend": false, "is_holiday": null });
        financeiro.requires("POST", path, &plain, &["service_type", "hours"]);
        assert_eq!(financeiro.call("POST", path, plain, &[]).body, json!({ "total": 160.0 }));
        let dear = json!({ "service_type": "horista", "hours": "1.5", "is_weekend": true, "is_night": true });
        assert_eq!(financeiro.call("POST", path, dear, &[]).body, json!({ "total": 90.0 }));

        let invoice = json!({ "client_id": 7, "operacao_service_id": 9, "amount": 160.0, "due_date": "2026-11-27" });
        for id in [7001, 7002] {
            assert_eq!(financeiro.call("POST", "/api/invoices", invoice.clone(), &[]).body["data"]["id"], id);
        }
        assert_eq!(financeiro.records("invoices").len(), 2);
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut financeiro = Internal::new(&FINANCEIRO).unwrap();
        financeiro.admits_only("x-api-key", "/api/invoices");
        let client = json!({ "crm_client_id": 7, "name": "Ana" });
        financeiro.requires("POST", "/api/clients", &client, &["crm_client_id", "name"]);
        let billing = json!({ "contract_id": 5001, "client_id": 7 });
        financeiro.requires("POST", "/api/billing/setup", &billing, &["contract_id", "client_id"]);
        let invoice = json!({ "client_id": 7, "operacao_service_id": 9, "amount": 160.0, "due_date": "2026-11-27" });
        let required = ["client_id", "operacao_service_id", "amount", "due_date"];
        financeiro.requires("POST", "/api/invoices", &invoice, &required);
        for (field, value) in [("amount", json!(0)), ("amount", json!("much")), ("due_date", json!("27/11/2026"))] {
            let mut wrong = invoice.clone();
            wrong[field] = value;
            assert_eq!(financeiro.status("POST", "/api/invoices", wrong), 422, "{field}");
        }
        let path = "/api/pricing/calculate";
        for (field, value) in [("hours", json!("four")), ("hours", json!(0)), ("is_night", json!("yes"))] {
            let mut wrong = json!({ "service_type": "horista", "hours": 4 });
            wrong[field] = value;
            assert_eq!(financeiro.status("POST", path, wrong), 422, "{field}");
        }
        assert_eq!(financeiro.status("GET", path, Value::Null), 405);
        assert_eq!(financeiro.status("POST", "/api/v1/invoices", json!({})), 404);
        assert_eq!(financeiro.status("POST", "/api/v1/webhooks/events", json!({})), 404);
    }
}
