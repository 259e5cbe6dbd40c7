// SPDX-License-Identifier: Apache-2.0
//! Sagas within sagas: what is judged of them before the one above begins, and the calls by which that one begins, releases and
//! undoes them. What a call needs next is `saga/nested`'s to say. A saga begins in its parent's shard, so that both change hands together;
//! should another coordinator drive it all the same, it is looked at in the journal and asked by letter, like any other (`letters`).

use super::problem::Problem;
use super::run::Coordinator;
use super::{Caller, OPERATOR, definition, late};
use byrnie_base::Text;
use byrnie_model::saga::{self, Does, Saga};
use byrnie_model::{Identity, code};
use byrnie_saga::machine::State as Standing;
use byrnie_saga::nested::{self, Next};
use byrnie_saga::transaction::{DEPTH_MAX, ID_BYTES_MAX, NESTED_MAX};
use byrnie_saga::{Ask, Branch, Child, End, Order, Outcome, Parent, Phase, Spec, Term, plan};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How long one call waits for the saga below; then it is made again, so that whoever cancels the one above isn't kept waiting.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often one call looks at the saga below.
const LOOKS_MAX: usize = 8;
/// The pause before a call that came to nothing is made again.
const LATER: Duration = Duration::from_secs(1);

/// Judges the sagas within one: that they are there, end somewhere, and can be taken back wherever this one may be.
pub(super) fn judge(coordinator: &Coordinator, spec: &mut Spec) -> Result<(), Problem> {
    if spec.branches.iter().all(|branch| branch.child.is_none()) {
        return Ok(());
    }
    let depth = spec.parent.as_ref().map_or(0, |parent| parent.depth);
    let above: Vec<Text> = Some(spec.definition.clone()).into_iter().filter(|name| !name.is_empty()).collect();
    let mut survey = Survey { coordinator, above, count: 0 };
    survey.branches(&mut spec.branches, depth)?;
    plan::check(spec).and_then(|()| plan::check_way_back(spec)).map_err(|error| Problem::malformed(error.to_string()))
}

/// What is looked at of sagas within sagas, before any of them begins.
struct Survey<'c> {
    coordinator: &'c Coordinator,
    /// Definitions above the one that is looked at.
    above: Vec<Text>,
    count: usize,
}

impl Survey<'_> {
    fn branches(&mut self, branches: &mut [Branch], depth: u8) -> Result<(), Problem> {
        for branch in branches {
            let Some(mut child) = branch.child.take() else { continue };
            let place = |problem: Problem| problem.at(format!("branch {}", branch.name));
            self.descend(depth + 1).map_err(place)?;
            let undone = match &mut *child {
                Child::Given { spec, .. } => {
                    self.branches(&mut spec.branches, depth + 1)?;
                    nested::can_be_undone(&spec.branches)
                }
                Child::Defined { definition, .. } => self.defined(&definition.clone(), depth + 1).map_err(place)?,
            };
            nested::adopt(branch, *child, undone);
        }
        Ok(())
    }

    fn descend(&mut self, depth: u8) -> Result<(), Problem> {
        if depth > DEPTH_MAX {
            return Err(Problem::malformed(format!("sagas stand {DEPTH_MAX} deep within one another at most")));
        }
        self.count += 1;
        if self.count > NESTED_MAX {
            return Err(Problem::malformed(format!("one saga has at most {NESTED_MAX} others within it")));
        }
        Ok(())
    }

    /// Whether a defined saga can be taken back as a whole.
    fn defined(&mut self, name: &Text, depth: u8) -> Result<bool, Problem> {
        if self.above.contains(name) {
            return Err(Problem::malformed(format!("saga {name} is a part of itself")));
        }
        let (namespace, own) = saga::named(name, "default");
        let found: Arc<Saga> = definition::find(self.coordinator, namespace, own)?;
        self.above.push(name.clone());
        let mut undone = true;
        for step in &found.steps {
            let has_way_back = match &step.does {
                Does::Call { .. } => step.undo.is_some(),
                Does::Saga { saga, .. } => {
                    self.descend(depth + 1)?;
                    let (namespace, own) = saga::named(saga, namespace);
                    self.defined(&format!("{namespace}/{own}").into(), depth + 1)?
                }
            };
            undone &= has_way_back && !step.pivot;
        }
        self.above.pop();
        Ok(undone)
    }
}

