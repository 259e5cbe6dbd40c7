// SPDX-License-Identifier: Apache-2.0
//! Single cases, as one would tell them.

use super::world::{answered, branch, call, pivot, spec};
use crate::journal::What;
use crate::machine::{AFTER_MAX, Ask, Effect, Event, Machine, Order, REFUSALS_MAX, Refusal, Reply};
use crate::{Branch, Entry, Mode, Op, Outcome, Slot, Spec, Target};
use byrnie_base::Timestamp;
use std::time::Duration;

/// A machine with the calls it has asked for and the entries it has written.
struct Run {
    machine: Machine,
    now: Timestamp,
    calls: Vec<Order>,
    entries: Vec<Entry>,
    wake: Option<Timestamp>,
}

fn run(spec: Spec) -> Run {
    let now = spec.created;
    let (machine, first) = Machine::begin(spec, now);
    let mut run = Run { machine, now, calls: Vec::new(), entries: vec![first], wake: None };
    run.event(Event::Wake).unwrap();
    run
}

impl Run {
    fn event(&mut self, event: Event) -> Result<(), Refusal> {
        for effect in self.machine.on(self.now, event)? {
            match effect {
                Effect::Persist { entries, .. } => self.entries.extend(entries),
                Effect::Call(order) => self.calls.push(order),
                Effect::Wake(at) => self.wake = Some(at),
                Effect::End(_) => {}
            }
        }
        Ok(())
    }

    fn ask(&mut self, ask: Ask) -> Result<(), Refusal> {
        self.event(Event::Ask { ask, by: "operator".into() })
    }

    /// Answers the oldest call of this branch.
    fn answer(&mut self, name: &str, outcome: Outcome) -> Order {
        let named = |order: &Order| {
            order.branch.map_or("check", |at| &*self.machine.state().spec.branches[usize::from(at)].name) == name
        };
        let at = self.calls.iter().position(named).unwrap_or_else(|| panic!("{name} is not called"));
        let order = self.calls.remove(at);
        let reply = Reply { branch: order.branch, op: order.op, attempt: order.attempt, outcome, roll: u64::MAX };
        self.event(Event::Reply(reply)).unwrap();
        order
    }

    fn done(&mut self, name: &str) {
        self.answer(name, Outcome::Done { answer: format!("{name}-7").into() });
    }

    fn tick(&mut self) {
        self.now = self.wake.take().unwrap();
        self.event(Event::Wake).unwrap();
    }

    fn called(&self) -> Vec<(&str, Op)> {
        let name = |order: &Order| {
            order.branch.map_or("check", |at| &*self.machine.state().spec.branches[usize::from(at)].name)
        };
        self.calls.iter().map(|order| (name(order), order.op)).collect()
    }

    fn state(&self) -> &'static str {
        self.machine.state().name()
    }
}

fn no(reason: &str) -> Outcome {
    Outcome::Rejected { reason: reason.into() }
}

fn silence() -> Outcome {
    Outcome::Unknown { reason: "timed out".into(), after: None, over: false }
}

fn order() -> Spec {
    spec(Mode::Saga, vec![branch("stock", &[]), branch("pay", &[]), pivot("ship", &[0, 1])])
}

#[test]
fn a_declined_card_gives_the_stock_back() {
    let mut run = run(order());
    assert_eq!(run.called(), [("stock", Op::Action), ("pay", Op::Action)]);
    run.done("stock");
    run.answer("pay", no("409 card declined"));
    assert_eq!((run.state(), run.called()), ("COMPENSATING", vec![("stock", Op::Undo)]));
    assert_eq!(run.machine.state().progress[0].answer.as_deref(), Some("stock-7"), "kept for the compensation");
    run.done("stock");
    assert_eq!((run.state(), &*run.machine.state().reason), ("COMPENSATED", "pay: 409 card declined"));
}

#[test]
fn an_undo_that_needs_the_answer_has_the_action_called_until_it_is_there() {
    let mut run = run(spec(Mode::Saga, vec![answered("reserve", &[]), branch("pay", &[])]));
    run.answer("reserve", silence());
    run.answer("pay", no("409"));
    assert_eq!((run.state(), run.called()), ("COMPENSATING", vec![]));
    run.tick();
    assert_eq!(run.called(), [("reserve", Op::Action)], "called again under the same key");
    run.done("reserve");
    assert_eq!(run.called(), [("reserve", Op::Undo)]);
    assert_eq!(run.machine.state().progress[0].answer.as_deref(), Some("reserve-7"));
    run.done("reserve");
    assert_eq!(run.state(), "COMPENSATED");
}

