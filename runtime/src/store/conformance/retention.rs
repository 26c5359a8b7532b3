//! What is kept no longer goes, a step at a time, and what is not over stays.

use super::*;
use crate::event::SyncRunId;

const HOUR: u64 = 3_600_000;
/// When the events of the cases are over, kept an hour.
const LATER: u64 = START_MS + 2 * HOUR;

fn walk(rule: Rule) -> Walk {
    Walk { rule, whose: Whose::AllBut(vec![]), keep_ms: HOUR, dead_letters_ms: Some(HOUR) }
}

/// Walks to the end. Answers all that was removed, with the dead letters among it.
async fn walked(bench: &Bench, walk: &Walk, now_ms: u64) -> (u64, u64) {
    let policies = [walk.policy()];
    let mut place = bench.store.retention_place(walk, &policies, now_ms).await.expect("a place");
    let (mut removed, mut dead) = (0, 0);
    loop {
        let step = bench.store.retire(walk, place, now_ms).await.expect("a step");
        assert!(step.place >= place);
        (removed, dead, place) = (removed + step.removed, dead + step.dead_letters, step.place);
        if step.done {
            return (removed, dead);
        }
    }
}

async fn stragglers(bench: &Bench, walk: &Walk, now_ms: u64) -> (u64, u64) {
    let step = bench.store.retire_stragglers(walk.rule, std::slice::from_ref(walk), -1, now_ms).await.expect("a step");
    assert!(step.done);
    (step.removed, step.dead_letters)
}

async fn retired(bench: &Bench) -> Vec<(Rule, u64)> {
    let mut retired = bench.store.retired().await.expect("counts");
    retired.sort_unstable();
    retired
}

async fn content(bench: &Bench, number: i64) -> ContentState {
    bench.store.event(id(number)).await.expect("the event").row.content
}

pub(super) async fn content_goes_at_its_time_and_the_rest_stays(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    bench.settled(1, endpoint, Next::Delivered, Outcome::Delivered).await;
    let mut sealed = with(owed(2, endpoint), |event| event.headers = vec![("x".into(), "y".into())]);
    sealed.deliveries[0].ordering = Some(7);
    bench.put(bench.seal(sealed)).await;
    let delivery = bench.claim_one(endpoint).await;
    let said = Attempt {
        code: Some("http-500".into()),
        message: Some("São".into()),
        log: Some("log".into()),
        ..attempt(Outcome::Delivered)
    };
    let end = settlement(delivery, Next::Delivered, Outcome::Delivered);
    bench.settle(Settlement { attempt: Some(said), ..end }).await;
    bench.put(NewEvent { key: Key::id("site", "msg-3"), ..event(3, "") }).await;
    let late = id(2 * HOUR as i64 - HOUR as i64 + 1);
    bench.put(with(event(4, "late"), |event| event.id = late)).await;

    assert_eq!(walked(bench, &walk(Rule::Content), START_MS + HOUR).await, (0, 0), "not yet");
    assert_eq!(bench.store.oldest_due(&walk(Rule::Content), START_MS + HOUR).await.unwrap(), None);
    assert_eq!(bench.store.oldest_due(&walk(Rule::Content), LATER).await.unwrap(), Some(START_MS + 1));
    assert_eq!(walked(bench, &walk(Rule::Content), LATER).await, (3, 0));
    assert_eq!(walked(bench, &walk(Rule::Content), LATER).await, (0, 0), "once");
    assert_eq!(bench.store.oldest_due(&walk(Rule::Content), LATER).await.unwrap(), None);
    for number in [1, 2, 3] {
        let detail = bench.store.event(id(number)).await.unwrap();
        assert_eq!(detail.row.content, ContentState::Expired);
        assert!(matches!(detail.event.content, Content::Gone));
        assert!(detail.event.payload.is_empty() && detail.event.headers.is_empty());
        assert_eq!(detail.key, "", "what an event was known by may be content");
        assert_eq!(&*detail.event.source, "site");
    }
    let detail = bench.store.event(id(2)).await.unwrap();
    assert_eq!((detail.row.deliveries[0].status, detail.attempts[0].outcome), (Status::Delivered, Outcome::Delivered));
    let attempt = &detail.attempts[0];
    assert_eq!(
        (attempt.code.as_deref(), attempt.message.as_deref(), attempt.log.as_deref()),
        (Some("http-500"), None, None)
    );
    assert!(bench.store.wrapped_events(EventId(0), 100).await.unwrap().keys.is_empty());
    assert_eq!(bench.store.event(late).await.unwrap().row.content, ContentState::Clear);
    assert_eq!(bench.accept(vec![event(9, "settled-1")]).await, [(id(1), true)], "it is recognised all the same");
    assert_conflict(bench.store.replay(DeliveryId(id(1).0 + 1)).await);
    assert_eq!(retired(bench).await, [(Rule::Content, 3)]);
}

