//! The partners of a bench: keep-alive connections that post signed webhooks and read the answers.
//!
//! The load shares two cores with the hub that it measures, so it does as little as is still right: HTTP/1.1 by hand
//! over a TCP stream, one write per request, a request that is patched in place, and signatures that are real but
//! were computed before the clock started.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::ledger::{Ledger, Name, histogram};
use crate::send::{Scheme, keyed};

/// Bytes of every body.
pub(crate) const BODY: usize = 1024;
/// How long after the end an answer that is still owed is waited for.
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// Longest answer that is read, bytes.
const LONGEST_ANSWER: usize = 64 << 10;
/// Signatures computed ahead at most: 64 MB of them. Those beyond are computed as they are needed.
const MOST_AHEAD: u64 = 2_000_000;

/// What is sent where, signed how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// Standard Webhooks or HMAC in hex.
    pub(crate) scheme: Scheme,
    pub(crate) key: Vec<u8>,
    /// Unix time in the signature, seconds.
    pub(crate) timestamp: u64,
}

/// When the next event goes out on a free connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// At once.
    Free,
    /// When fewer than so many events are accepted and not arrived.
    Window(u32),
    /// On a clock, so many per second. Latency counts from when an event was due, free connection or not.
    Rate(f64),
}

/// When it is over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    After(Duration),
    Sent(u64),
}

/// What the hub answered.
#[derive(Debug)]
pub(crate) struct Acks {
    /// From the first send to the end, without what was still under way then.
    pub(crate) elapsed: Duration,
    /// 2xx answers within that time.
    pub(crate) in_time: u64,
    /// First arrivals at the sink within that time.
    pub(crate) arrived_in_time: u64,
    /// Microseconds from intended send to the answer, 2xx only.
    pub(crate) latency: Histogram<u64>,
    pub(crate) by_status: BTreeMap<u16, u64>,
    /// 2xx answers that called a new event a duplicate.
    pub(crate) false_duplicates: u64,
    /// Connections that broke before an answer came.
    pub(crate) broken: u64,
}