#[test]
fn an_operator_looks_where_the_answer_never_comes() {
    let mut run = run(spec(Mode::Saga, vec![answered("reserve", &[]), branch("pay", &[])]));
    run.answer("reserve", silence());
    run.answer("pay", no("409"));
    for _ in 0..REFUSALS_MAX {
        run.tick();
        run.answer("reserve", Outcome::Misdirected { reason: "404".into() });
    }
    assert_eq!((run.state(), run.called()), ("STUCK", vec![]));
    run.ask(Ask::Retry).unwrap();
    assert_eq!(run.called(), [("reserve", Op::Action)]);
    run.answer("reserve", no("409 never heard of it"));
    assert_eq!(run.state(), "COMPENSATED", "it keeps to its no: there is nothing to undo");
}

#[test]
fn what_may_have_been_sent_is_undone_too_once_it_no_longer_runs() {
    let mut run = run(order());
    run.answer("pay", no("409"));
    assert_eq!(run.called(), [("stock", Op::Action)], "its action is still under way");
    run.answer("stock", silence());
    assert_eq!(run.called(), [("stock", Op::Undo)]);
}

#[test]
fn after_the_pivot_it_only_goes_on() {
    let steps = vec![branch("pay", &[]), pivot("ship", &[0]), branch("mail", &[1])];
    let mut run = run(Spec { deadline: Some(Timestamp::from_millis(9_000)), ..spec(Mode::Saga, steps) });
    run.done("pay");
    assert!(run.ask(Ask::Back { reason: "".into() }).is_err(), "the pivot may have been done");
    run.now = Timestamp::from_millis(10_000);
    run.event(Event::Wake).unwrap();
    assert_eq!(run.state(), "RUNNING", "the deadline can't take back what nobody can take back");
    run.done("ship");
    for _ in 0..REFUSALS_MAX - 1 {
        run.answer("mail", no("409 bounced"));
        run.tick();
    }
    run.answer("mail", no("409 bounced"));
    assert_eq!(run.state(), "STUCK");
    run.ask(Ask::Retry).unwrap();
    run.done("mail");
    assert_eq!(run.state(), "SUCCEEDED");
}

#[test]
fn a_deadline_takes_the_way_back() {
    let mut run = run(Spec { deadline: Some(Timestamp::from_millis(2_000)), ..order() });
    run.done("stock");
    assert_eq!(run.calls[0].until, Timestamp::from_millis(2_000), "no call outlasts the deadline");
    run.answer("pay", silence());
    while run.state() == "RUNNING" {
        run.tick();
        if run.state() == "RUNNING" && !run.calls.is_empty() {
            run.answer("pay", silence());
        }
    }
    if run.called().contains(&("pay", Op::Action)) {
        run.answer("pay", silence());
    }
    assert_eq!(run.called(), [("stock", Op::Undo), ("pay", Op::Undo)]);
}

#[test]
fn a_compensation_that_is_refused_waits_for_an_operator() {
    let mut run = run(spec(Mode::Saga, vec![branch("a", &[]), branch("b", &[0])]));
    run.done("a");
    run.answer("b", no("409"));
    for _ in 0..REFUSALS_MAX - 1 {
        run.answer("a", no("409 never"));
        run.tick();
    }
    run.answer("a", no("409 never"));
    assert_eq!((run.state(), run.called().len()), ("STUCK", 0));
    assert!(run.ask(Ask::Skip { branch: "b".into() }).is_err(), "b isn't stuck");
    let mut other = Machine::replay(run.entries.clone()).unwrap();
    other.on(run.now, Event::Wake).unwrap();
    assert_eq!(other.state().name(), "STUCK", "a restart doesn't forget it");
    run.ask(Ask::Skip { branch: "a".into() }).unwrap();
    assert_eq!(run.state(), "COMPENSATED");
}