/// The id of the saga that a branch is.
pub(super) fn id(parent: &Text, branch: &Branch) -> Text {
    nested::id(parent, &branch.name).unwrap_or_else(|| {
        let hash = byrnie_net::tls::secret::sha256(format!("{parent} {}", branch.name).as_bytes());
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.chars().take(ID_BYTES_MAX).collect::<String>().into()
    })
}

/// Makes a call of a branch that is a saga. Calls of a coordinator that was deposed do no harm: what they ask was decided durably before they were
/// made, asking for it twice is asking once, an id is begun once, whoever is first, and what is begun is fenced by the parent's term.
pub(super) async fn perform(
    coordinator: &Arc<Coordinator>,
    term: Term,
    above: (&Text, &Standing),
    order: &Order,
    branch: &Branch,
    child: &Child,
) -> Outcome {
    let (parent, state) = above;
    let id = id(parent, branch);
    let depth = state.spec.parent.as_ref().map_or(1, |above| above.depth.saturating_add(1));
    let own = Parent { id: parent.clone(), branch: branch.name.clone(), depth };
    let unknown =
        |problem: &Problem| Outcome::Unknown { reason: problem.detail.clone().into(), after: Some(LATER), over: true };
    for _ in 0..LOOKS_MAX {
        let Some(office) = coordinator.terms.office(term, coordinator.state.now().mono) else {
            let reason = "another coordinator may have taken over by now".into();
            return Outcome::Unknown { reason, after: Some(LATER), over: true };
        };
        let sight = match coordinator.find(&id).await {
            Ok(sight) => sight,
            Err(problem) => return unknown(&problem),
        };
        let next = nested::next(order.op, &own, sight.as_ref().map(|sight| &sight.state), late::answers);
        let begun = match next {
            Next::Over(outcome) => return outcome,
            Next::Wait { stuck: true } => return nested::ongoing(true),
            Next::Wait { stuck: false } => return wait(coordinator, &id, &own, order).await,
            Next::Ask(ask) => match coordinator.ask_by(&id, ask, parent.clone()).await {
                Ok(()) => continue,
                // Its state doesn't bear it.
                Err(problem) if problem.status == 409 => return Outcome::Misdirected { reason: problem.detail.into() },
                // Nobody was there to be asked, or an older coordinator that doesn't know the question.
                Err(problem) => return unknown(&problem),
            },
            Next::Begin => begin(coordinator, state, branch, child, &own),
            Next::Bury => Ok(nested::buried(&state.spec, own.clone())),
        };
        let trace = coordinator.traceparent(parent, state, order);
        let begun = match begun {
            Ok(spec) => coordinator.begin_in(Some(office), Some(id.clone()), spec, trace).await.map(|_| ()),
            Err(problem) => Err(problem),
        };
        match begun {
            // The one above may have been stopped, with all that was within it, while this was begun.
            Ok(()) => match coordinator.find(parent).await {
                Ok(Some(above)) if above.state.phase == Phase::Ended(End::Resolved) => {
                    let reason = format!("{parent} was ended by an operator").into();
                    if let Err(problem) = coordinator.ask_by(&id, Ask::Forsake { reason }, parent.clone()).await {
                        tracing::warn!(%id, %parent, why = %problem.detail, "a saga within one that was ended goes on");
                    }
                    return nested::ongoing(false);
                }
                _ => {}
            },
            // Somebody began one of this id at the same moment: it is looked at.
            Err(problem) if problem.code.id == code::TXN_DIFFERS.id => {}
            Err(problem) if problem.status >= 500 => return unknown(&problem),
            // It can't be begun, so nothing of it was done.
            Err(problem) => return Outcome::Rejected { reason: problem.detail.into() },
        }
    }
    nested::ongoing(false)
}

/// Whether a saga is a part of one that has ended, or isn't there any more.
pub(super) async fn is_alone(coordinator: &Arc<Coordinator>, state: &Standing) -> Result<bool, Problem> {
    let Some(parent) = &state.spec.parent else { return Ok(false) };
    let above = coordinator.find(&parent.id).await?;
    Ok(above.is_none_or(|above| matches!(above.state.phase, Phase::Ended(_))))
}

