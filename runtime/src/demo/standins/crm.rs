//! Carinho's CRM: leads and what becomes of them, clients and deals, and the lists that the sync jobs read.

use serde_json::{Value, json};

use super::door::{Api, EVENTS, Profile, require};
use super::{Call, Records, Reply, fields, phone_digits, plain};

pub(super) static CRM: Api = Api { profile: Profile::ApiKeyAndOrigin, events: EVENTS, answer, seed };

fn answer(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    let segments = call.segments();
    let ["api", "v1", path @ ..] = &segments[..] else { return Err(Reply::unknown_path()) };
    match (call.method.as_str(), path) {
        ("GET", ["leads"]) => Ok(find(call, records)),
        ("POST", ["leads"]) => create(call, records),
        ("PUT", ["leads", id]) => update(id, call, records),
        ("POST", ["leads", id, "advance"]) => advance(id, call, records),
        ("POST", ["leads", id, "interactions"]) => interact(id, call, records),
        ("POST", ["clients"]) => {
            let client = call.object(&["name"])?;
            require(client.contains_key("phone") || client.contains_key("email"), "phone", "or email is required")?;
            Ok(records.create("clients", 2001, client, "client #"))
        }
        ("POST", ["deals"]) => {
            let deal = call.object(&["lead_id", "client_id", "value", "service_type"])?;
            require(deal["value"].is_number(), "value", "must be a number")?;
            Ok(records.create("deals", 3001, deal, "deal #"))
        }
        ("GET", ["sync", "pending-schedules"]) => Ok(pending(records, "schedules")),
        ("GET", ["sync", "pending-billing-setup"]) => Ok(pending(records, "billing_setups")),
        ("POST", ["sync", "confirm", id]) => confirm(id, call, records),
        ("POST", ["contracts", id, "billing-setup"]) => configure(id, call, records),
        (
            _,
            ["leads" | "clients" | "deals"]
            | ["leads", _]
            | ["leads", _, "advance" | "interactions"]
            | ["sync", "pending-schedules" | "pending-billing-setup"]
            | ["sync", "confirm", _]
            | ["contracts", _, "billing-setup"],
        ) => Err(Reply::wrong_verb()),
        _ => Err(Reply::unknown_path()),
    }
}

fn find(call: &Call<'_>, records: &Records) -> Reply {
    let Some(phone) = call.asked("phone") else { return Reply::list(records.of("leads").to_vec(), "all leads") };
    let phone = phone_digits(phone);
    let found: Vec<Value> = records.of("leads").iter().filter(|lead| lead["phone"] == *phone).cloned().collect();
    let note = match found.first() {
        Some(lead) => format!("lead {} has this phone", lead["id"]),
        None => "no lead has this phone".into(),
    };
    Reply::list(found, note)
}

fn create(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    let mut lead = call.object(&["phone"])?;
    let phone = phone_digits(lead["phone"].as_str().unwrap_or_default());
    require(!phone.is_empty(), "phone", "must have digits")?;
    lead.insert("phone".into(), phone.into());
    lead.insert("interaction_count".into(), 1.into());
    lead.insert("last_contact_at".into(), Value::Null);
    lead.insert("status".into(), "new".into());
    Ok(records.create("leads", 1001, lead, "lead #"))
}

fn update(id: &str, call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    let lead = records.find_mut("leads", id)?;
    lead.extend(call.object(&[])?.into_iter().filter(|(key, _)| key != "id"));
    let note = format!("lead {id} updated, {} contacts", lead.get("interaction_count").unwrap_or(&Value::Null));
    Ok(Reply::done(lead.clone().into(), note))
}

fn advance(id: &str, call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    let mut step = call.object_or_nothing()?;
    let lead = records.find_mut("leads", id)?;
    lead.insert("status".into(), "advanced".into());
    let lead = lead.clone();
    step.insert("lead_id".into(), lead["id"].clone());
    records.add("advances", 1, step);
    Ok(Reply::done(lead.into(), format!("lead {id} advanced")))
}

fn interact(id: &str, call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    let lead = records.find_mut("leads", id)?.get("id").cloned().unwrap_or_default();
    let mut interaction = call.object(&["channel", "direction", "metadata"])?;
    require(interaction.get("content").is_some_and(Value::is_string), "content", "is required")?;
    require(matches!(plain(&interaction["direction"]).as_str(), "inbound" | "outbound"), "direction", "is unknown")?;
    for field in ["message_id", "received_at"] {
        let given = interaction["metadata"].get(field).is_some_and(|value| !value.is_null());
        require(given, &format!("metadata.{field}"), "is required")?;
    }
    interaction.insert("lead_id".into(), lead);
    Ok(records.create("interactions", 4001, interaction, &format!("interaction # with lead {id}")))
}