#[test]
fn an_operator_can_declare_it_settled_and_nobody_is_called_any_more() {
    let mut run = run(spec(Mode::Saga, vec![branch("a", &[])]));
    assert!(run.ask(Ask::Resolve { reason: "".into() }).is_err());
    for _ in 0..REFUSALS_MAX {
        run.answer("a", Outcome::Misdirected { reason: "403".into() });
        if run.wake.is_some() {
            run.tick();
        }
    }
    run.calls.clear();
    run.ask(Ask::Resolve { reason: "paid by hand".into() }).unwrap();
    assert_eq!((run.state(), &*run.machine.state().reason), ("RESOLVED", "paid by hand"));
    assert!(run.ask(Ask::Retry).is_err());
}

#[test]
fn attempts_that_are_used_up_take_the_way_back() {
    let mut once = branch("a", &[]);
    once.retry.attempts = 2;
    let mut run = run(spec(Mode::Saga, vec![once]));
    run.answer("a", silence());
    run.tick();
    run.answer("a", silence());
    assert_eq!(run.called(), [("a", Op::Undo)]);
}

#[test]
fn time_that_is_up_takes_the_way_back_or_calls_for_an_operator() {
    let mut timed = branch("a", &[]);
    (timed.retry.for_ms, timed.retry.first_ms, timed.retry.cap_ms) = (3_000, 1_000, 1_000);
    let silent_for = |run: &mut Run| {
        let begun = run.now;
        while run.called().is_empty() || run.called()[0].1 == Op::Action {
            run.answer("a", silence());
            if run.state() == "STUCK" || run.now.as_millis() > begun.as_millis() + 60_000 {
                break;
            }
            if run.called().is_empty() {
                run.tick();
            }
        }
        run.now.as_millis() - begun.as_millis()
    };
    let mut back = run(spec(Mode::Saga, vec![timed.clone()]));
    let span = silent_for(&mut back);
    assert_eq!(back.called(), [("a", Op::Undo)]);
    assert!((3_000..5_000).contains(&span), "{span}");
    // Past the point of no return there is no way back: somebody has to look, and may have it called again.
    let mut first = branch("p", &[]);
    first.pivot = true;
    timed.after = vec![0];
    let mut forward = run(spec(Mode::Saga, vec![first, timed]));
    forward.done("p");
    silent_for(&mut forward);
    assert_eq!((forward.state(), forward.called()), ("STUCK", vec![]));
    forward.ask(Ask::Retry).unwrap();
    assert_eq!(forward.called(), [("a", Op::Action)]);
    forward.done("a");
    assert_eq!(forward.state(), "SUCCEEDED");
}

#[test]
fn a_pause_ends_when_the_service_is_healthy_again() {
    let mut slow = branch("a", &[]);
    slow.retry.first_ms = 30_000;
    let mut run = run(spec(Mode::Saga, vec![slow]));
    run.answer("a", silence());
    assert_eq!(run.called(), []);
    assert_eq!(run.machine.waits_for().map(|(target, _)| target.place()).collect::<Vec<_>>(), ["shop.default"]);
    run.event(Event::Healthy("other.default".into())).unwrap();
    assert_eq!(run.called(), []);
    run.event(Event::Healthy("shop.default".into())).unwrap();
    assert_eq!(run.called(), [("a", Op::Action)]);
}

#[test]
fn a_pause_for_an_address_ends_when_that_address_is_back() {
    let mut slow = branch("a", &[]);
    slow.retry.first_ms = 30_000;
    slow.action = slow.action.map(|mut call| {
        call.target = Target { authority: "127.0.0.1:81".into(), raw: true, ..call.target };
        call
    });
    let mut run = run(spec(Mode::Saga, vec![slow]));
    run.answer("a", silence());
    for other in ["127.0.0.1:82", "127.0.0.1"] {
        run.event(Event::Healthy(other.into())).unwrap();
        assert_eq!(run.called(), []);
    }
    run.event(Event::Healthy("127.0.0.1:81".into())).unwrap();
    assert_eq!(run.called(), [("a", Op::Action)]);
}

