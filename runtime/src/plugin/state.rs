//! What one call owns: its limits, its log, and what the host lends to it.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::catalog::Endpoint;
use crate::clock::Clock;
use crate::outbound::Outbound;

/// Linear memory of one guest, bytes.
pub(crate) const MAX_MEMORY: usize = 32 << 20;
/// Elements of a guest's tables.
pub(crate) const MAX_TABLE: usize = 100_000;
/// Lines that one call may log, and bytes of a line.
const MAX_LINES: usize = 200;
const MAX_LINE: usize = 2048;

pub(crate) struct State {
    pub(crate) limits: Limits,
    pub(crate) log: Log,
    /// Message, file and line of a panic, told just before the trap.
    pub(crate) panic: Option<String>,
    /// Epoch ticks that the guest may still burn.
    pub(crate) ticks: u32,
    /// Whether a target may have done what it was asked for.
    pub(crate) taken: bool,
    /// None for a mapping.
    pub(crate) lent: Option<Lent>,
}

/// What a connector's manifest asks for. The operator's grant is the other half: only what is in both is lent.
pub(crate) struct Declared {
    pub(crate) hosts: Vec<String>,
    pub(crate) secrets: Vec<String>,
}

impl Declared {
    /// Whether the manifest names this host: by itself, as the host of a setting, or as any that the operator grants.
    pub(crate) fn host(&self, host: &str, endpoint: &Endpoint) -> bool {
        let setting = |name: &str| name.strip_prefix("settings.").and_then(|key| endpoint.setting_hosts.get(key));
        self.hosts.iter().any(|name| name == "*" || name == host || setting(name).is_some_and(|named| named == host))
    }
}

/// What only a connector gets.
pub(crate) struct Lent {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) declared: Arc<Declared>,
    pub(crate) clock: Clock,
    pub(crate) deadline: tokio::time::Instant,
    /// Placeholder and name of the secrets that this call has asked for.
    pub(crate) placeholders: Vec<(String, String)>,
    pub(crate) requests: u32,
    /// Whose e-mails are named after it.
    pub(crate) delivery: String,
    pub(crate) mails: u32,
}

impl Lent {
    /// The value of one of the endpoint's secrets, as long as it counts.
    pub(crate) fn secret(&self, name: &str) -> Option<&[u8]> {
        self.endpoint.secrets.get(name)?.at(self.clock.now_ms())
    }
}

impl State {
    pub(crate) fn new(ticks: u32, lent: Option<Lent>) -> State {
        State { limits: Limits::default(), log: Log::default(), panic: None, ticks, taken: false, lent }
    }

    pub(crate) fn panicked(&mut self, message: &str, file: &str, line: u32) {
        let mut text = format!("panicked at {}:{line}: ", cut(file, 256));
        push_printable(&mut text, message);
        self.panic = Some(text);
    }
}

/// Refuses growth beyond the limits and remembers that it did, so that the trap which follows can be named.
#[derive(Default)]
pub(crate) struct Limits {
    pub(crate) hit: bool,
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.hit |= desired > MAX_MEMORY;
        Ok(desired <= MAX_MEMORY)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.hit |= desired > MAX_TABLE;
        Ok(desired <= MAX_TABLE)
    }
}

/// What a guest said, bounded.
#[derive(Default)]
pub(crate) struct Log {
    text: String,
    lines: usize,
}

impl Log {
    pub(crate) fn line(&mut self, level: &str, message: &str) {
        self.lines += 1;
        if self.lines > MAX_LINES {
            return;
        }
        self.text.push_str(level);
        self.text.push(' ');
        push_printable(&mut self.text, message);
        self.text.push('\n');
    }

    /// The lines, and how many were left out.
    pub(crate) fn into_text(mut self) -> Option<String> {
        if self.lines > MAX_LINES {
            self.text.push_str(&format!("({} more lines were left out)\n", self.lines - MAX_LINES));
        }
        (!self.text.is_empty()).then_some(self.text)
    }
}

/// Control characters could rewrite an operator's terminal.
fn push_printable(text: &mut String, message: &str) {
    text.extend(cut(message, MAX_LINE).chars().map(|c| if c.is_control() { ' ' } else { c }));
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
