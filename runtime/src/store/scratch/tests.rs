//! What tests do with one.

use std::io::Write as _;
use std::sync::Mutex;

use super::*;
use crate::clock::random_bytes;

/// Servers that are not there, as far as that was said.
static SAID: Mutex<Vec<&str>> = Mutex::new(Vec::new());

impl Scratch {
    /// One on the server whose URL that variable holds; see `.ci/databases`. None where it holds none, which is said once,
    /// or is a failure where all are demanded.
    pub(crate) async fn of_test(variable: &'static str) -> Option<Scratch> {
        if let Some(server) = std::env::var(variable).ok().filter(|url| !url.is_empty()) {
            let name = format!("tomada_case_{}", hex::encode(random_bytes::<8>()));
            return Some(Scratch::make(&server, name).await.expect("the server makes a database"));
        }
        let all = std::env::var("TOMADA_TEST_ALL").is_ok_and(|all| all == "1");
        assert!(!all, "not tested: {variable} is not set, and TOMADA_TEST_ALL demands it");
        let mut said = SAID.lock().expect("unpoisoned");
        if !said.contains(&variable) {
            said.push(variable);
            // Past the capture of the test's output, which shows for failures only.
            let _ = writeln!(std::io::stderr(), "\nnot tested: {variable} is not set");
        }
        None
    }

    /// Runs a statement in it.
    pub(crate) async fn run(&self, sql: String) {
        let address = Address::of_url(self.url()).expect("a URL");
        run(&address, sql).await.expect("the server does it");
    }
}
