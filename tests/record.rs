//! The record of processing: what the configuration in force says of people's data, and what it does not say.

use serde_json::{Value, json};

use crate::harness::TestHub;
use crate::harness::partner::source;
use crate::harness::target::Target;

fn items<'a>(record: &'a Value, kind: &str, name: &str) -> &'a Value {
    let all = record[kind].as_array().expect("a list");
    all.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("no {name} in {record:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_says_what_is_configured_and_what_is_missing() {
    let target = Target::start().await;
    let toml = source("/webhooks/partner/order", "order.created").replace(
        "[[sources",
        "sensitive = true\nretention = \"7d\"\npersonal = [{ pointer = \"/cpf\", kind = \"cpf\" }]\n[[sources",
    ) + "[sources.partner.processing]\npurpose = \"vender <b>algo</b>\"\nbasis = \"art. 7º, V\"\n\
         categories = [\"contato\"]\nsubjects = [\"clientes\"]\n\
         [sources.silent]\nauth = { scheme = \"github\", secrets = [\"file:/dev/null\"] }\nsensitive = true\n"
        + &target.endpoint("shop")
        + "[endpoints.shop.processing]\nrecipient = \"Loja, Inc.\"\npurpose = \"entregar\"\nbasis = \"art. 7º, V\"\n\
           country = \"US\"\n[[routes]]\nevent = \"order.created\"\nendpoint = \"shop\"\n";
    let hub = TestHub::start(&toml).await;
    let record = hub.get("/api/privacy/record").await;
    let partner = items(&record, "sources", "partner");
    assert_eq!(
        (&partner["basis"], &partner["retention"], &partner["sealed"]),
        (&json!("art. 7º, V"), &json!("7d"), &json!(true))
    );
    assert_eq!(partner["personal"], json!([{ "pointer": "/cpf", "kind": "cpf" }]));
    let recipient = json!([{ "endpoint": "shop", "purpose": "entregar", "transfer_to": "US", "certain": true }]);
    assert_eq!(partner["recipients"], recipient);
    let shop = items(&record, "endpoints", "shop");
    assert_eq!((&shop["transfer"], &shop["receives"]), (&json!(true), &json!(["order.created"])));
    assert_eq!(
        record["missing"],
        json!([
            "fonte silent: falta a finalidade",
            "fonte silent: falta a base legal",
            "fonte silent: faltam as categorias de dados",
            "fonte silent: faltam as categorias de titulares",
            "destino shop: falta a salvaguarda da transferência internacional",
        ])
    );

    let output = hub.command(&["privacy", "record", "--markdown"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "# Registro das operações de tratamento (LGPD, art. 37)",
        "- **Finalidade:** vender \\<b\\>algo\\</b\\>",
        "- **Campos que identificam pessoas:** /cpf (CPF)",
        "- **Conteúdo guardado por:** 7 dias",
        "  - shop: entregar; **transferência internacional: US**",
        "- fonte silent: falta a finalidade",
    ] {
        assert!(text.lines().any(|known| known == line), "{line:?} is missing:\n{text}");
    }
    let output = hub.command(&["privacy", "record"]).await;
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed, record);

    // Whoever applies is told, and nothing is refused for it.
    let config = tomada::config::parse(&toml, "x").expect("it is right");
    let told = hub.post("/api/apply?dry_run=true", json!({ "config": config })).await;
    let warnings = told["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1, "{told:#}");
    assert!(
        warnings[0].as_str().is_some_and(|text| text.starts_with("source \"silent\" has personal data")),
        "{told:#}"
    );
    hub.finish(&[]).await;
}

/// Carinho's record lacks nothing that its configuration can know.
#[test]
fn carinho_says_why_it_has_what_it_has() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../connectors/carinho.toml");
    let config = tomada::config::load(&[file]).unwrap_or_else(|problems| panic!("{problems:#?}"));
    for (name, source) in &config.sources {
        let said = source.processing.as_ref().unwrap_or_else(|| panic!("source {name} says nothing"));
        assert!(!said.purpose.is_empty() && !said.basis.is_empty() && !said.subjects.is_empty(), "{name}");
    }
    for (name, endpoint) in &config.endpoints {
        let said = endpoint.processing.as_ref().unwrap_or_else(|| panic!("endpoint {name} says nothing"));
        assert!(!said.recipient.is_empty() && !said.purpose.is_empty() && !said.basis.is_empty(), "{name}");
    }
}