/// Posts events over `connections`, spread over `runtimes`.
///
/// # Errors
/// The first connection cannot be made, or the hub is gone.
pub(crate) async fn run(
    runtimes: &[Handle],
    target: &Target,
    connections: u32,
    pace: Pace,
    until: Until,
    ledger: &Arc<Ledger>,
) -> Result<Acks> {
    let first = ledger.taken();
    let ahead = match (until, pace) {
        (Until::Sent(count), _) => count,
        (Until::After(time), Pace::Rate(rate)) => (rate * time.as_secs_f64()) as u64 + 1,
        // Faster than this the rest is signed on the way.
        (Until::After(time), Pace::Window(_)) => (20_000.0 * time.as_secs_f64()) as u64,
        (Until::After(time), Pace::Free) => (100_000.0 * time.as_secs_f64()) as u64,
    };
    let template = Template::new(target, ledger);
    let signatures = template.sign_ahead(first, ahead.min(MOST_AHEAD), ledger);
    let last = match until {
        Until::Sent(count) => first + count,
        Until::After(_) => u64::MAX,
    };
    let turns = match pace {
        Pace::Free => None,
        Pace::Window(permits) => Some(Arc::new(Semaphore::new(permits as usize))),
        Pace::Rate(_) => Some(Arc::new(Semaphore::new(0))),
    };
    if matches!(pace, Pace::Window(_)) {
        ledger.set_window(turns.clone());
    }
    let (acked, arrived) = (ledger.acked(), ledger.arrived());
    let start = Instant::now();
    let shared = Arc::new(Shared {
        address: target.address,
        ledger: ledger.clone(),
        first,
        last,
        start,
        period: if let Pace::Rate(rate) = pace { Some(Duration::from_secs_f64(1.0 / rate)) } else { None },
        turns: turns.clone(),
        over: AtomicBool::new(false),
        signatures,
        tally: Mutex::new(Tally { latency: histogram(), by_status: BTreeMap::new(), false_duplicates: 0 }),
        broken: AtomicU64::new(0),
    });
    let tasks: Vec<_> = (0..connections as usize)
        .map(|n| runtimes[n % runtimes.len()].spawn(connection(shared.clone(), template.clone())))
        .collect();
    let pacer = if let (Pace::Rate(rate), Some(turns)) = (pace, &turns) {
        let (shared, turns) = (shared.clone(), turns.clone());
        Some(std::thread::spawn(move || keep_pace(&shared, &turns, rate)))
    } else {
        None
    };

    let mut ended = None;
    if let Until::After(time) = until {
        // A connection that ends early has failed: there is nothing to wait for then.
        let all = async {
            while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(time, all).await.ok();
        ended = Some((start.elapsed(), ledger.acked(), ledger.arrived()));
        shared.stop();
    }
    let mut outcome = Ok(());
    for mut task in tasks {
        match tokio::time::timeout(LAST_ANSWER, &mut task).await {
            Ok(ended) => outcome = outcome.and(ended.context("a connection of the load panicked")?),
            // With a fixed number of events the run is as long as it takes.
            Err(_) if ended.is_none() => {
                outcome = outcome.and(task.await.context("a connection of the load panicked")?)
            }
            Err(_) => {
                task.abort();
                shared.broken.fetch_add(1, Relaxed);
            }
        }
    }
    let (elapsed, acked_at_end, arrived_at_end) =
        ended.unwrap_or_else(|| (start.elapsed(), ledger.acked(), ledger.arrived()));
    shared.stop();
    ledger.set_window(None);
    if let Some(pacer) = pacer {
        pacer.join().ok();
    }
    outcome?;
    let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Acks {
        elapsed,
        in_time: acked_at_end - acked,
        arrived_in_time: arrived_at_end - arrived,
        latency: std::mem::replace(&mut tally.latency, histogram()),
        by_status: std::mem::take(&mut tally.by_status),
        false_duplicates: tally.false_duplicates,
        broken: shared.broken.load(Relaxed),
    })
}

struct Shared {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    /// Numbers of the first event of this run and of the first after it.
    first: u64,
    last: u64,
    start: Instant,
    /// Of a clocked run.
    period: Option<Duration>,
    turns: Option<Arc<Semaphore>>,
    over: AtomicBool,
    /// Of the events from `first` on.
    signatures: Vec<[u8; 32]>,
    /// Uncontended while the connections share one thread.
    tally: Mutex<Tally>,
    broken: AtomicU64,
}

struct Tally {
    latency: Histogram<u64>,
    by_status: BTreeMap<u16, u64>,
    false_duplicates: u64,
}

impl Shared {
    fn stop(&self) {
        self.over.store(true, Relaxed);
        if let Some(turns) = &self.turns {
            turns.close();
        }
    }

    /// The next event and when it is due; none when the run is over.
    async fn next(&self) -> Option<(u64, Instant)> {
        if let Some(turns) = &self.turns {
            turns.acquire().await.ok()?.forget();
        }
        if self.over.load(Relaxed) {
            return None;
        }
        let number = self.ledger.take(self.last)?;
        if number + 1 == self.last {
            self.stop();
        }
        let intended = match self.period {
            Some(period) => self.start + period.mul_f64((number - self.first) as f64),
            None => Instant::now(),
        };
        Some((number, intended))
    }

    fn record(&self, number: u64, intended: Instant, answer: &Answer<'_>) {
        let taken = (200..300).contains(&answer.status);
        if taken {
            self.ledger.acknowledged(number, answer.id);
        } else {
            self.ledger.refused();
        }
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.by_status.entry(answer.status).or_default() += 1;
        if taken {
            tally.latency.saturating_record(intended.elapsed().as_micros() as u64);
            tally.false_duplicates += u64::from(answer.duplicate);
        }
    }
}

