// SPDX-License-Identifier: Apache-2.0
//! The order of branches: which come before which, that there is no circle, and where the way back ends.

use crate::transaction::{BRANCHES_MAX, Branch, Mode, Spec};
use byrnie_base::Text;

/// Why a plan can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is nothing to do.
    #[error("it has no branch")]
    Empty,
    /// There is too much to do.
    #[error("it has {0} branches; {BRANCHES_MAX} is the most")]
    TooMany(usize),
    /// A name that isn't one.
    #[error("branch {0:?}: a name is 1 to 63 letters, digits, '-' and '_'")]
    Name(Text),
    /// Two branches of one name.
    #[error("two branches are called {0}")]
    Twice(Text),
    /// A branch comes after one that isn't there.
    #[error("branch {0} comes after a branch that does not exist")]
    Unknown(Text),
    /// Branches wait for each other.
    #[error("branch {0} waits for itself, by way of others")]
    Circle(Text),
    /// A branch has nothing to call.
    #[error("branch {0} has nothing to call")]
    Idle(Text),
    /// Two pivots.
    #[error("branches {0} and {1} are both pivots; a saga has one point of no return")]
    Pivots(Text, Text),
    /// A branch whose order to the pivot is open.
    #[error("branch {0} may run beside the pivot {1}; let one of them come after the other")]
    Beside(Text, Text),
    /// A branch that can't be taken back, before the point of no return.
    #[error(
        "branch {0} has no compensation, and others may fail after it; give it one, say \"none\" if it changes nothing, or make it the pivot"
    )]
    NoWayBack(Text),
}

/// Longest name of a branch, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Judges a whole transaction.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(spec: &Spec) -> Result<(), Error> {
    if spec.branches.is_empty() && !(spec.open && spec.mode.enlists()) {
        return Err(Error::Empty);
    }
    if spec.branches.len() > BRANCHES_MAX {
        return Err(Error::TooMany(spec.branches.len()));
    }
    for (at, branch) in spec.branches.iter().enumerate() {
        check_branch(&spec.branches[..at], branch)?;
        if branch.after.iter().any(|before| usize::from(*before) >= spec.branches.len()) {
            return Err(Error::Unknown(branch.name.clone()));
        }
    }
    let before = closure(&spec.branches)?;
    check_pivot(&spec.branches, &before)
}

/// Judges one branch beside those that are there already.
///
/// # Errors
/// What is wrong with it.
pub fn check_branch(others: &[Branch], branch: &Branch) -> Result<(), Error> {
    let named = (1..=NAME_BYTES_MAX).contains(&branch.name.len())
        && branch.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !named {
        return Err(Error::Name(branch.name.clone()));
    }
    if others.iter().any(|other| other.name == branch.name) {
        return Err(Error::Twice(branch.name.clone()));
    }
    if branch.action.is_none() && branch.confirm.is_none() && branch.undo.is_none() && !branch.free {
        return Err(Error::Idle(branch.name.clone()));
    }
    Ok(())
}

/// For each branch, all that come before it, directly or not.
fn closure(branches: &[Branch]) -> Result<Vec<Vec<bool>>, Error> {
    let count = branches.len();
    let mut before = vec![vec![false; count]; count];
    let mut placed = vec![false; count];
    // One more branch has all its predecessors placed in each round; a round without one is a circle.
    for _ in 0..count {
        let ready = |at: &usize| !placed[*at] && branches[*at].after.iter().all(|b| placed[usize::from(*b)]);
        let Some(next) = (0..count).find(ready) else { break };
        placed[next] = true;
        for direct in &branches[next].after {
            let direct = usize::from(*direct);
            let (earlier, own) = if direct < next {
                let (low, high) = before.split_at_mut(next);
                (&low[direct], &mut high[0])
            } else {
                let (low, high) = before.split_at_mut(direct);
                (&high[0], &mut low[next])
            };
            for (own, earlier) in own.iter_mut().zip(earlier) {
                *own |= earlier;
            }
            own[direct] = true;
        }
    }
    match placed.iter().position(|placed| !placed) {
        Some(circle) => Err(Error::Circle(branches[circle].name.clone())),
        None => Ok(before),
    }
}

fn check_pivot(branches: &[Branch], before: &[Vec<bool>]) -> Result<(), Error> {
    let mut pivots = branches.iter().enumerate().filter(|(_, branch)| branch.pivot);
    let Some((pivot, first)) = pivots.next() else { return Ok(()) };
    if let Some((_, second)) = pivots.next() {
        return Err(Error::Pivots(first.name.clone(), second.name.clone()));
    }
    for (at, branch) in branches.iter().enumerate().filter(|(at, _)| *at != pivot) {
        if !before[at][pivot] && !before[pivot][at] {
            return Err(Error::Beside(branch.name.clone(), first.name.clone()));
        }
    }
    Ok(())
}

/// Whether a saga could end with something done that nobody can take back: a branch without compensation
/// that others may follow and fail, and that isn't at or after the pivot.
///
/// # Errors
/// The first such branch.
pub fn check_way_back(spec: &Spec) -> Result<(), Error> {
    if spec.mode != Mode::Saga {
        return Ok(());
    }
    let before = closure(&spec.branches)?;
    let pivot = spec.branches.iter().position(|branch| branch.pivot);
    for (at, branch) in spec.branches.iter().enumerate() {
        let final_part = pivot.is_some_and(|pivot| at == pivot || before[at][pivot]);
        // The last of all may lack it: nothing can fail once it is done.
        let last = (0..spec.branches.len()).all(|other| other == at || before[at][other]);
        if branch.undo.is_none() && !branch.free && !final_part && !last {
            return Err(Error::NoWayBack(branch.name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