/// A guest may write what it likes into a code; what is none goes.
pub(super) async fn a_code_stays_as_far_as_it_is_one(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let codes = [
        ("http-500", true),
        ("a", true),
        ("", true),
        ("-", true),
        ("no-such-person-123", true),
        ("1a2b3c", true),
        ("1a2b3c4", false),
        ("12345678900", false),
        ("Ana", false),
        ("são", false),
        ("a b", false),
        ("a_b", false),
        ("a\n", false),
        ("it's", false),
    ];
    let long = ["x".repeat(64), "x".repeat(65)];
    let codes: Vec<(&str, bool)> = codes.into_iter().chain([(&*long[0], true), (&*long[1], false)]).collect();
    for (at, (code, _)) in codes.iter().enumerate() {
        bench.put(owed(at as i64, endpoint)).await;
        let delivery = bench.claim_one(endpoint).await;
        let said = Attempt { code: Some((*code).into()), message: Some("m".into()), ..attempt(Outcome::Rejected) };
        let end = settlement(delivery, Next::Delivered, Outcome::Rejected);
        bench.settle(Settlement { attempt: Some(said), ..end }).await;
    }
    walked(bench, &walk(Rule::Content), LATER).await;
    for (at, (code, stays)) in codes.iter().enumerate() {
        let attempt = &bench.store.event(id(at as i64)).await.unwrap().attempts[0];
        assert_eq!((attempt.code.as_deref(), attempt.message.as_deref()), (stays.then_some(*code), None), "{code:?}");
    }
}