/// Lets one event go whenever one is due. A thread of its own: tokio's timer is too coarse (1 ms) for this.
fn keep_pace(shared: &Shared, turns: &Semaphore, rate: f64) {
    let period = Duration::from_secs_f64(1.0 / rate);
    for n in 0_u64.. {
        let due = shared.start + period.mul_f64(n as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if turns.is_closed() || n >= shared.last.saturating_sub(shared.first) {
            break;
        }
        turns.add_permits(1);
    }
}

async fn connection(shared: Arc<Shared>, mut template: Template) -> Result<()> {
    let mut stream = connect(shared.address).await?;
    let mut buffer = Vec::with_capacity(4096);
    while let Some((number, intended)) = shared.next().await {
        let signature = shared.signatures.get((number - shared.first) as usize);
        let request = template.fill(number, signature, &shared.ledger);
        shared.ledger.sent(number, intended);
        match exchange(&mut stream, request, &mut buffer).await {
            Ok(len) => {
                let answer = parse(&buffer[..len])?;
                shared.record(number, intended, &answer);
                if answer.close {
                    stream = connect(shared.address).await?;
                }
            }
            Err(_) => {
                shared.broken.fetch_add(1, Relaxed);
                shared.ledger.refused();
                stream = connect(shared.address).await?;
            }
        }
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("no hub answers at {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a request and reads one answer to its end; its length in `buffer`.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> io::Result<usize> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(len) = complete(buffer)? {
            return Ok(len);
        }
        if buffer.len() > LONGEST_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
    }
}

/// The length of the answer when all of it is there.
fn complete(buffer: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = find(buffer, b"\r\n\r\n") else { return Ok(None) };
    let broken = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let length = header(&buffer[..end], b"content-length").ok_or_else(|| broken("an answer without content-length"))?;
    let length: usize = std::str::from_utf8(length)
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|length| *length <= LONGEST_ANSWER)
        .ok_or_else(|| broken("an answer with a bad content-length"))?;
    Ok(Some(end + 4 + length).filter(|total| *total <= buffer.len()))
}

struct Answer<'a> {
    status: u16,
    id: &'a [u8],
    duplicate: bool,
    close: bool,
}

fn parse(answer: &[u8]) -> Result<Answer<'_>> {
    let status =
        answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
    let (Some(status), Some(end)) = (status, find(answer, b"\r\n\r\n")) else {
        bail!("the hub's answer is not HTTP/1.1");
    };
    let (head, body) = answer.split_at(end + 4);
    let id = find(body, b"\"id\":\"").map(|at| &body[at + 6..]).unwrap_or_default();
    let id = &id[..id.iter().position(|byte| *byte == b'"').unwrap_or(0)];
    let duplicate = find(body, b"\"duplicate\":true").is_some();
    let close = header(&head[..end], b"connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    Ok(Answer { status, id, duplicate, close })
}

/// The value of a header; `name` in lower case. `head` begins with the status line.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        if !key.eq_ignore_ascii_case(name) {
            return None;
        }
        Some(value.strip_prefix(b":")?.trim_ascii())
    })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// One request as bytes, and where in it the parts stand that differ from event to event.
#[derive(Clone)]
struct Template {
    request: Vec<u8>,
    name_in_head: Option<usize>,
    name_in_body: usize,
    signature: usize,
    body: usize,
    mac: Hmac<Sha256>,
    scheme: Scheme,
    timestamp: u64,
}

