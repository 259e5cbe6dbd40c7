// SPDX-License-Identifier: Apache-2.0
//! A saga within a saga. The branch of the one above is done once all of the one below is done; that one then waits, so that it
//! can still be taken back, until the one above has ended. The machine above knows nothing of this: beginning, releasing and undoing the
//! saga below are its branch's action, confirm and undo, and what they come to is decided here.

use crate::judge::Outcome;
use crate::machine::{Ask, POLL_MS, State};
use crate::transaction::{Branch, Call, Child, End, Op, Parent, Phase, Spec, Target};
use byrnie_base::Text;
use std::time::Duration;

/// What a call of a branch that is a saga needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The saga is to be begun.
    Begin,
    /// It is to be written down as one that never was anything, so that nothing begins it later.
    Bury,
    /// This is to be asked of it.
    Ask(Ask),
    /// Nothing but time; and how it stands.
    Wait {
        /// Only an operator can go on with it.
        stuck: bool,
    },
    /// The call has ended.
    Over(Outcome),
}

/// What a call of this kind needs next, by how the saga stands (nothing: it isn't there). `answer` is made of it only if it is done.
pub fn next(op: Op, own: &Parent, child: Option<&State>, answer: impl FnOnce(&State) -> Text) -> Next {
    let Some(child) = child else {
        return match op {
            Op::Action => Next::Begin,
            Op::Undo => Next::Bury,
            Op::Confirm | Op::Check => Next::Over(lost("it was done, and is not there any more")),
        };
    };
    if child.spec.parent.as_ref() != Some(own) {
        return Next::Over(match op {
            // It is somebody else's, so nothing of this branch was begun.
            Op::Action => Outcome::Rejected { reason: "its id belongs to another transaction".into() },
            _ => Outcome::Done { answer: Text::default() },
        });
    }
    let wait = Next::Wait { stuck: child.is_stuck() };
    let done = || Next::Over(Outcome::Done { answer: Text::default() });
    match (op, child.phase) {
        (Op::Action, Phase::Held | Phase::Confirming | Phase::Ended(End::Done)) => {
            Next::Over(Outcome::Done { answer: answer(child) })
        }
        (Op::Action, Phase::Ended(End::Undone)) => Next::Over(Outcome::Rejected { reason: child.reason.clone() }),
        (Op::Action, Phase::Ended(End::Resolved)) => Next::Over(lost("an operator has settled it by hand")),
        // Nothing of this id will ever be anything.
        (Op::Action, Phase::Open) => Next::Over(Outcome::Rejected { reason: "it was given up before it began".into() }),
        (Op::Action, _) => wait,
        (Op::Confirm, Phase::Ended(End::Done)) => done(),
        (Op::Confirm, Phase::Held) => Next::Ask(Ask::Parent { keep: true }),
        (Op::Confirm, Phase::Confirming) => wait,
        (Op::Confirm | Op::Check, _) => Next::Over(lost("it was done, and is so no more")),
        // Settled by hand is settled.
        (Op::Undo, Phase::Ended(End::Undone | End::Resolved)) => done(),
        (Op::Undo, Phase::Undoing) => wait,
        (Op::Undo, Phase::Ended(End::Done) | Phase::Confirming) => Next::Over(lost("there is no way back from it")),
        (Op::Undo, _) => Next::Ask(Ask::Parent { keep: false }),
    }
}

/// The call goes on, and is made again.
pub const fn ongoing(stuck: bool) -> Outcome {
    // What only a person can move is looked at now and then; anything else as soon as it moves.
    let after = if stuck { Duration::from_millis(POLL_MS) } else { Duration::ZERO };
    Outcome::Ongoing { after: Some(after), location: None }
}

fn lost(why: &str) -> Outcome {
    Outcome::Misdirected { reason: why.into() }
}

/// The id of the saga that a branch is: its parent's and the branch's name. `None` if that is too long for an id.
pub fn id(parent: &str, branch: &str) -> Option<Text> {
    let id = format!("{parent}.{branch}");
    (id.len() <= crate::transaction::ID_BYTES_MAX).then(|| id.into())
}

/// A saga that never was anything: it ends as soon as it is undone, and nobody else can begin one of its id.
pub fn buried(above: &Spec, parent: Parent) -> Spec {
    Spec {
        open: true,
        check: None,
        deadline: None,
        branches: Vec::new(),
        input: None,
        definition: Text::default(),
        fingerprint: Text::default(),
        parent: Some(parent),
        ..above.clone()
    }
}

/// Whether all that a saga may have done can be taken back at any time, as its parent may ask for.
pub fn can_be_undone(branches: &[Branch]) -> bool {
    branches.iter().all(|branch| !branch.pivot && (branch.undo.is_some() || branch.free))
}