/// Ends the sagas within one that an operator has stopped, wherever they stand, and those within them: how many. What is
/// begun below it at that moment ends as soon as it has begun ([`perform`]).
pub(super) async fn forsake(coordinator: &Arc<Coordinator>, stopped: &Text, by: &Caller) -> Result<usize, Problem> {
    let (mut above, mut count, mut failed) = (vec![stopped.clone()], 0, None);
    while let Some(parent) = above.pop() {
        let Some(sight) = coordinator.find(&parent).await? else { continue };
        for branch in sight.state.spec.branches.iter().filter(|branch| branch.child.is_some()) {
            let id = id(&parent, branch);
            let Some(within) = coordinator.find(&id).await? else { continue };
            let of = within.state.spec.parent.as_ref();
            if !of.is_some_and(|of| of.id == parent && of.branch == branch.name) {
                continue;
            }
            match coordinator
                .ask(&id, Ask::Forsake { reason: format!("{stopped} was stopped by {by}").into() }, by)
                .await
            {
                Ok(()) => count += 1,
                // It has ended; those within it may not have, where it was stopped before.
                Err(problem) if problem.status == 409 => {}
                // An older coordinator doesn't know the question, or nobody was there to be asked. The others end all the same.
                Err(problem) => failed = Some((id.clone(), problem.detail)),
            }
            above.push(id);
        }
    }
    match failed {
        None => Ok(count),
        Some((id, why)) => {
            let detail = format!("{stopped} has ended, and {count} within it; {id} may go on: {why}; ask for it again");
            Err(Problem::new(503, &code::TXN_JOURNAL, detail))
        }
    }
}

/// Waits until the saga below moves, and says what the call comes to by then.
async fn wait(coordinator: &Arc<Coordinator>, id: &Text, own: &Parent, order: &Order) -> Outcome {
    let left = order.until.as_millis().saturating_sub(coordinator.now().as_millis());
    let patience = PATIENCE.min(Duration::from_millis(left));
    let sight = match coordinator.settled(id, patience).await {
        Ok(sight) => sight,
        Err(problem) => return Outcome::Unknown { reason: problem.detail.into(), after: Some(LATER), over: true },
    };
    match nested::next(order.op, own, Some(&sight.state), late::answers) {
        Next::Over(outcome) => outcome,
        Next::Wait { stuck } => nested::ongoing(stuck),
        Next::Begin | Next::Bury | Next::Ask(_) => nested::ongoing(false),
    }
}

/// The saga that a branch is, with its input worked out.
fn begin(
    coordinator: &Coordinator,
    state: &Standing,
    branch: &Branch,
    child: &Child,
    own: &Parent,
) -> Result<Spec, Problem> {
    let now = coordinator.now();
    let mut spec = match child {
        Child::Given { spec, span_ms } => {
            let deadline = span_ms.map(|span| now + Duration::from_millis(span));
            Spec { created: now, deadline, ..(**spec).clone() }
        }
        Child::Defined { definition: name, input, late: expression } => {
            let malformed = |error: byrnie_model::expr::Error| Problem::malformed(error.to_string());
            let input: Value = match (expression, input) {
                (Some(expression), _) => late::worked_out(state, expression).map_err(malformed)?,
                (None, Some(input)) => serde_json::from_str(input).unwrap_or_default(),
                (None, None) => Value::Null,
            };
            let (namespace, own) = saga::named(name, "default");
            let found = definition::find(coordinator, namespace, own)?;
            let caller = caller(&state.spec.creator)?;
            definition::compose(&found, (namespace, own), &input, Text::default(), &caller, now)?
        }
    };
    // What is past its deadline is taken back, if there is a way back: so it needs none of its own beyond that.
    let bound = state.pivot_is_done() || branch.must_answer();
    if let Some(deadline) = state.spec.deadline.filter(|_| !bound) {
        spec.deadline = Some(spec.deadline.map_or(deadline, |own| own.min(deadline)));
    }
    spec.parent = Some(own.clone());
    judge(coordinator, &mut spec)?;
    if branch.undo.is_some() && !nested::can_be_undone(&spec.branches) {
        let detail = format!("saga {} can't be taken back any more, as {} counts on", spec.definition, own.id);
        return Err(Problem::malformed(detail));
    }
    Ok(spec)
}

/// Who began the saga above, and so this one.
fn caller(creator: &Text) -> Result<Caller, Problem> {
    if **creator == *OPERATOR {
        return Ok(Caller::Operator);
    }
    Identity::parse(creator).map(Caller::Workload).map_err(|_| Problem::malformed(format!("{creator} is no identity")))
}