#[test]
fn a_probe_is_one_call_and_pauses_grow_all_the_same() {
    let slow = |name| {
        let mut slow = branch(name, &[]);
        (slow.retry.first_ms, slow.retry.cap_ms) = (100, 30_000);
        slow
    };
    let mut run = run(spec(Mode::Saga, vec![slow("a"), slow("b")]));
    for _ in 0..12 {
        run.answer("a", silence());
        run.answer("b", silence());
        run.tick();
    }
    run.answer("a", silence());
    run.answer("b", silence());
    run.event(Event::Probe("other.default".into())).unwrap();
    assert_eq!(run.called(), []);
    run.event(Event::Probe("shop.default".into())).unwrap();
    assert_eq!(run.called().len(), 1);
    // Another while it is under way is for the other call, and no more than that one.
    run.event(Event::Probe("shop.default".into())).unwrap();
    run.event(Event::Probe("shop.default".into())).unwrap();
    assert_eq!(run.called().len(), 2);
    let failed = run.now.as_millis();
    run.answer("a", silence());
    run.answer("b", silence());
    run.tick();
    assert!(run.now.as_millis() - failed > 100, "the pause goes on from where it was");
}

#[test]
fn a_service_that_is_back_but_still_starting_is_asked_again_soon() {
    let mut slow = branch("a", &[]);
    (slow.retry.first_ms, slow.retry.cap_ms) = (100, 30_000);
    let mut run = run(spec(Mode::Saga, vec![slow]));
    for _ in 0..12 {
        run.answer("a", silence());
        run.tick();
    }
    // It has an endpoint again while a call is under way, which still fails.
    run.event(Event::Healthy("shop.default".into())).unwrap();
    run.answer("a", silence());
    let failed = run.now.as_millis();
    run.tick();
    assert_eq!(run.called(), [("a", Op::Action)]);
    assert!(run.now.as_millis() - failed <= 100, "the pause is a first one again");
}

#[test]
fn work_that_takes_its_time_is_asked_for_or_told() {
    let mut run = run(spec(Mode::Saga, vec![branch("a", &[]), branch("b", &[])]));
    let busy = || Outcome::Ongoing { after: Some(Duration::from_secs(2)), location: Some("/jobs/7".into()) };
    run.answer("a", busy());
    run.answer("b", busy());
    run.ask(Ask::Complete { branch: "b".into(), outcome: Outcome::Done { answer: "told".into() } }).unwrap();
    let mut other = Machine::replay(run.entries.clone()).unwrap();
    let effects = other.on(run.now, Event::Wake).unwrap();
    let polls = effects.iter().filter_map(|e| if let Effect::Call(o) = e { o.poll.as_deref() } else { None });
    assert_eq!(polls.collect::<Vec<_>>(), ["/jobs/7"], "a restart knows where to ask");
    run.tick();
    assert_eq!(run.now, Timestamp::from_millis(3_000));
    run.done("a");
    assert_eq!(run.state(), "SUCCEEDED");
}

#[test]
fn nobody_is_put_off_for_ever() {
    let after = Some(Duration::from_secs(u64::MAX));
    for put_off in [
        Outcome::Unknown { reason: "503".into(), after, over: true },
        Outcome::Ongoing { after, location: Some("/jobs/7".into()) },
    ] {
        let mut run = run(spec(Mode::Saga, vec![branch("a", &[])]));
        run.answer("a", put_off);
        run.tick();
        assert_eq!((run.now, run.called()), (Timestamp::from_millis(1_000) + AFTER_MAX, vec![("a", Op::Action)]));
    }
}