/// Makes a branch one that is a saga of its own. `undone`: that one can be taken back as a whole.
pub fn adopt(branch: &mut Branch, child: Child, undone: bool) {
    let name = match &child {
        Child::Defined { definition, .. } => definition.clone(),
        Child::Given { .. } => branch.name.clone(),
    };
    let call = |method: &str| {
        let target =
            Target { method: method.into(), authority: "saga".into(), path: format!("/{name}").into(), raw: false };
        Call { target, body: None, kind: "application/json".into(), headers: Vec::new(), late: None }
    };
    branch.action = Some(call("RUN"));
    branch.confirm = Some(call("KEEP"));
    branch.undo = undone.then(|| call("UNDO"));
    branch.child = Some(Box::new(child));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::{Event, Mode, Reply, Rules};
    use byrnie_base::Timestamp;

    fn own() -> Parent {
        Parent { id: "p".into(), branch: "x".into(), depth: 1 }
    }

    fn spec() -> Spec {
        let mut branch = Branch { name: "a".into(), ..Branch::default() };
        adopt(&mut branch, Child::Defined { definition: "n/s".into(), input: None, late: None }, true);
        Spec {
            mode: Mode::Saga,
            creator: "web".into(),
            created: Timestamp::default(),
            deadline: None,
            open: false,
            check: None,
            branches: vec![branch],
            rules: Rules::default(),
            definition: "".into(),
            input: None,
            fingerprint: "".into(),
            parent: Some(own()),
        }
    }

    fn at(asks: &[Ask], outcome: Option<Outcome>) -> State {
        let now = Timestamp::default();
        let mut machine = Machine::begin(spec(), now).0;
        machine.on(now, Event::Wake).unwrap();
        let reply = outcome.map(|outcome| Reply { branch: Some(0), op: Op::Action, attempt: 1, outcome, roll: 0 });
        let events = reply.map(Event::Reply).into_iter();
        for event in events.chain(asks.iter().map(|ask| Event::Ask { ask: ask.clone(), by: "p".into() })) {
            machine.on(now, event).unwrap();
        }
        machine.state().clone()
    }

    fn asked(op: Op, child: Option<&State>) -> Next {
        next(op, &own(), child, |_| "all".into())
    }

    #[test]
    fn what_each_call_needs_next() {
        let done = Outcome::Done { answer: "".into() };
        let (running, held) = (at(&[], None), at(&[], Some(done.clone())));
        let refused = at(&[], Some(Outcome::Rejected { reason: "no".into() }));
        let undoing = at(&[Ask::Parent { keep: false }], Some(done.clone()));
        assert_eq!((asked(Op::Action, None), asked(Op::Undo, None)), (Next::Begin, Next::Bury));
        assert_eq!(asked(Op::Action, Some(&running)), Next::Wait { stuck: false });
        assert_eq!(asked(Op::Action, Some(&held)), Next::Over(Outcome::Done { answer: "all".into() }));
        assert!(
            matches!(asked(Op::Action, Some(&refused)), Next::Over(Outcome::Rejected { reason }) if &*reason == "a: no")
        );
        assert_eq!(asked(Op::Confirm, Some(&held)), Next::Ask(Ask::Parent { keep: true }));
        for child in [&running, &held] {
            assert_eq!(asked(Op::Undo, Some(child)), Next::Ask(Ask::Parent { keep: false }));
        }
        assert_eq!(asked(Op::Undo, Some(&undoing)), Next::Wait { stuck: false });
        assert_eq!(asked(Op::Undo, Some(&refused)), Next::Over(done.clone()));
        // Its own part within it is kept first.
        let keeping = at(&[Ask::Parent { keep: true }], Some(done.clone()));
        assert_eq!(asked(Op::Confirm, Some(&keeping)), Next::Wait { stuck: false });
        assert!(matches!(asked(Op::Undo, Some(&keeping)), Next::Over(Outcome::Misdirected { .. })));
        assert!(matches!(asked(Op::Confirm, None), Next::Over(Outcome::Misdirected { .. })));
        // One of the same name that is somebody else's.
        let other = Parent { branch: "y".into(), ..own() };
        let answer = |_: &State| Text::default();
        assert!(matches!(next(Op::Action, &other, Some(&held), answer), Next::Over(Outcome::Rejected { .. })));
        assert_eq!(next(Op::Undo, &other, Some(&held), answer), Next::Over(done));
    }

    #[test]
    fn one_that_never_was_anything_ends_as_it_is_undone() {
        let now = Timestamp::default();
        let mut machine = Machine::begin(buried(&spec(), own()), now).0;
        machine.on(now, Event::Wake).unwrap();
        assert!(matches!(asked(Op::Action, Some(machine.state())), Next::Over(Outcome::Rejected { .. })));
        assert_eq!(asked(Op::Undo, Some(machine.state())), Next::Ask(Ask::Parent { keep: false }));
        machine.on(now, Event::Ask { ask: Ask::Parent { keep: false }, by: "p".into() }).unwrap();
        assert_eq!(machine.state().phase, Phase::Ended(End::Undone));
        assert!(matches!(asked(Op::Action, Some(machine.state())), Next::Over(Outcome::Rejected { .. })));
    }
}