fn pending(records: &Records, kind: &str) -> Reply {
    let found: Vec<Value> = records.of(kind).iter().filter(|item| item["status"] == "pending").cloned().collect();
    let note = format!("{} {} are pending", found.len(), kind.replace('_', " "));
    Reply::list(found, note)
}

/// Each confirmation is kept: two of one schedule are one too many.
fn confirm(id: &str, call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    records.find_mut("schedules", id)?;
    let mut confirmation = call.object(&["operacao_schedule_id"])?;
    let schedule = records.find_mut("schedules", id)?;
    schedule.insert("status".into(), "confirmed".into());
    schedule.insert("operacao_schedule_id".into(), confirmation["operacao_schedule_id"].clone());
    let schedule = schedule.clone();
    confirmation.insert("schedule_id".into(), schedule["id"].clone());
    let note = format!("schedule {id} confirmed as {}", plain(&confirmation["operacao_schedule_id"]));
    records.add("confirmations", 1, confirmation);
    Ok(Reply::done(schedule.into(), note))
}

fn configure(id: &str, call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    records.find_mut("billing_setups", id)?;
    let mut setup = call.object(&[])?;
    let pending = records.find_mut("billing_setups", id)?;
    pending.insert("status".into(), "configured".into());
    setup.insert("contract_id".into(), pending["id"].clone());
    let setup = records.add("contracts", 1, setup);
    Ok(Reply::done(setup, format!("contract {id} has its billing")))
}