#[test]
fn what_nobody_knows_is_not_asked_for_ever() {
    let nobody_knows = |run: &mut Run, name: &str| {
        for _ in 0..REFUSALS_MAX - 1 {
            run.answer(name, Outcome::Ambiguous { reason: "nobody knows".into() });
            run.tick();
        }
        run.answer(name, Outcome::Ambiguous { reason: "nobody knows".into() });
    };
    // What can be taken back whatever became of it is.
    let mut back = run(spec(Mode::Saga, vec![branch("a", &[]), branch("b", &[0])]));
    back.done("a");
    nobody_knows(&mut back, "b");
    assert_eq!((back.state(), back.called()), ("COMPENSATING", vec![("b", Op::Undo)]));
    assert_eq!(&*back.machine.state().reason, "b: nobody knows");
    // Its compensation is for an operator, who may say that it is done.
    nobody_knows(&mut back, "b");
    assert_eq!((back.state(), back.called(), back.wake), ("STUCK", vec![], None));
    assert_eq!(&*back.machine.state().progress[1].reason, "nobody knows");
    back.ask(Ask::Skip { branch: "b".into() }).unwrap();
    assert_eq!(back.called(), [("a", Op::Undo)]);
    // What can't be taken back, or not without an answer, or isn't to be, is for an operator at once.
    let confirmed = Branch { confirm: Some(call("/yes")), action: None, undo: None, ..branch("a", &[]) };
    for spec in [
        spec(Mode::Saga, vec![pivot("a", &[])]),
        spec(Mode::Saga, vec![answered("a", &[])]),
        spec(Mode::Message, vec![confirmed]),
    ] {
        let mut stuck = run(spec);
        nobody_knows(&mut stuck, "a");
        assert_eq!((stuck.state(), stuck.called(), stuck.wake), ("STUCK", vec![], None));
        stuck.ask(Ask::Retry).unwrap();
        assert_eq!(stuck.called().len(), 1);
        // A late answer is one.
        stuck.done("a");
        assert!(stuck.machine.state().name() != "STUCK" && stuck.called().is_empty());
    }
}

#[test]
fn what_may_still_be_at_work_is_not_undone_before_its_time_is_over() {
    /// The moment of the undo, if the ledger says to every call of the action that nobody knows.
    fn undone(run: &mut Run) -> Timestamp {
        while run.called() != [("a", Op::Undo)] {
            if run.calls.is_empty() {
                run.tick();
            } else {
                run.answer("a", Outcome::Ambiguous { reason: "nobody knows".into() });
            }
        }
        run.now
    }
    let begun = || run(spec(Mode::Saga, vec![branch("a", &[])]));
    let mut lost = begun();
    let until = lost.calls[0].until;
    lost.answer("a", silence());
    let entries = lost.entries.clone();
    assert_eq!(undone(&mut lost), until);
    // Who has answered isn't at work any more.
    let mut answered = begun();
    answered.answer("a", Outcome::Unknown { reason: "500".into(), after: None, over: true });
    assert!(undone(&mut answered) < until);
    // Nobody remembers when a call before a crash was made: it has as much time as one that is made now.
    let machine = Machine::replay(entries.clone()).unwrap();
    let mut again = Run { machine, now: Timestamp::from_millis(5_000), calls: Vec::new(), entries, wake: None };
    again.event(Event::Wake).unwrap();
    let until = again.calls[0].until;
    assert_eq!(undone(&mut again), until);
}

#[test]
fn nobody_answers_a_call_that_was_not_made() {
    let told = |name: &str| Ask::Complete { branch: name.into(), outcome: Outcome::Done { answer: "told".into() } };
    let mut run = run(spec(Mode::Saga, vec![branch("a", &[]), branch("b", &[0]), pivot("c", &[1])]));
    for early in ["b", "c"] {
        let refused = run.ask(told(early)).unwrap_err();
        assert_eq!(refused.to_string(), "it is RUNNING; this branch has not been called yet");
    }
    run.done("a");
    // After a crash it is called again, if it isn't told before.
    let mut other = Machine::replay(run.entries.clone()).unwrap();
    let effects = other.on(run.now, Event::Ask { ask: told("b"), by: "b".into() }).unwrap();
    let Some(Effect::Persist { entries, .. }) = effects.first() else { panic!("{effects:?}") };
    assert!(matches!(&entries[0].what, What::Settled { by, .. } if **by == *"b"), "who told it is kept: {entries:?}");
    run.ask(told("b")).unwrap();
    run.answer("c", no("409"));
    assert!(run.ask(told("b")).is_err(), "the action of b is still under way, and so its undo isn't called");
    run.done("b");
    assert_eq!(run.called(), [("b", Op::Undo)]);
    assert!(run.ask(told("a")).is_err(), "b is undone first");
    run.ask(told("b")).unwrap();
    run.done("b");
    assert_eq!(run.called(), [("a", Op::Undo)]);
    run.ask(told("a")).unwrap();
    run.done("a");
    assert_eq!(run.state(), "COMPENSATED");
}

