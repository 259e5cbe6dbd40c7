// SPDX-License-Identifier: Apache-2.0
//! Join tokens: each lets its holder ask for one identity, a number of times, for a while. The store
//! keeps a digest of the secret only, so that whoever reads the store can't join.

use crate::State;
use byrnie_base::{Text, Timestamp};
use byrnie_model::Identity;
use byrnie_net::tls::secret;
use byrnie_store::{Expect, Txn};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where tokens are kept, by their id.
pub const TOKENS: &str = "/tokens/";
/// What every token begins with, so that one that was published by mistake can be found.
pub const PREFIX: &str = "byrnie-join-";
/// Longest life of a token.
pub const LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most uses of a token.
pub const USES_MAX: u32 = 10_000;
/// Most tokens at once.
pub const TOKENS_MAX: usize = 10_000;
/// Bytes of the id inside a token, before hexadecimal.
const ID_BYTES: usize = 8;
/// How often a use is tried when others use the same token at the same moment.
const TRIES_MAX: usize = 20;

/// A token, shown once.
pub struct Token(String);

impl Token {
    /// The text to hand to the workload. Whoever takes it must not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What it's called in lists and in the audit.
    pub id: Text,
    /// Who its holder may become.
    pub identity: Identity,
    /// Until when.
    pub expires: Timestamp,
    /// How often still.
    pub uses_left: u32,
    /// Who made it.
    pub made_by: Text,
}

/// Why a token can't be made or isn't accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It's malformed, unknown, used up, or expired. Which of these isn't told to whoever asks.
    #[error("the join token is not valid (unknown, used up or expired); make another with `byrnie token create`")]
    Refused,
    /// A life or number of uses outside its limits, or too many tokens.
    #[error("{0}")]
    Limit(&'static str),
    /// No randomness.
    #[error(transparent)]
    Crypto(#[from] byrnie_net::tls::Error),
    /// The store doesn't answer.
    #[error(transparent)]
    Store(#[from] byrnie_store::Error),
}

/// What is kept of a token.
#[derive(Serialize, Deserialize)]
struct Stored {
    grant: Grant,
    /// SHA-256 of the whole token, in hexadecimal.
    digest: String,
}

/// Makes a token for `identity` that holds for `life` and `uses` times.
///
/// # Errors
/// If a limit is exceeded or the store refuses.
pub async fn create(
    state: &State,
    identity: Identity,
    life: Duration,
    uses: u32,
    made_by: &str,
) -> Result<(Token, Grant), Error> {
    if life.is_zero() || life > LIFE_MAX {
        return Err(Error::Limit("a join token holds for at least a moment and at most 7 days"));
    }
    if uses == 0 || uses > USES_MAX {
        return Err(Error::Limit("a join token holds for 1 to 10000 uses"));
    }
    let now = state.now().wall;
    let kept = sweep(state, now).await?;
    if kept >= TOKENS_MAX {
        return Err(Error::Limit("there are 10000 join tokens already; wait until some have expired"));
    }
    let id = hex(&secret::random()?[..ID_BYTES]);
    let text = format!("{PREFIX}{id}-{}", hex(&secret::random()?));
    let grant =
        Grant { id: id.as_str().into(), identity, expires: now + life, uses_left: uses, made_by: made_by.into() };
    let digest = hex(&secret::sha256(text.as_bytes()));
    let key = format!("{TOKENS}{id}");
    let value = write(&Stored { grant: grant.clone(), digest });
    state.store.commit(Txn::new().expect(key.clone(), Expect::Absent).put(key, value)).await?;
    Ok((Token(text), grant))
}

/// Every token that still holds, by id.
///
/// # Errors
/// If the store doesn't answer.
pub async fn list(state: &State) -> Result<Vec<Grant>, byrnie_store::Error> {
    let now = state.now().wall;
    let (entries, _) = state.store.list(TOKENS).await?;
    let stored = entries.iter().filter_map(|entry| serde_json::from_slice::<Stored>(&entry.value).ok());
    Ok(stored.map(|stored| stored.grant).filter(|grant| grant.expires > now && grant.uses_left > 0).collect())
}

/// Uses a token once.
///
/// # Errors
/// If it isn't valid, or the store doesn't answer.
pub(crate) async fn redeem(state: &State, text: &str) -> Result<Grant, Error> {
    let id = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(id, _)| id);
    let id = id.filter(|id| id.len() == 2 * ID_BYTES && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let key = format!("{TOKENS}{}", id.ok_or(Error::Refused)?);
    let digest = hex(&secret::sha256(text.as_bytes()));
    for _ in 0..TRIES_MAX {
        let entry = state.store.get(&key).await?.ok_or(Error::Refused)?;
        let mut stored: Stored = serde_json::from_slice(&entry.value).map_err(|_| Error::Refused)?;
        let fits = secret::equal(stored.digest.as_bytes(), digest.as_bytes());
        if !fits || stored.grant.expires <= state.now().wall || stored.grant.uses_left == 0 {
            return Err(Error::Refused);
        }
        stored.grant.uses_left -= 1;
        let txn = Txn::new().expect(key.clone(), Expect::At(entry.modified));
        let txn =
            if stored.grant.uses_left == 0 { txn.delete(key.clone()) } else { txn.put(key.clone(), write(&stored)) };
        match state.store.commit(txn).await {
            Ok(_) => return Ok(stored.grant),
            Err(byrnie_store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Store(byrnie_store::Error::Busy))
}

/// Removes tokens that have expired. Returns how many are left.
async fn sweep(state: &State, now: Timestamp) -> Result<usize, byrnie_store::Error> {
    let (entries, _) = state.store.list(TOKENS).await?;
    let over =
        |value: &[u8]| serde_json::from_slice::<Stored>(value).map_or(true, |stored| stored.grant.expires <= now);
    let (gone, kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| over(&entry.value));
    let gone = gone.into_iter().take(byrnie_store::store::TXN_WRITES_MAX);
    let txn = gone.fold(Txn::new(), |txn, entry| txn.delete(entry.key));
    if !txn.is_empty() {
        state.store.commit(txn).await?;
    }
    Ok(kept.len())
}

fn write(stored: &Stored) -> Vec<u8> {
    // Serialising strings and numbers can't fail.
    serde_json::to_vec(stored).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
