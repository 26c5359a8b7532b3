//! Carinho's Documentos: contracts, consents, and what people ask about their data.

use super::door::{Api, EVENTS, Profile, no_lists};
use super::{Call, Records, Reply};

pub(super) static DOCUMENTOS: Api = Api { profile: Profile::InternalToken, events: EVENTS, answer, seed: no_lists };

fn answer(call: &Call<'_>, records: &mut Records) -> Result<Reply, Reply> {
    match (call.method.as_str(), &call.segments()[..]) {
        ("POST", ["api", "v1", "contracts"]) => {
            Ok(records.create("contracts", 5501, call.object(&["client_id"])?, "contract #"))
        }
        ("POST", ["api", "v1", "consents"]) => {
            Ok(records.create("consents", 1, call.object(&["client_id"])?, "consent #"))
        }
        ("POST", ["api", "v1", "data-requests", kind @ ("export" | "deletion")]) => {
            let mut request = call.object(&["client_id"])?;
            request.insert("kind".into(), (*kind).into());
            Ok(records.create("data_requests", 1, request, &format!("request # for {kind}")))
        }
        (_, ["api", "v1", "contracts" | "consents"] | ["api", "v1", "data-requests", "export" | "deletion"]) => {
            Err(Reply::wrong_verb())
        }
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
        let mut documentos = Internal::new(&DOCUMENTOS).unwrap();
        documentos.admits_only("x-internal-token", "/api/v1/contracts");
        for path in ["contracts", "consents", "data-requests/export", "data-requests/deletion"] {
            let path = format!("/api/v1/{path}");
            documentos.requires("POST", &path, &json!({ "client_id": 7 }), &["client_id"]);
            assert_eq!(documentos.status("GET", &path, Value::Null), 405, "{path}");
        }
        let kinds: Vec<&Value> = documentos.records("data_requests").iter().map(|request| &request["kind"]).collect();
        assert_eq!(kinds, ["export", "deletion"]);
        assert_eq!(documentos.status("POST", "/api/v1/data-requests/copy", json!({ "client_id": 7 })), 404);
    }
}