#[test]
fn a_prepared_message_asks_its_creator() {
    let sent = Branch { action: None, undo: None, confirm: Some(call("/do")), ..branch("a", &[]) };
    let prepared = || Spec {
        open: true,
        check: Some(call("/check")),
        deadline: Some(Timestamp::from_millis(4_000)),
        ..spec(Mode::Message, vec![sent.clone()])
    };
    let mut first = run(prepared());
    assert_eq!((first.state(), first.called().len()), ("PREPARED", 0));
    first.tick();
    first.answer("check", Outcome::Ongoing { after: Some(Duration::from_secs(1)), location: None });
    first.tick();
    first.done("check");
    assert_eq!((first.state(), first.called()), ("DELIVERING", vec![("a", Op::Confirm)]));
    let mut second = run(prepared());
    second.tick();
    second.answer("check", no("409"));
    assert_eq!(second.state(), "ABORTED");
    assert!(second.ask(Ask::Go).is_err());
    let mut third = run(prepared());
    third.ask(Ask::Go).unwrap();
    third.ask(Ask::Go).unwrap();
    third.done("a");
    assert_eq!(third.state(), "DELIVERED");
    third.ask(Ask::Go).unwrap();
}

#[test]
fn participants_join_and_are_all_told_the_end() {
    let joined = |name: &str| Box::new(Branch { action: None, confirm: Some(call("/yes")), ..branch(name, &[]) });
    let mut run = run(Spec { open: true, ..spec(Mode::Scope, Vec::new()) });
    run.ask(Ask::Enlist(joined("a"))).unwrap();
    run.ask(Ask::Enlist(joined("b"))).unwrap();
    run.ask(Ask::Enlist(joined("a"))).unwrap();
    let other = Branch { undo: Some(call("/other")), ..*joined("a") };
    assert!(run.ask(Ask::Enlist(Box::new(other))).is_err());
    let mut again = Machine::replay(run.entries.clone()).unwrap();
    again.on(run.now, Event::Ask { ask: Ask::Back { reason: "".into() }, by: "web".into() }).unwrap();
    assert_eq!(again.state().name(), "CANCELLING");
    run.ask(Ask::Back { reason: "no".into() }).unwrap();
    assert_eq!(run.called(), [("b", Op::Undo)], "who joined last is undone first");
    run.done("b");
    run.done("a");
    assert_eq!(run.state(), "CANCELLED");
    assert!(run.ask(Ask::Enlist(joined("c"))).is_err());
}

#[test]
fn numbers_of_calls_go_on_after_a_crash() {
    let mut run = run(spec(Mode::Saga, vec![branch("a", &[])]));
    run.answer("a", silence());
    run.tick();
    run.answer("a", silence());
    let mut other = Machine::replay(run.entries.clone()).unwrap();
    let effects = other.on(run.now, Event::Wake).unwrap();
    assert!(matches!(&effects[..], [Effect::Call(order), ..] if order.attempt == 3), "{effects:?}");
    assert_eq!(run.entries.iter().filter(|e| matches!(e.what, What::Tried { .. })).count(), 2);
    assert_eq!(other.state().progress[0].action, Slot::Pending);
}

#[test]
fn a_no_is_not_the_last_word_while_an_earlier_call_may_still_arrive() {
    let mut run = run(spec(Mode::Saga, vec![branch("a", &[])]));
    run.answer("a", silence());
    run.tick();
    run.answer("a", no("409"));
    assert_eq!(run.called(), [("a", Op::Undo)]);
}

