//! Carinho's Documentos: contracts, consents, and what people may ask about their own data by law (LGPD).

use tomada_carinho::{Settings, System, event_unknown, pass_on};
use tomada_sdk::prelude::*;

#[connector(
    name = "documentos",
    hosts = ["settings.base_url"],
    secrets = ["api_key"],
    events = ["contract.requested", "consent.requested", "data_request.export", "data_request.deletion"],
    description = "Asks Carinho's Documentos for contracts, consents and data requests."
)]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    let path = match event.event_type.as_str() {
        "contract.requested" => "/api/v1/contracts",
        "consent.requested" => "/api/v1/consents",
        "data_request.export" => "/api/v1/data-requests/export",
        "data_request.deletion" => "/api/v1/data-requests/deletion",
        other => {
            return Err(event_unknown(
                other,
                &["contract.requested", "consent.requested", "data_request.export", "data_request.deletion"],
            ));
        }
    };
    Ok(pass_on(System::new(cx, &event)?.post(path), &event).send()?.ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tomada_sdk::test::{Host, event};

    const ROUTES: [(&str, &str); 4] = [
        ("contract.requested", "https://doc.test/api/v1/contracts"),
        ("consent.requested", "https://doc.test/api/v1/consents"),
        ("data_request.export", "https://doc.test/api/v1/data-requests/export"),
        ("data_request.deletion", "https://doc.test/api/v1/data-requests/deletion"),
    ];

    fn host() -> Host {
        Host::new().settings(json!({"base_url": "https://doc.test", "auth": "internal_token"})).secret("api_key")
    }

    #[test]
    fn each_request_goes_its_way_as_it_is() {
        for (event_type, url) in ROUTES {
            let mut event = event(event_type, json!(null));
            event.payload = Raw(br#"{"client_id": 55, "value": 1500.00}"#.to_vec());
            let run =
                host().answer(Method::Post, url, 201, json!({"success": true, "data": {"id": 1}})).run(handle, event);
            let request = &run.requests[0];
            assert_eq!(request.body, br#"{"client_id": 55, "value": 1500.00}"#);
            assert_eq!(request.header("Content-Type"), Some("application/json"));
            assert_eq!(request.header("X-Internal-Token"), Some("{api_key}"));
            assert_eq!(request.header("X-Source-System"), Some("integracoes"));
            assert_eq!(request.header("X-Request-ID"), Some("dlv_0000000000001"));
            assert_eq!(request.header("Idempotency-Key"), Some("dlv_0000000000001"));
            assert_eq!(run.receipt().http_status, Some(201));
        }
    }

    #[test]
    fn failures_are_the_right_kind() {
        for (event_type, url) in ROUTES {
            for (status, kind) in [(422, "Rejected"), (401, "Unauthorized"), (503, "Transient")] {
                let run = host().answer(Method::Post, url, status, json!({})).run(handle, event(event_type, json!({})));
                assert!(
                    format!("{:?}", run.failure()).starts_with(&format!("Failure::{kind}(")),
                    "{event_type} {status}"
                );
            }
        }
        let run = host().run(handle, event("data_request.rectification", json!({})));
        let Failure::Rejected(detail) = run.failure() else { panic!("{run:?}") };
        assert_eq!(detail.code, "event-unknown");
        assert!(detail.message.contains(
            "data_request.rectification: route it elsewhere, or one of contract.requested, consent.requested, \
             data_request.export, data_request.deletion here"
        ));
    }
}
