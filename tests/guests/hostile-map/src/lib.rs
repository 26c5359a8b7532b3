//! A mapping that does harm: `{"mode": "loops"}` and so on in its settings. The hub must outlive all of it.

use std::hint::{black_box, spin_loop};

use tomada_sdk::prelude::*;

#[derive(Deserialize)]
struct Settings {
    mode: Mode,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Does no harm, for comparison.
    Behaves,
    /// Never returns.
    Loops,
    /// Takes memory without end.
    Grows,
    /// Stops without a word.
    Traps,
    Panics,
    /// Calls itself without end, with nothing on the stack in linear memory.
    Recurses,
    /// Calls itself without end, with 4 KiB in linear memory each time.
    Smashes,
    /// Returns 100 MB.
    Floods,
    /// Returns 2 MiB: within any guest's memory and beyond what a payload may have.
    Swells,
    /// Logs a million lines.
    Logs,
    Skips,
    Fails,
    /// Logs the payload, and says it when it fails.
    Tells,
}

#[mapping(name = "hostile-map")]
fn map(event: Event<Raw>, settings: Settings) -> Result<Mapped<Raw>, Detail> {
    match settings.mode {
        Mode::Behaves => {}
        Mode::Loops => loop {
            spin_loop();
        },
        Mode::Grows => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        Mode::Traps => std::process::abort(),
        Mode::Panics => panic!("the mapping was told to panic"),
        Mode::Recurses => drop(black_box(recurse(3, u64::MAX))),
        Mode::Smashes => drop(black_box(smash(1))),
        Mode::Floods => return Ok(Mapped::Payload(Raw(vec![b' '; 100_000_000]))),
        Mode::Swells => return Ok(Mapped::Payload(Raw(vec![b' '; 2 << 20]))),
        Mode::Logs => (0..1_000_000).for_each(|number| log::info(format!("line {number}"))),
        Mode::Skips => return Ok(Mapped::Skip("told to skip".into())),
        Mode::Tells => {
            let told = String::from_utf8_lossy(&event.payload).into_owned();
            log::error(&told);
            return Err(Detail::new("told-to-tell", told));
        }
        Mode::Fails => return Err(Detail::new("told-to-fail", "the mapping was told to fail")),
    }
    Ok(Mapped::Payload(event.payload))
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
