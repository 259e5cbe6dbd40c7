// SPDX-License-Identifier: Apache-2.0
//! Branches that are sagas of their own, as a coordinator performs them: it looks at the saga, does what is next, and looks again. Between
//! looking and doing, coordinators are killed and deposed, and others come first. What is asked of a saga that another drives goes there by the
//! journal's letters. The product begins a saga in its parent's term, and a call ends with that; here some begin in any that is held, and calls go
//! on, as the rest has to hold without that.

use super::{Fault, Happening, Part, Said, Sent, Who, World, decision, instant, read};
use byrnie_base::Text;
use byrnie_saga::machine::State;
use byrnie_saga::nested::{self, Next};
use byrnie_saga::shards::SHARDS;
use byrnie_saga::{Ask, Branch, Child, End, Event, Machine, Outcome, Parent, Phase, Spec, Term};
use byrnie_store::{Journal as _, Peers as _, Value};

/// Sagas stand so deep within one another.
const DEPTH: u8 = 2;
/// Longest time between looking and doing, and until a letter is read; and the same for some that are late.
const TURN_MAX_MS: (u64, u64) = (60, 10_000);

/// What was found to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Todo {
    Begin,
    Bury,
    Ask { keep: bool },
}

impl World {
    /// Makes some branches sagas.
    pub(super) fn adopt(&mut self, branch: &mut Branch, depth: u8) {
        if depth < DEPTH && self.dice.percent(6) {
            let spec = Box::new(self.spec(depth + 1));
            nested::adopt(branch, Child::Given { spec, span_ms: None }, true);
        }
    }

    /// The saga that a branch is, and whose part it says to be; nothing if it's a call.
    pub(super) fn child_of(&self, id: &Text, branch: u16) -> Option<(Spec, Parent)> {
        let spec = self.truth.known.get(id)?;
        let branch = spec.branches.get(usize::from(branch))?;
        let Some(Child::Given { spec: child, .. }) = branch.child.as_deref() else { return None };
        let depth = spec.parent.as_ref().map_or(1, |above| above.depth + 1);
        Some(((**child).clone(), Parent { id: id.clone(), branch: branch.name.clone(), depth }))
    }

    /// One turn of a call: to look, or to do what was found then.
    pub(super) fn nest(&mut self, id: &Text, branch: u16, sent: Sent, todo: Option<Todo>) {
        let Some((child, own)) = self.child_of(id, branch) else { return };
        let Some(within) = nested::id(&own.id, &own.branch) else { return };
        let said = match todo {
            Some(todo) => self.turn(sent.by, todo, &within, child, own),
            None if self.left > 0 && self.dice.percent(10) => Said::Nothing,
            None => match nested::next(sent.op, &own, self.standing(sent.by, &within).as_ref(), |_| "ok".into()) {
                Next::Over(Outcome::Done { .. }) => Said::Yes,
                Next::Over(Outcome::Rejected { .. }) => Said::No,
                Next::Over(lost) => {
                    self.report.violations.push(format!("{within} is lost to {:?}: {lost:?}", sent.op));
                    Said::Nothing
                }
                Next::Wait { .. } => Said::Later,
                Next::Begin => return self.in_turn(id, branch, sent, Todo::Begin),
                Next::Bury => return self.in_turn(id, branch, sent, Todo::Bury),
                Next::Ask(ask) => {
                    let keep = ask == Ask::Parent { keep: true };
                    return self.in_turn(id, branch, sent, Todo::Ask { keep });
                }
            },
        };
        if !sent.answered {
            let delay = self.pause();
            self.after(delay, Happening::Answer(id.clone(), branch, sent, said));
        }
    }

    fn in_turn(&mut self, id: &Text, branch: u16, sent: Sent, todo: Todo) {
        let delay = self.pause();
        self.after(delay, Happening::Nest(id.clone(), branch, sent, Some(todo)));
    }

    fn pause(&mut self) -> u64 {
        let (most, late) = TURN_MAX_MS;
        let longest = if self.left > 0 && self.dice.percent(20) { late } else { most };
        self.dice.below(longest)
    }