impl Template {
    fn new(target: &Target, ledger: &Ledger) -> Template {
        let name = ledger.name(0);
        let body = body(&String::from_utf8_lossy(&name));
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
            target.path,
            target.address,
            body.len()
        );
        let mut name_in_head = None;
        let signature;
        if target.scheme == Scheme::StandardWebhooks {
            head.push_str("webhook-id: ");
            name_in_head = Some(head.len());
            head.push_str(&String::from_utf8_lossy(&name));
            head.push_str(&format!("\r\nwebhook-timestamp: {}\r\nwebhook-signature: v1,", target.timestamp));
            signature = head.len();
            head.push_str(&BASE64.encode([0; 32]));
        } else {
            head.push_str("x-webhook-signature: ");
            signature = head.len();
            head.push_str(&hex::encode([0; 32]));
        }
        head.push_str("\r\n\r\n");
        let start = head.len();
        let name_in_body = start + find(&body, &name).unwrap_or_default();
        let mut request = head.into_bytes();
        request.extend_from_slice(&body);
        let (scheme, timestamp) = (target.scheme, target.timestamp);
        Template {
            request,
            name_in_head,
            name_in_body,
            signature,
            body: start,
            mac: keyed(&target.key),
            scheme,
            timestamp,
        }
    }

    /// The signatures of the events `first..first + count`, on two threads.
    fn sign_ahead(&self, first: u64, count: u64, ledger: &Ledger) -> Vec<[u8; 32]> {
        let mut signatures = vec![[0; 32]; count as usize];
        let half = signatures.len().div_ceil(2).max(1);
        std::thread::scope(|threads| {
            for (n, part) in signatures.chunks_mut(half).enumerate() {
                let (mut template, from) = (self.clone(), first + (n * half) as u64);
                threads.spawn(move || {
                    for (number, signature) in (from..).zip(part) {
                        template.set_name(&ledger.name(number));
                        *signature = template.sign();
                    }
                });
            }
        });
        signatures
    }

    /// The request for event `number`, signed now unless its signature is known.
    fn fill(&mut self, number: u64, signature: Option<&[u8; 32]>, ledger: &Ledger) -> &[u8] {
        self.set_name(&ledger.name(number));
        let signature = signature.copied().unwrap_or_else(|| self.sign());
        if self.scheme == Scheme::StandardWebhooks {
            let place = &mut self.request[self.signature..self.signature + 44];
            BASE64.encode_slice(signature, place).expect("32 bytes are 44 in base64");
        } else {
            let place = &mut self.request[self.signature..self.signature + 64];
            hex::encode_to_slice(signature, place).expect("32 bytes are 64 in hex");
        }
        &self.request
    }

    fn set_name(&mut self, name: &Name) {
        for at in self.name_in_head.into_iter().chain([self.name_in_body]) {
            self.request[at..at + name.len()].copy_from_slice(name);
        }
    }

    fn sign(&self) -> [u8; 32] {
        let mut mac = self.mac.clone();
        if let Some(at) = self.name_in_head {
            mac.update(&self.request[at..at + size_of::<Name>()]);
            mac.update(format!(".{}.", self.timestamp).as_bytes());
        }
        mac.update(&self.request[self.body..]);
        mac.finalize().into_bytes().into()
    }
}

