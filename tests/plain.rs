//! Plain events: who receives what, mapped, signed in both styles, with the credentials that the target wants. A case is
//! a file `EVENT-to-TARGET.json`: the payload that is published, and the body that the target gets beside `_meta`.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tomada::demo::standins::Received;

use crate::harness::carinho::{Carinho, secret, shipped};
use crate::harness::{eventually, partner::signature_with};

/// Target, path, and the header that carries its key.
const TARGETS: [(&str, &str, &str); 6] = [
    ("crm", "/api/v1/webhooks/events", "x-api-key"),
    ("operacao", "/api/v1/webhooks/events", "x-internal-token"),
    ("financeiro", "/api/webhooks/events", "x-api-key"),
    ("cuidadores", "/api/v1/webhooks/events", "x-internal-token"),
    ("atendimento", "/api/v1/webhooks/events", "authorization"),
    ("marketing", "/api/v1/webhooks/events", "x-api-key"),
];

struct Case {
    event: String,
    target: String,
    payload: Value,
    body: Value,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/plain");
    let files = std::fs::read_dir(folder).expect("the cases");
    let read = |path: std::path::PathBuf| {
        let name = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
        let (event, target) = name.split_once("-to-").unwrap_or_else(|| panic!("{name} is no EVENT-to-TARGET"));
        let case: Value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
        Case {
            event: event.to_owned(),
            target: target.to_owned(),
            payload: case["payload"].clone(),
            body: case["body"].clone(),
        }
    };
    files.map(|file| read(file.expect("a file").path())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_target_gets_each_event_as_it_wants_it() {
    // Without the steps of the flows, which have tests of their own.
    let carinho = Carinho::start_with(|config| {
        config.sync_jobs.clear();
        config.routes.retain(|route| route.endpoint.ends_with("-events"));
    })
    .await;
    for case in cases() {
        let id = carinho.publish(&case.event, "test", &case.payload).await;
        let what = format!("{} to {}", case.event, case.target);
        let (_, path, key_header) =
            *TARGETS.iter().find(|(target, ..)| *target == case.target).unwrap_or_else(|| panic!("{what}: no target"));
        let mut got: Vec<Received> = Vec::new();
        eventually(&what, async || {
            got = carinho.stand_ins.received(&case.target);
            got.retain(|call| call.path == path && call.header("x-event-id") == Some(&id));
            !got.is_empty()
        })
        .await;
        let call = &got[0];
        assert!(call.status.is_success(), "{what}: {} {}", call.status, call.note);

        let mut body = call.json();
        let meta =
            body.as_object_mut().and_then(|body| body.remove("_meta")).unwrap_or_else(|| panic!("{what}: no _meta"));
        assert_eq!(body, case.body, "{what}");
        assert_eq!(
            (&meta["event_id"], &meta["event_type"]),
            (&Value::from(&*id), &Value::from(&*case.event)),
            "{what}"
        );
        assert_eq!(
            (&meta["source_system"], &meta["timestamp"]),
            (&"integracoes".into(), &"2026-01-01T00:00:00Z".into())
        );

        let header = |name: &str| call.header(name).unwrap_or_else(|| panic!("{what}: no {name}"));
        assert_eq!(header("x-source-system"), "integracoes", "{what}");
        assert_eq!(header("x-event-type"), case.event, "{what}");
        assert_eq!(header("x-timestamp"), "2026-01-01T00:00:00Z", "{what}");
        let secrets = &carinho.config.endpoints[&format!("{}-events", case.target)].secrets;
        let key = String::from_utf8(secret(&secrets["auth"])).expect("text");
        let expected = if key_header == "authorization" { format!("Bearer {key}") } else { key };
        assert_eq!(header(key_header), expected, "{what}");
        assert_eq!(call.header("x-service-origin"), (case.target == "crm").then_some("integracoes"), "{what}");

        let text = std::str::from_utf8(&call.body).expect("UTF-8");
        assert_eq!(header("x-webhook-signature"), signature_with(&secret(&secrets["legacy_signing"]), text), "{what}");
        let signed = format!("{}.{}.{text}", header("webhook-id"), header("webhook-timestamp"));
        let signing = String::from_utf8(secret(&secrets["signing"])).expect("text");
        let signing = STANDARD.decode(signing.strip_prefix("whsec_").expect("whsec_")).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&signing).expect("any key");
        mac.update(signed.as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        assert_eq!(header("webhook-signature"), expected, "{what}");
    }
    carinho.settled().await;
    carinho.finish(&[]).await;
}

/// A route or a mapping that somebody adds needs its case, which is a file.
#[test]
fn every_plain_route_and_every_mapping_has_a_case() {
    let config = shipped();
    let cases: BTreeSet<String> = cases().iter().map(|case| format!("{}-to-{}", case.event, case.target)).collect();
    let to_target = |endpoint: &str| endpoint.strip_suffix("-events").map(str::to_owned);
    let routes: BTreeSet<String> = config
        .routes
        .iter()
        // The middle of a sync job, which has a test of its own.
        .filter(|route| route.event != "caregiver.updated")
        .filter_map(|route| Some(format!("{}-to-{}", route.event, to_target(&route.endpoint)?)))
        .collect();
    assert_eq!(routes, cases);
    let mappings: Vec<&String> = config.mappings.keys().filter(|name| !name.starts_with("message-")).collect();
    assert_eq!(mappings.len(), 11);
    for mapping in mappings {
        assert!(cases.contains(mapping), "{mapping} has no case");
        let (event, target) = mapping.split_once("-to-").expect("EVENT-to-TARGET");
        let used = config.routes.iter().any(|route| {
            route.mapping.as_ref() == Some(mapping)
                && route.event == event
                && route.endpoint == format!("{target}-events")
        });
        assert!(used, "{mapping} is not where its name says");
    }
}
