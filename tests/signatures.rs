//! The schemes' owners publish libraries. What these sign is let in, and what the hub and `tomada send` sign is verified by
//! them. They are installed below target/, once, from PyPI and npm.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::harness::partner::{Partner, source};
use crate::harness::target::Target;
use crate::harness::{START_MS, TestHub};

const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PREVIOUS: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
const OTHER: &str = "whsec_d2hhdCBkbyB5YSB3YW50IGZvciBub3RoaW5nPw==";
const WHSK: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const WHPK: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
/// Not ASCII, and with blanks that a parser would not keep.
const BODY: &str = r#"{ "name": "João", "n":1.50 }"#;

/// Scheme, secret, and the library that knows it.
const SCHEMES: [(&str, &str, Library); 4] = [
    ("standard-webhooks", WHSEC, Library::Python),
    ("svix", WHSEC, Library::Python),
    ("stripe", "whsec_as-it-stands", Library::Python),
    ("github", "It's a Secret to Everybody", Library::Node),
];

#[derive(Clone, Copy)]
enum Library {
    Python,
    Node,
}

impl Library {
    fn ask(self, question: &Value) -> Value {
        let mut command = match self {
            Library::Python => {
                let mut command = Command::new(python());
                command.arg(scripts().join("official.py"));
                command
            }
            Library::Node => {
                let mut command = Command::new("node");
                command.arg(node().join("github.mjs"));
                command
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it was installed");
        serde_json::to_writer(child.stdin.take().expect("a pipe"), question).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "the library failed: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn sign(self, scheme: &str, secret: &str, id: &str, body: &str) -> Vec<(String, String)> {
        let headers = self.ask(&json!({
            "do": "sign", "scheme": scheme, "secret": secret, "id": id, "timestamp": unix_seconds(), "body": body,
        }));
        let headers: BTreeMap<String, String> = serde_json::from_value(headers).expect("headers");
        headers.into_iter().collect()
    }

    fn verify(self, scheme: &str, secret: &str, headers: &BTreeMap<String, String>, body: &str) -> bool {
        let answer =
            self.ask(&json!({ "do": "verify", "scheme": scheme, "secret": secret, "headers": headers, "body": body }));
        answer["verified"].as_bool().expect("yes or no")
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("official")
}

/// `target/official/<name>` with what `install` puts there; made anew when the list of what is wanted changed.
fn installed(name: &str, list: &str, install: impl Fn(&Path) -> Vec<Command>) -> PathBuf {
    let program = std::env::current_exe().expect("this program has a path");
    let target = program.ancestors().nth(3).expect("target/debug/deps/promises");
    let directory = target.join("official").join(name);
    let wanted = std::fs::read_to_string(scripts().join(list)).expect("the list");
    let marker = directory.join("installed");
    if std::fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return directory;
    }
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a directory below target");
    for mut command in install(&directory) {
        let failed = match command.output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        panic!(
            "the official libraries cannot be installed: {command:?}: {failed}\n\
             This test needs python3 with venv (Debian: python3-venv), node and npm (20 or later), and PyPI and npm's \
             registry within reach at the first run."
        );
    }
    std::fs::write(marker, wanted).expect("written");
    directory
}

fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    let directory = PYTHON.get_or_init(|| {
        installed("python", "requirements.txt", |directory| {
            let mut make = Command::new("python3");
            make.args(["-m", "venv"]).arg(directory);
            let mut install = Command::new(directory.join("bin/python"));
            install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
            install.arg(scripts().join("requirements.txt"));
            vec![make, install]
        })
    });
    directory.join("bin/python")
}

fn node() -> &'static Path {
    static NODE: OnceLock<PathBuf> = OnceLock::new();
    NODE.get_or_init(|| {
        let directory = installed("node", "package.json", |directory| {
            std::fs::copy(scripts().join("package.json"), directory.join("package.json")).expect("copied");
            let mut install = Command::new("npm");
            install.args(["install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]);
            install.arg(directory);
            let mut check = Command::new("node");
            check.arg("--version");
            vec![install, check]
        });
        // Modules are looked for beside the script.
        std::fs::copy(scripts().join("github.mjs"), directory.join("github.mjs")).expect("copied");
        directory
    })
}

/// A file for `file:` references; gone with what is returned.
fn secret(value: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), value).expect("written");
    file
}