pub(super) async fn what_is_owed_stays_until_it_is_over(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    let content_walk = walk(Rule::Content);
    bench.settled(1, endpoint, Next::Held, Outcome::Unauthorized).await;
    bench.settled(2, endpoint, Next::Retry(LATER), Outcome::Transient).await;
    bench.settled(3, endpoint, Next::Dead, Outcome::Rejected).await;
    bench.put(owed(4, endpoint)).await;
    // A dead letter is over an hour after it was given up, which its try's end says.
    assert_eq!(walked(bench, &content_walk, START_MS + HOUR + 3000).await, (0, 0));
    assert_eq!(stragglers(bench, &content_walk, START_MS + HOUR + 3499).await, (0, 0));
    assert_eq!(stragglers(bench, &content_walk, START_MS + HOUR + 3500).await, (1, 1));
    assert_eq!(bench.statuses(id(3)).await, [Status::Expired]);
    assert_eq!(content(bench, 3).await, ContentState::Expired);
    let dead = bench.store.dead_letters(&DeadLetterFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert!(dead.is_empty());
    for number in [1, 2, 4] {
        assert_eq!(content(bench, number).await, ContentState::Clear, "{number}");
    }
    let delivery = bench.claim_one(endpoint).await;
    bench.settle(settlement(delivery, Next::Delivered, Outcome::Delivered)).await;
    assert_eq!(stragglers(bench, &content_walk, LATER).await, (1, 0));
    assert_eq!(content(bench, 4).await, ContentState::Expired);
    // Under a policy that keeps dead letters for ever they stay.
    bench.settled(5, endpoint, Next::Dead, Outcome::Rejected).await;
    let forever = Walk { dead_letters_ms: None, ..content_walk.clone() };
    assert_eq!(walked(bench, &forever, LATER).await, (0, 0));
    assert_eq!(stragglers(bench, &forever, u64::MAX >> 22).await, (0, 0));
    assert_eq!(retired(bench).await, [(Rule::Content, 2), (Rule::DeadLetters, 1)]);
    // What no walk is about any more is forgotten.
    let none = bench.store.retire_stragglers(Rule::Content, &[], -1, LATER).await.unwrap();
    assert_eq!((none.removed, none.done), (0, true));
    assert_eq!(stragglers(bench, &content_walk, u64::MAX >> 22).await, (0, 0));
}

pub(super) async fn logs_attempts_and_events_go_each_at_their_time(bench: &Bench) {
    let [endpoint] = bench.endpoints(["crm"]).await;
    for number in [1, 2] {
        bench.put(owed(number, endpoint)).await;
        let delivery = bench.claim_one(endpoint).await;
        let said = Attempt {
            code: Some("c".into()),
            message: Some("m".into()),
            log: Some("l".into()),
            ..attempt(Outcome::Transient)
        };
        let end = settlement(delivery, Next::Retry(0), Outcome::Transient);
        bench.settle(Settlement { attempt: Some(said), ..end }).await;
        let again = bench.store.promote(bench.node, START_MS, 1).await.unwrap().deliveries.remove(0);
        bench.settle(settlement(again, Next::Delivered, Outcome::Delivered)).await;
    }
    assert_eq!(walked(bench, &walk(Rule::Logs), LATER).await, (2, 0), "the last tries said nothing");
    let attempts = bench.store.event(id(1)).await.unwrap().attempts;
    assert_eq!((attempts.len(), attempts[0].code.as_deref()), (2, Some("c")));
    assert_eq!((attempts[0].message.as_deref(), attempts[0].log.as_deref()), (None, None));
    assert_eq!(walked(bench, &walk(Rule::Attempts), LATER).await, (4, 0));
    assert!(bench.store.event(id(1)).await.unwrap().attempts.is_empty());
    assert_eq!(content(bench, 1).await, ContentState::Clear);
    assert_eq!(walked(bench, &walk(Rule::Events), LATER).await, (2, 0));
    assert_not_found(bench.store.event(id(1)).await);
    assert_not_found(bench.store.replay(DeliveryId(id(1).0 + 1)).await);
    assert_eq!(bench.accept(vec![event(9, "owed-1")]).await, [(id(1), true)], "its key is another rule's");
    assert_eq!(retired(bench).await, [(Rule::Logs, 2), (Rule::Attempts, 4), (Rule::Events, 2)]);
}

pub(super) async fn a_walk_is_about_whom_it_says(bench: &Bench) {
    let of = |number, source: &str| with(event(number, &format!("{number}")), |event| event.source = source.into());
    let emitted = with(of(3, "crm"), |event| event.parent = Some(DeliveryId(1)));
    bench.accept(vec![of(1, "crm"), of(2, "site"), emitted, of(4, "CRM")]).await;
    let makers = vec![Maker::Source("crm".into())];
    let of_crm = Walk { whose: Whose::Of(makers.clone()), ..walk(Rule::Content) };
    assert_eq!(walked(bench, &of_crm, LATER).await, (1, 0));
    assert_eq!(content(bench, 1).await, ContentState::Expired);
    assert_eq!(content(bench, 3).await, ContentState::Clear, "an endpoint of this name emitted it");
    let others = Walk { whose: Whose::AllBut(vec![Maker::Source("site".into())]), ..walk(Rule::Content) };
    assert_eq!(walked(bench, &others, LATER).await, (2, 0));
    assert_eq!(content(bench, 2).await, ContentState::Clear);
}

/// Two hundred at a time, and it goes on where it was, also after a restart and under another policy.
pub(super) async fn a_walk_goes_in_steps_and_goes_on(bench: &Bench) {
    bench.accept((0..450).map(|number| event(number, &format!("{number}"))).collect()).await;
    let walk = walk(Rule::Content);
    let policies = [walk.policy()];
    let first = bench.store.retire(&walk, 0, LATER).await.unwrap();
    assert_eq!((first.removed, first.done, first.place), (STEP as u64, false, id(199).0));
    let place = bench.store.retention_place(&walk, &policies, LATER).await.unwrap();
    assert_eq!(place, first.place);
    let second = bench.store.retire(&walk, place, LATER).await.unwrap();
    assert_eq!((second.removed, second.done), (STEP as u64, false));
    let third = bench.store.retire(&walk, second.place, LATER).await.unwrap();
    assert_eq!((third.removed, third.done, third.place), (50, true, id(449).0));
    // A clock that was wrong is not believed.
    assert_eq!(bench.store.retention_place(&walk, &policies, START_MS - 1).await.unwrap(), 0);
    assert_eq!(bench.store.retention_place(&walk, &policies, LATER).await.unwrap(), id(449).0);
    // Another policy is another walk, and coming back to this one begins anew.
    let other = Walk { keep_ms: 2 * HOUR, ..walk.clone() };
    assert_eq!(bench.store.retention_place(&other, &[walk.policy(), other.policy()], LATER).await.unwrap(), 0);
    assert_eq!(bench.store.retention_place(&walk, &[walk.policy(), other.policy()], LATER).await.unwrap(), id(449).0);
    assert_eq!(bench.store.retention_place(&other, &[other.policy()], LATER).await.unwrap(), 0);
    assert_eq!(bench.store.retention_place(&walk, &policies, LATER).await.unwrap(), 0);
    let long = Walk { whose: Whose::Of(vec![Maker::Source("x".repeat(128)); 40]), ..walk };
    assert_eq!(walked(bench, &long, LATER).await, (0, 0), "a policy may be long");
    assert!(bench.store.retention_place(&long, &[long.policy()], LATER).await.unwrap() > 0);
}

/// A key goes with its time when the content has gone before it.
pub(super) async fn keys_go_once_their_events_have(bench: &Bench) {
    let binary = NewEvent { key: Key { index: b"site\0\0\xff\0".to_vec(), ..Key::given("site", "x") }, ..event(4, "") };
    bench.accept(vec![event(1, "a"), event(2, "b"), bench.hide(event(3, "c")), binary]).await;
    let before = START_MS + 4;
    let step = bench.store.retire_keys(before).await.unwrap();
    assert_eq!((step.removed, step.done), (0, true), "their content is there");
    assert_eq!(bench.store.oldest_key_due(before).await.unwrap(), None);
    walked(bench, &walk(Rule::Content), LATER).await;
    let step = bench.store.retire_keys(before).await.unwrap();
    assert_eq!((step.removed, step.done), (3, true));
    assert_eq!(bench.accept(vec![event(11, "a"), event(12, "b")]).await, [(id(11), false), (id(12), false)]);
    // Those that are left say how old the oldest is.
    assert_eq!(bench.store.oldest_key_due(before).await.unwrap(), None);
    assert_eq!(bench.store.oldest_key_due(before + 1).await.unwrap(), Some(START_MS + 4));
    assert_eq!(retired(bench).await, [(Rule::Content, 4), (Rule::IdempotencyKeys, 3)]);
}

pub(super) async fn many_keys_go_in_one_round(bench: &Bench) {
    bench.accept((0..450).map(|number| event(number, &format!("{}", number * 77 % 450))).collect()).await;
    walked(bench, &walk(Rule::Content), LATER).await;
    let mut steps = Vec::new();
    while steps.last().is_none_or(|step: &Step| !step.done) {
        steps.push(bench.store.retire_keys(START_MS + 400).await.unwrap());
    }
    assert_eq!(steps.iter().map(|step| step.removed).sum::<u64>(), 400);
    assert!(steps.len() >= 3 && steps.iter().all(|step| step.removed <= STEP as u64), "{steps:?}");
    assert_eq!(bench.store.oldest_key_due(START_MS + 500).await.unwrap(), Some(START_MS + 400));
}

pub(super) async fn runs_that_have_ended_go(bench: &Bench) {
    let run = |number: i64| NewSyncRun {
        id: SyncRunId(id(number).0),
        name: format!("job-{number}"),
        now_ms: START_MS + number as u64,
        due: None,
        resume: false,
    };
    let [endpoint] = bench.endpoints(["shop"]).await;
    for number in 0..205 {
        bench.store.begin_sync(&run(number)).await.unwrap();
    }
    assert_eq!(bench.store.retire_sync_runs(LATER).await.unwrap(), 0, "they are under way");
    assert_eq!(bench.store.oldest_sync_run_due(LATER).await.unwrap(), None);
    bench.accept((1..205).map(|number| owed(number, endpoint)).collect()).await;
    let page = |delivery: Delivery| {
        let run = SyncRunId(delivery.event.id.0);
        let sync = Some(crate::delivery::SyncStep::Page { run, cursor: None });
        Work::Settle(Box::new(Settlement { sync, ..settlement(delivery, Next::Delivered, Outcome::Delivered) }))
    };
    let work = bench.claim(endpoint, 1000).await.into_iter().map(page).collect();
    bench.commit(work).await;
    assert_eq!(bench.store.oldest_sync_run_due(START_MS + 1).await.unwrap(), None);
    assert_eq!(bench.store.oldest_sync_run_due(START_MS + 2).await.unwrap(), Some(START_MS + 1));
    assert_eq!(bench.store.retire_sync_runs(START_MS + 204).await.unwrap(), STEP as u64);
    assert_eq!(bench.store.retire_sync_runs(START_MS + 204).await.unwrap(), 3);
    assert_eq!(bench.store.retire_sync_runs(START_MS + 204).await.unwrap(), 0);
    assert_eq!(bench.store.sync_runs("job-204", 10).await.unwrap().len(), 1);
    assert_eq!(bench.store.running_syncs().await.unwrap().len(), 1);
    assert_eq!(retired(bench).await, [(Rule::SyncJobs, 203)]);
}

pub(super) async fn what_was_removed_may_be_written_over(bench: &Bench) {
    bench.put(event(1, "a")).await;
    walked(bench, &walk(Rule::Content), LATER).await;
    bench.store.scrub(false).await.unwrap();
    assert_eq!(content(bench, 1).await, ContentState::Expired);
}

/// Two nodes that walk at the same time remove each thing once.
pub(super) async fn at_the_same_time_it_is_removed_once(bench: &Bench) {
    let (store, _) = bench.other().await;
    let [endpoint] = bench.endpoints(["crm"]).await;
    for number in 0..20 {
        bench.settled(number, endpoint, Next::Dead, Outcome::Rejected).await;
    }
    bench.accept((100..200).map(|number| event(number, &format!("{number}"))).collect()).await;
    let walk = walk(Rule::Content);
    let (one, other) = tokio::join!(bench.store.retire(&walk, 0, LATER), store.retire(&walk, 0, LATER));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.removed + other.removed, 120, "{one:?} {other:?}");
    assert_eq!(one.dead_letters + other.dead_letters, 20);
    assert_eq!(retired(bench).await, [(Rule::Content, 120), (Rule::DeadLetters, 20)]);
    let (one, other) = tokio::join!(bench.store.retire_keys(LATER), store.retire_keys(LATER));
    assert_eq!(one.unwrap().removed + other.unwrap().removed, 120);
}