#[test]
fn a_saga_within_another_waits_for_its_word() {
    let within = || {
        let mut spec = spec(Mode::Saga, vec![branch("stock", &[]), branch("pay", &[0])]);
        spec.parent = Some(crate::Parent { id: "p".into(), branch: "order".into(), depth: 1 });
        run(spec)
    };
    let held = || {
        let mut run = within();
        assert!(run.ask(Ask::Parent { keep: true }).is_err(), "there is nothing to keep yet");
        run.done("stock");
        run.done("pay");
        assert_eq!((run.state(), run.called()), ("HELD", vec![]));
        run
    };
    let mut kept = held();
    // Nobody else ends it, not even who began it.
    for ask in [Ask::Go, Ask::Back { reason: "no".into() }, Ask::Retry, Ask::Resolve { reason: "so".into() }] {
        assert!(matches!(kept.ask(ask), Err(Refusal::State { state: "HELD", .. })));
    }
    kept.machine = Machine::replay(kept.entries.clone()).unwrap();
    kept.ask(Ask::Parent { keep: true }).unwrap();
    assert_eq!(kept.state(), "SUCCEEDED");
    kept.ask(Ask::Parent { keep: true }).unwrap();
    assert!(kept.ask(Ask::Parent { keep: false }).is_err());
    let mut back = held();
    back.machine = Machine::replay(back.entries.clone()).unwrap();
    back.ask(Ask::Parent { keep: false }).unwrap();
    assert_eq!((back.state(), back.called()), ("COMPENSATING", vec![("pay", Op::Undo)]));
    back.done("pay");
    back.done("stock");
    assert_eq!(back.state(), "COMPENSATED");
    back.ask(Ask::Parent { keep: false }).unwrap();
    // Who has such a part can't be told of its outcome by anybody else.
    let mut whole = spec(Mode::Saga, vec![branch("order", &[])]);
    let child = crate::Child::Defined { definition: "n/order".into(), input: None, late: None };
    crate::nested::adopt(&mut whole.branches[0], child, true);
    let mut whole = run(whole);
    for outcome in [Outcome::Done { answer: "".into() }, no("409")] {
        assert!(whole.ask(Ask::Complete { branch: "order".into(), outcome }).is_err());
    }
    // Before all of it is done its creator may take it back as ever.
    let mut early = within();
    early.done("stock");
    early.ask(Ask::Back { reason: "no".into() }).unwrap();
    assert_eq!(early.state(), "COMPENSATING");
}

#[test]
fn what_waits_is_called_at_once_where_somebody_wants_it() {
    let mut run = run(order());
    run.answer("pay", silence());
    assert!(run.called() == [("stock", Op::Action)] && run.machine.next_try().is_some_and(|at| at > run.now));
    run.ask(Ask::Hurry).unwrap();
    assert_eq!(run.called(), [("stock", Op::Action), ("pay", Op::Action)]);
    assert_eq!(run.machine.next_try(), None, "it is under way");
    run.ask(Ask::Hurry).unwrap();
    assert_eq!(run.called().len(), 2, "nothing waits, so nothing is called twice");
    run.done("stock");
    run.done("pay");
    run.done("ship");
    run.ask(Ask::Hurry).unwrap();
    assert_eq!(run.state(), "SUCCEEDED");
    // So is what would never be called by itself.
    let mut stuck = self::run(spec(Mode::Saga, vec![pivot("a", &[])]));
    for _ in 0..REFUSALS_MAX {
        stuck.answer("a", Outcome::Misdirected { reason: "403".into() });
        if stuck.wake.is_some() {
            stuck.tick();
        }
    }
    stuck.calls.clear();
    assert_eq!(stuck.state(), "STUCK");
    stuck.ask(Ask::Hurry).unwrap();
    assert_eq!(stuck.called(), [("a", Op::Action)]);
}

#[test]
fn an_operator_can_stop_it_wherever_it_stands_but_not_what_another_saga_decides() {
    let mut run = run(order());
    run.done("stock");
    run.ask(Ask::Stop { reason: "enough".into() }).unwrap();
    assert_eq!((run.state(), &*run.machine.state().reason), ("RESOLVED", "enough"));
    // What comes late changes nothing, and a restart calls nobody.
    run.answer("pay", no("409"));
    assert_eq!(run.state(), "RESOLVED");
    let mut other = Machine::replay(run.entries.clone()).unwrap();
    assert_eq!(other.on(run.now, Event::Wake).unwrap(), []);
    assert!(run.ask(Ask::Stop { reason: "again".into() }).is_err());
    let mut within = spec(Mode::Saga, vec![branch("a", &[])]);
    within.parent = Some(crate::Parent { id: "p".into(), branch: "order".into(), depth: 1 });
    let mut within = self::run(within);
    assert!(matches!(within.ask(Ask::Stop { reason: "no".into() }), Err(Refusal::State { .. })));
    // Where that one was stopped, so is its part.
    within.ask(Ask::Forsake { reason: "enough".into() }).unwrap();
    assert_eq!((within.state(), &*within.machine.state().reason), ("RESOLVED", "enough"));
    assert!(self::run(order()).ask(Ask::Forsake { reason: "it's a part of none".into() }).is_err());
}
