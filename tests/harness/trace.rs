//! What the hubs of all tests log, at TRACE and in both formats, through the layer that `tomada serve` uses: each line is
//! searched as it is written, and [`TestHub::finish`](super::TestHub::finish) fails when one holds somebody's data.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, OnceLock};

use tomada::telemetry::{Format, Telemetry};
use tracing_subscriber::layer::SubscriberExt as _;

use super::partner::SECRET;

/// What the suite's people are called and where they are reached, and its partner's secret.
const PERSONAL: &[&str] = &[
    SECRET,
    "Maria Aparecida",
    "Ana Souza",
    "5511911647065",
    "5511912345678",
    "91234-5678",
    "ana@example.com",
    "Conceição",
];

#[derive(Default)]
struct Trace {
    /// Lines that held personal data.
    found: Mutex<Vec<String>>,
    /// While somebody records, everything.
    recorded: Mutex<Option<Vec<u8>>>,
    file: Option<Mutex<File>>,
}

fn trace() -> &'static Trace {
    static TRACE: OnceLock<Trace> = OnceLock::new();
    TRACE.get_or_init(|| {
        // TOMADA_TEST_TRACE=FILE keeps all of it.
        let file = std::env::var_os("TOMADA_TEST_TRACE");
        let file = file.map(|path| Mutex::new(File::create(path).expect("the trace can be written")));
        Trace { file, ..Trace::default() }
    })
}

fn take(line: &str) {
    let trace = trace();
    if PERSONAL.iter().any(|personal| line.contains(personal)) {
        trace.found.lock().expect("unpoisoned").push(line.to_owned());
    }
    if let Some(recorded) = &mut *trace.recorded.lock().expect("unpoisoned") {
        recorded.extend_from_slice(line.as_bytes());
    }
    if let Some(file) = &trace.file {
        file.lock().expect("unpoisoned").write_all(line.as_bytes()).expect("the trace can be written");
    }
}

/// From the first hub on.
pub(super) fn begin() {
    static BEGUN: OnceLock<()> = OnceLock::new();
    BEGUN.get_or_init(|| {
        let layers = tracing_subscriber::registry()
            .with(Telemetry::new(Format::Text { colours: false }, take))
            .with(Telemetry::new(Format::Json, take));
        tracing::subscriber::set_global_default(layers).expect("nobody else listens");
    });
}

/// No hub of this process has logged anybody's data.
pub(super) fn assert_clean() {
    let found = trace().found.lock().expect("unpoisoned");
    assert!(found.is_empty(), "the log holds personal data:\n{}", found.concat());
}

/// Keeps what is logged from now on, by whichever hub. One test at a time.
pub(crate) fn record() {
    begin();
    let before = trace().recorded.lock().expect("unpoisoned").replace(Vec::new());
    assert!(before.is_none(), "another test records");
}

/// All that was logged since [`record`].
pub(crate) fn recorded() -> Vec<u8> {
    trace().recorded.lock().expect("unpoisoned").take().expect("it was recorded")
}