/// `schedules` and `billing_setups`, the latter under the ids of their contracts.
fn seed(what: &str, count: usize, records: &mut Records) -> bool {
    for _ in 0..count {
        let n = records.of(what).len();
        match what {
            "schedules" => {
                let first = records.seeded_from + 301;
                records.add(
                    "schedules",
                    first,
                    fields(json!({
                        "client_id": 2001 + n, "contract_id": 5001 + n, "service_type": "horista", "status": "pending",
                        "start_date": "2026-12-01 08:00:00", "end_date": "2026-12-01 12:00:00",
                        "start_datetime": "2026-12-01 08:00:00", "end_datetime": "2026-12-01 12:00:00",
                        "preferences": { "language": "pt-BR" },
                    })),
                );
            }
            "billing_setups" => {
                let first = records.seeded_from + 5001;
                records.add(
                    "billing_setups",
                    first,
                    fields(json!({
                        "contract_id": first + n, "client_id": 2001 + n, "service_type": "mensal", "value": 4200.5,
                        "billing_day": 5, "payment_method": "pix", "status": "pending",
                    })),
                );
            }
            _ => return false,
        }
    }
    matches!(what, "schedules" | "billing_setups")
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::super::System as _;
    use super::super::door::Internal;
    use super::*;

    fn crm() -> Internal {
        Internal::new(&CRM).unwrap()
    }

    #[test]
    fn a_lead_is_created_found_by_any_spelling_of_its_phone_and_updated() {
        let mut crm = crm();
        let lead = json!({ "name": "Ana", "phone": "(11) 98888-7777" });
        let created = crm.call("POST", "/api/v1/leads", lead, &[]);
        assert_eq!((created.status, &created.body["data"]["id"]), (StatusCode::CREATED, &json!(1001)));

        for phone in ["5511988887777", "%2811%29%2098888-7777"] {
            let found = crm.call("GET", &format!("/api/v1/leads?phone={phone}"), Value::Null, &[]);
            assert_eq!(found.body["data"][0]["id"], 1001, "{phone}");
        }
        let none = crm.call("GET", "/api/v1/leads?phone=5511900000000", Value::Null, &[]);
        assert_eq!(none.body, json!({ "data": [] }));

        let updated = crm.call("PUT", "/api/v1/leads/1001", json!({ "interaction_count": 2, "id": 5 }), &[]);
        assert_eq!((updated.status, &updated.body["data"]["id"]), (StatusCode::OK, &json!(1001)));
        assert_eq!(crm.records("leads")[0]["interaction_count"], 2);
        assert_eq!(crm.status("PUT", "/api/v1/leads/1002", json!({})), 404);
    }

    #[test]
    fn a_lead_is_advanced_and_spoken_with() {
        let mut crm = crm();
        crm.status("POST", "/api/v1/leads", json!({ "phone": "11988887777" }));
        assert_eq!(crm.status("POST", "/api/v1/leads/1001/advance", Value::Null), 200);
        assert_eq!((crm.records("advances").len(), &crm.records("leads")[0]["status"]), (1, &json!("advanced")));
        let deal = json!({ "lead_id": 1001, "client_id": 7, "value": 0, "service_type": "horista" });
        crm.requires("POST", "/api/v1/deals", &deal, &["lead_id", "client_id", "value", "service_type"]);

        let interaction = json!({
            "channel": "whatsapp", "direction": "inbound", "content": "",
            "metadata": { "message_id": "A", "received_at": "2026-11-24T12:00:00Z" },
        });
        let path = "/api/v1/leads/1001/interactions";
        crm.requires("POST", path, &interaction, &["channel", "direction", "metadata"]);
        assert_eq!(crm.records("interactions")[0]["lead_id"], 1001);
        for (field, value) in
            [("direction", json!("sideways")), ("content", Value::Null), ("metadata", json!({ "message_id": "A" }))]
        {
            let mut wrong = interaction.clone();
            wrong[field] = value;
            assert_eq!(crm.status("POST", path, wrong), 422, "{field}");
        }
        assert_eq!(crm.status("POST", "/api/v1/leads/1002/interactions", interaction), 404);
        assert_eq!(crm.status("POST", "/api/v1/leads/1002/advance", Value::Null), 404);
    }

    #[test]
    fn what_is_confirmed_is_no_longer_pending() {
        let mut crm = crm();
        assert!(crm.seed("schedules", 2) && crm.seed("billing_setups", 1) && !crm.seed("leads", 1));
        let listed = |crm: &mut Internal, what: &str| {
            let list = crm.call("GET", &format!("/api/v1/sync/pending-{what}"), Value::Null, &[]).body["data"].clone();
            list.as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(listed(&mut crm, "schedules"), [301, 302]);
        let path = "/api/v1/sync/confirm/301";
        crm.requires("POST", path, &json!({ "operacao_schedule_id": 8001 }), &["operacao_schedule_id"]);
        assert_eq!(listed(&mut crm, "schedules"), [302]);
        assert_eq!(crm.records("confirmations")[0]["schedule_id"], 301);
        assert_eq!(crm.status("POST", "/api/v1/sync/confirm/309", json!({ "operacao_schedule_id": 1 })), 404);

        assert_eq!(listed(&mut crm, "billing-setup"), [5001]);
        assert_eq!(crm.status("POST", "/api/v1/contracts/5001/billing-setup", json!({ "billing_id": 1 })), 200);
        assert!(listed(&mut crm, "billing-setup").is_empty());
        assert_eq!(crm.status("POST", "/api/v1/contracts/5002/billing-setup", json!({})), 404);
    }

    #[test]
    fn what_the_real_one_refuses_is_refused() {
        let mut crm = crm();
        crm.admits_only("x-api-key", "/api/v1/leads");
        for origin in ["", "site"] {
            let reply = crm.call("GET", "/api/v1/leads", Value::Null, &[("x-service-origin", origin)]);
            assert_eq!(reply.status, StatusCode::FORBIDDEN);
        }
        crm.requires("POST", "/api/v1/leads", &json!({ "phone": "11988887777" }), &["phone"]);
        crm.requires("POST", "/api/v1/clients", &json!({ "name": "Ana", "phone": "11988887777" }), &["name"]);
        assert_eq!(crm.status("POST", "/api/v1/clients", json!({ "name": "Ana" })), 422);
        let deal = json!({ "lead_id": 1, "client_id": 7, "value": "much", "service_type": "horista" });
        assert_eq!(crm.status("POST", "/api/v1/deals", deal), 422);
        for path in ["leads", "clients", "leads/1001/advance", "sync/confirm/1", "contracts/1/billing-setup"] {
            assert_eq!(crm.status("DELETE", &format!("/api/v1/{path}"), Value::Null), 405, "{path}");
        }
        assert_eq!(crm.status("GET", "/api/v1/invoices", Value::Null), 404);
        assert_eq!(crm.status("GET", "/leads", Value::Null), 404);
    }
}