/// The hub's clock at the libraries' time: they know no other.
fn to_now(hub: &TestHub) {
    hub.clock.advance(Duration::from_millis(unix_seconds() * 1000 - START_MS));
}

fn source_of(scheme: &str, secrets: &str, more: &str) -> String {
    format!(
        r#"
        [sources.{scheme}]
        auth = {{ scheme = "{scheme}", secrets = [{secrets}]{more} }}
        [[sources.{scheme}.webhooks]]
        path = "/webhooks/{scheme}"
        event = "official"
        queue = "integrations"
        "#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_official_libraries_sign_is_let_in() {
    let files: Vec<NamedTempFile> = SCHEMES.iter().map(|(_, value, _)| secret(value)).collect();
    let sources: Vec<String> = SCHEMES
        .iter()
        .zip(&files)
        .map(|((scheme, ..), file)| source_of(scheme, &format!("\"file:{}\"", file.path().display()), ""))
        .collect();
    let hub = TestHub::start(&sources.concat()).await;
    to_now(&hub);
    for (scheme, secret, library) in SCHEMES {
        let path = format!("/webhooks/{scheme}");
        let mut partner = Partner::of(&hub.url, &path).await;
        let headers = library.sign(scheme, secret, "msg_official", BODY);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = partner.send_with(&headers, BODY).await.expect("an answer");
        assert_eq!(answer.status, 202, "{scheme}: {}", answer.problem());
        let answer = partner.send_with(&headers, &BODY.replace("João", "Joao")).await.expect("an answer");
        assert_eq!(answer.status, 401, "{scheme}: another body");
        let other = library.sign(scheme, OTHER, "msg_other", BODY);
        let other: Vec<(&str, &str)> = other.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(partner.send_with(&other, BODY).await.expect("an answer").status, 401, "{scheme}: another secret");
    }
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn official_libraries_verify_what_tomada_send_signs() {
    let target = Target::start().await;
    let hub = TestHub::start("").await;
    for (scheme, value, library) in SCHEMES {
        let file = secret(value);
        let reference = format!("file:{}", file.path().display());
        let url = target.url();
        let arguments =
            ["send", "x", "--url", &url, "--raw", "--scheme", scheme, "--secret", &reference, "--json", BODY];
        let output = hub.command(&arguments).await;
        assert!(output.status.success(), "{scheme}: {}", String::from_utf8_lossy(&output.stderr));
        let got = target.got().pop().expect("a request");
        let (headers, body) = (headers_of(&got), String::from_utf8(got.body.to_vec()).expect("UTF-8"));
        assert!(library.verify(scheme, value, &headers, &body), "{scheme}: {headers:?}");
        assert!(!library.verify(scheme, value, &headers, &format!("{body} ")), "{scheme}: another body");
        assert!(!library.verify(scheme, OTHER, &headers, &body), "{scheme}: another secret");
    }
    hub.finish(&[]).await;
}

fn headers_of(got: &crate::harness::target::Got) -> BTreeMap<String, String> {
    let text = |value: &hyper::header::HeaderValue| value.to_str().map(str::to_owned).unwrap_or_default();
    got.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// While a secret is changed, receivers that have the old one and such that have the new one both verify; and a hub that
/// knows the public key verifies what a hub sends.
#[tokio::test(flavor = "multi_thread")]
async fn official_libraries_verify_deliveries_while_the_secret_changes() {
    let target = Target::start().await;
    let (now, before, pair) = (secret(WHSEC), secret(PREVIOUS), secret(WHSK));
    let endpoint = target.endpoint("target");
    let mut config = source("/webhooks/partner/order", "order.created");
    config.push_str(&format!(
        r#"
        {endpoint}
        [endpoints.target.secrets]
        signing = "file:{}"
        signing_previous = "file:{}"
        signing_ed25519 = "file:{}"
        [[routes]]
        event = "order.created"
        endpoint = "target"
        "#,
        now.path().display(),
        before.path().display(),
        pair.path().display()
    ));
    let public = secret(WHPK);
    config.push_str(&source_of("standard-webhooks", &format!("\"file:{}\"", public.path().display()), ""));
    let hub = TestHub::start(&config).await;
    to_now(&hub);
    let mut partner = Partner::of(&hub.url, "/webhooks/partner/order").await;
    let (id, _) = partner.send(&json!({ "order": 1, "name": "João" })).await;
    hub.event_with(&id, "delivered").await;
    let got = target.got().pop().expect("a delivery");
    let (headers, body) = (headers_of(&got), String::from_utf8(got.body.to_vec()).expect("UTF-8"));
    let versions: Vec<&str> =
        headers["webhook-signature"].split(' ').filter_map(|one| Some(one.split_once(',')?.0)).collect();
    assert_eq!(versions, ["v1", "v1", "v1a"]);
    // The verifier of Standard Webhooks reads `v1a` as a version that it does not know.
    for scheme in ["standard-webhooks", "svix"] {
        for (value, fits) in [(WHSEC, true), (PREVIOUS, true), (OTHER, false)] {
            assert_eq!(Library::Python.verify(scheme, value, &headers, &body), fits, "{scheme} {value}: {headers:?}");
        }
        assert!(!Library::Python.verify(scheme, WHSEC, &headers, &format!("{body} ")), "{scheme}: another body");
    }
    let headers: Vec<(&str, &str)> = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .into_iter()
        .map(|name| (name, headers[name].as_str()))
        .collect();
    let mut other_hub = Partner::of(&hub.url, "/webhooks/standard-webhooks").await;
    assert_eq!(other_hub.send_with(&headers, &body).await.expect("an answer").status, 202, "by the public key");
    hub.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metas_question_is_answered_to_those_who_know_the_token() {
    let (app, token) = (secret("app-secret"), secret("meatyhamhock"));
    let hub = TestHub::start(&source_of(
        "meta",
        &format!("\"file:{}\"", app.path().display()),
        &format!(", verify_token = \"file:{}\"", token.path().display()),
    ))
    .await;
    let mut partner = Partner::of(&hub.url, "/webhooks/meta").await;
    let question = "/webhooks/meta?hub.mode=subscribe&hub.challenge=%3Cb%3E1158201444&hub.verify_token=";
    let answer = partner.request(Method::GET, &format!("{question}meatyhamhock"), &[], "").await.expect("an answer");
    assert_eq!((answer.status, &*answer.body), (200, &b"<b>1158201444"[..]));
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    for wrong in [format!("{question}meaty"), question.to_owned(), "/webhooks/meta".to_owned()] {
        let answer = partner.request(Method::GET, &wrong, &[], "").await.expect("an answer");
        assert_eq!(answer.status, 401, "{wrong}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("1158201444"), "{wrong}");
    }
    hub.finish(&[]).await;
}

/// Slack asks in a signed POST, which is no event.
#[tokio::test(flavor = "multi_thread")]
async fn slacks_question_is_answered_to_slack_only() {
    let signing = secret("8f742231b10e8888abcd99yyyzzz85a5");
    let hub = TestHub::start(&source_of("slack", &format!("\"file:{}\"", signing.path().display()), "")).await;
    let mut partner = Partner::of(&hub.url, "/webhooks/slack").await;
    let seconds = (START_MS / 1000).to_string();
    let mut ask = async |body: &str, key: &str| {
        let signed = format!("v0:{seconds}:{body}");
        let signature = format!("v0={}", crate::harness::partner::signature_with(key.as_bytes(), &signed));
        let headers = [("x-slack-signature", signature.as_str()), ("x-slack-request-timestamp", seconds.as_str())];
        partner.send_with(&headers, body).await.expect("an answer")
    };
    let question = r#"{"token":"t","challenge":"<b>3eZbrw1aB","type":"url_verification"}"#;
    let answer = ask(question, "8f742231b10e8888abcd99yyyzzz85a5").await;
    assert_eq!((answer.status, &*answer.body), (200, &b"<b>3eZbrw1aB"[..]));
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(ask(question, "another").await.status, 401);
    let event = r#"{"challenge":"x","type":"event_callback"}"#;
    assert_eq!(ask(event, "8f742231b10e8888abcd99yyyzzz85a5").await.status, 202);
    assert_eq!(hub.get("/api/events").await["items"].as_array().map(Vec::len), Some(1), "the question is no event");
    hub.finish(&[]).await;
}

/// A retired secret proves nothing, a source without a live one is closed, and operators see which one was seen last.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_have_their_dates_and_are_seen() {
    let (old, new) = (secret("old"), secret("new"));
    // The hub's clock begins on 2026-01-01.
    let secrets = format!(
        r#"{{ ref = "file:{}", not_after = "2026-01-02T00:00:00Z" }},
           {{ ref = "file:{}", not_before = "2026-01-01T12:00:00Z", not_after = "2026-01-03T00:00:00Z" }}"#,
        old.path().display(),
        new.path().display()
    );
    let token = secret("0123456789abcdefghijkl");
    let unsigned = format!(
        r#"
        [sources.zapi]
        auth = {{ scheme = "path-token", secrets = ["file:{}"], reason = "Z-API signs nothing" }}
        [[sources.zapi.webhooks]]
        path = "/webhooks/zapi/{{token}}"
        event = "whatsapp"
        queue = "integrations"
        "#,
        token.path().display()
    );
    let hub = TestHub::start(&(source_of("github", &secrets, "") + &unsigned)).await;
    let mut partner = Partner::of(&hub.url, "/webhooks/github").await;
    for (hours, with_old, with_new) in [(0, 202, 401), (13, 202, 202), (12, 401, 202), (24, 401, 401)] {
        hub.clock.advance(Duration::from_secs(hours * 3600));
        for (value, status) in [("old", with_old), ("new", with_new)] {
            let signature = crate::harness::partner::signature_with(value.as_bytes(), "{}");
            let signature = format!("sha256={signature}");
            let answer = partner.send_with(&[("x-hub-signature-256", &signature)], "{}").await.expect("an answer");
            assert_eq!(answer.status, status, "{value} after {hours} hours more");
        }
    }
    let sources = hub.get("/api/sources").await;
    let expected = json!({ "items": [
        {
            "name": "github", "description": "", "scheme": "github", "signed": true, "reason": null,
            "webhooks": ["/webhooks/github"],
            "secrets": [
                { "position": 1, "stored": null, "not_before": null, "not_after": "2026-01-02T00:00:00Z", "live": false,
                  "last_matched_at": "2026-01-01T13:00:00Z" },
                { "position": 2, "stored": null, "not_before": "2026-01-01T12:00:00Z", "not_after": "2026-01-03T00:00:00Z",
                  "live": false, "last_matched_at": "2026-01-02T01:00:00Z" },
            ],
        },
        {
            "name": "zapi", "description": "", "scheme": "path-token", "signed": false,
            "reason": "Z-API signs nothing", "webhooks": ["/webhooks/zapi/{token}"],
            "secrets": [
                { "position": 1, "stored": null, "not_before": null, "not_after": null, "live": true, "last_matched_at": null },
            ],
        },
    ]});
    assert_eq!(sources, expected);
    let output = String::from_utf8(hub.command(&["sources"]).await.stdout).expect("UTF-8");
    assert!(output.contains("UNSIGNED: Z-API signs nothing"), "{output}");
    assert!(output.contains("secret 2: not live, from 2026-01-01T12:00:00Z, until 2026-01-03T00:00:00Z"), "{output}");

    // Everybody may know which sources are not signed, and nobody the names of secrets.
    let status = partner.request(Method::GET, "/status", &[], "").await.expect("an answer");
    let status: Value = serde_json::from_slice(&status.body).expect("JSON");
    assert_eq!(status["status"], "ok");
    assert!(status["version"].is_string());
    assert_eq!(status["unsigned_sources"], json!([{ "name": "zapi", "reason": "Z-API signs nothing" }]));
    assert!(!status.to_string().contains("file:"));
    hub.finish(&[]).await;
}