    fn turn(&mut self, who: Who, todo: Todo, within: &Text, child: Spec, own: Parent) -> Said {
        let spec = match todo {
            // Its creator may not, or its definition is gone: that is judged anew by each that would begin it.
            Todo::Begin if self.left > 0 && self.dice.percent(3) => return Said::No,
            Todo::Begin if self.rules.fault == Fault::Unheld => child,
            Todo::Begin => Spec { parent: Some(own.clone()), ..child },
            Todo::Bury if self.rules.fault == Fault::Unburied => return Said::Yes,
            Todo::Bury => match self.truth.known.get(&own.id) {
                Some(above) => nested::buried(above, own.clone()),
                None => return Said::Nothing,
            },
            Todo::Ask { keep } => return self.ask(who, within, keep, own.id),
        };
        let Some(term) = self.place(who, &own.id) else { return Said::Nothing };
        self.report.nested += u32::from(self.accept(who, within, term, spec));
        Said::Later
    }

    /// Where a saga within another begins; nowhere if all that one knows of is over.
    fn place(&mut self, who: Who, above: &Text) -> Option<Term> {
        let roll = self.dice.next_u64();
        let up = &self.ups[who.0];
        let own = up.live.get(above).map(|above| above.term);
        if roll.is_multiple_of(2) { own } else { up.tenure.any(roll / 2, instant(self.now)) }
    }

    fn ask(&mut self, who: Who, within: &Text, keep: bool, by: Text) -> Said {
        // Some go by letter that needn't.
        let by_letter = self.ups.len() > 1 && self.dice.percent(50);
        if self.ups[who.0].live.contains_key(within) && !by_letter {
            self.event(who, within, Event::Ask { ask: Ask::Parent { keep }, by });
            return Said::Later;
        }
        let Some(journal) = &self.disk.journal else { return Said::Nothing };
        let Ok(story) = crate::control::at_once(journal.read(within)) else {
            self.lose_power();
            return Said::Nothing;
        };
        let body = Value::from(format!("{within} {keep} {by}").into_bytes());
        if crate::control::at_once(journal.post(story.shard, body)).is_err() {
            self.lose_power();
            return Said::Nothing;
        }
        for at in 0..self.ups.len() {
            let delay = self.pause();
            self.after(delay, Happening::Letters(self.ups[at].who));
        }
        if self.rules.fault == Fault::Unread { Said::Yes } else { Said::Later }
    }

    /// Does what is asked in letters of the shards that are held, as far as one knows. Some answers are lost, and the question found again.
    pub(super) fn read_letters(&mut self, who: Who) {
        let held = |shard: &u16| self.ups[who.0].tenure.term(*shard, instant(self.now)).is_some();
        let shards: Vec<u16> = (0..SHARDS).filter(held).collect();
        let Some(journal) = &self.disk.journal else { return };
        let Ok(letters) = crate::control::at_once(journal.letters(shards)) else { return self.lose_power() };
        for letter in letters {
            let text = String::from_utf8_lossy(&letter.body);
            let mut words = text.split(' ');
            let (Some(within), Some(keep), Some(by)) = (words.next(), words.next(), words.next()) else { continue };
            let ask = Ask::Parent { keep: keep == "true" };
            if !self.event(who, &within.into(), Event::Ask { ask, by: by.into() }) || self.dice.percent(20) {
                continue;
            }
            let Some(journal) = &self.disk.journal else { return };
            if crate::control::at_once(journal.reply(letter.number, Value::from(&b""[..]))).is_err() {
                return self.lose_power();
            }
            self.report.letters += 1;
        }
    }

    /// How a transaction stands to one coordinator: as it drives it, or as it's written; nothing if it isn't there.
    fn standing(&self, who: Who, id: &Text) -> Option<State> {
        if let Some(running) = self.ups[who.0].live.get(id) {
            return Some(running.machine.state().clone());
        }
        let entries = read(self.disk.journal.as_ref()?, id);
        Machine::replay(entries).ok().map(|machine| machine.state().clone())
    }

    /// What became of the saga that a branch is, as it's written.
    pub(super) fn part_within(&self, own: &Parent) -> Part {
        let (Some(journal), Some(id)) = (&self.disk.journal, nested::id(&own.id, &own.branch)) else {
            return Part::default();
        };
        let entries = read(journal, &id);
        let phases: Vec<Phase> = entries.iter().filter_map(|entry| decision(&entry.what)).collect();
        let undone = phases.contains(&Phase::Ended(End::Undone));
        let done = phases.iter().any(|phase| matches!(phase, Phase::Held | Phase::Ended(End::Done)));
        Part { done, stands: !entries.is_empty() && !undone, ..Part::default() }
    }
}