/// A lead with a message that fills it up to [`BODY`] bytes.
pub(super) fn body(name: &str) -> Vec<u8> {
    let lead = |message: &str| {
        format!(
            concat!(
                r#"{{"id":"{}","name":"Maria Aparecida dos Santos","phone":"5511999990001","email":"maria@example.com","#,
                r#""source":"site","utm_source":"google","utm_medium":"cpc","utm_campaign":"cuidador-de-idosos","#,
                r#""contact":{{"city":"São Paulo","state":"SP","hours":12,"night":false}},"message":"{}"}}"#
            ),
            name, message
        )
    };
    let filler = "Procuro cuidadora para minha mãe, de segunda a sexta, no período da manhã. ";
    let mut message = String::new();
    let mut left = BODY.saturating_sub(lead("").len());
    for character in filler.chars().cycle() {
        match left.checked_sub(character.len_utf8()) {
            Some(rest) => left = rest,
            None => break,
        }
        message.push(character);
    }
    // One byte is left when the next character takes two.
    message.push_str(&".".repeat(left));
    lead(&message).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{baseline, sink};
    use crate::send;

    fn target(scheme: Scheme, address: SocketAddr) -> Target {
        Target {
            address,
            path: "/webhooks/bench".into(),
            scheme,
            key: b"a key of twenty-seven bytes".to_vec(),
            timestamp: 1_700_000_000,
        }
    }

    fn nowhere() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9))
    }

    #[test]
    fn a_body_is_json_of_the_right_length() {
        let body = body("00000001-000000000003");
        assert_eq!(body.len(), BODY);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["id"], "00000001-000000000003");
    }

    #[test]
    fn a_filled_request_is_signed_as_send_signs_it() {
        for scheme in [Scheme::StandardWebhooks, Scheme::HmacHex] {
            let (target, ledger) = (target(scheme, nowhere()), Ledger::new(1));
            let mut template = Template::new(&target, &ledger);
            let ahead = template.sign_ahead(5, 3, &ledger);
            let request = template.fill(7, None, &ledger).to_vec();
            assert_eq!(template.fill(7, Some(&ahead[2]), &ledger), request);

            let (head, body) = request.split_at(find(&request, b"\r\n\r\n").unwrap() + 4);
            let id = String::from_utf8(ledger.name(7).to_vec()).unwrap();
            // `send` has the secret as it is written, and the load has its bytes.
            let secret = match scheme {
                Scheme::StandardWebhooks => format!("whsec_{}", BASE64.encode(&target.key)).into_bytes(),
                _ => target.key.clone(),
            };
            for (name, value) in send::signature(scheme, &secret, &id, target.timestamp, body).unwrap() {
                assert_eq!(header(head, name.as_bytes()).unwrap(), value.as_bytes(), "{name}");
            }
        }
    }

    #[test]
    fn an_answer_is_read_to_its_end_and_no_further() {
        let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 34\r\n\r\n{\"id\":\"evt_0\",\"duplicate\":false}  ";
        assert_eq!(complete(&answer[..30]).unwrap(), None);
        assert_eq!(complete(&answer[..answer.len() - 1]).unwrap(), None);
        assert_eq!(complete(answer).unwrap(), Some(answer.len()));
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(complete(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n").is_err());

        let parsed = parse(answer).unwrap();
        assert_eq!((parsed.status, parsed.id, parsed.duplicate, parsed.close), (202, &b"evt_0"[..], false, false));
        assert!(parse(b"HTTP/1.1 503 x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap().close);
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn every_event_of_a_run_is_acknowledged_once() {
        for scheme in [Scheme::StandardWebhooks, Scheme::HmacHex] {
            let ledger = Arc::new(Ledger::new(1));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = target(scheme, listener.local_addr().unwrap());
            tokio::spawn(baseline::serve(listener, scheme, target.key.clone()));
            let acks = run(&[Handle::current()], &target, 4, Pace::Free, Until::Sent(200), &ledger).await.unwrap();
            assert_eq!((ledger.taken(), ledger.acked(), acks.in_time, acks.broken), (200, 200, 200, 0));
            assert_eq!(acks.by_status, BTreeMap::from([(202, 200)]));
            assert_eq!(acks.latency.len(), 200);
            assert_eq!(acks.false_duplicates, 0);
        }
    }

    #[tokio::test]
    async fn a_window_and_a_clock_let_everything_through_in_the_end() {
        for pace in [Pace::Window(2), Pace::Rate(10_000.0)] {
            let ledger = Arc::new(Ledger::new(1));
            let listen = SocketAddr::from(([127, 0, 0, 1], 0));
            let runtime = Handle::current();
            // The sink itself stands for a hub that delivers before it answers.
            let address = sink::start(&runtime, listen, Duration::ZERO, ledger.clone()).await.unwrap();
            let target = target(Scheme::StandardWebhooks, address);
            run(&[runtime], &target, 8, pace, Until::Sent(100), &ledger).await.unwrap();
            let audit = ledger.audit(true);
            assert_eq!((audit.acked, audit.arrived, audit.lost, audit.unexpected), (100, 100, 0, 0));
            assert_eq!(ledger.take_latencies().len(), 100);
        }
    }

    #[tokio::test]
    async fn a_hub_that_is_not_there_is_an_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = target(Scheme::HmacHex, listener.local_addr().unwrap());
        drop(listener);
        let ledger = Arc::new(Ledger::new(1));
        let error = run(&[Handle::current()], &target, 2, Pace::Free, Until::Sent(10), &ledger).await.unwrap_err();
        assert!(error.to_string().contains("no hub answers"), "{error}");
    }
}
