// SPDX-License-Identifier: Apache-2.0
//! Arguments of the form `key=value`.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// What a tool was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words(BTreeMap<String, String>);

impl Words {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let pair = |arg: &String| match arg.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => bail!("`{arg}` isn't KEY=VALUE"),
        };
        args.iter().map(pair).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value of `key`, or `other` if it's absent.
    pub(crate) fn number<T: FromStr>(&self, key: &str, other: T) -> Result<T>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.text(key).map_or(Ok(other), |value| value.parse().with_context(|| format!("{key}={value}")))
    }

    /// Whether `key=1`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.text(key) == Some("1")
    }

    /// A path that must be there.
    pub(crate) fn path(&self, key: &str) -> Result<PathBuf> {
        self.text(key).map(PathBuf::from).with_context(|| format!("{key}= is missing"))
    }

    /// Addresses, one or more, separated by commas.
    pub(crate) fn addresses(&self, key: &str) -> Result<Vec<SocketAddr>> {
        let text = self.text(key).with_context(|| format!("{key}= is missing"))?;
        text.split(',').map(|one| one.parse().with_context(|| format!("{key}={one}"))).collect()
    }

    /// One address.
    pub(crate) fn address(&self, key: &str) -> Result<SocketAddr> {
        self.addresses(key)?.first().copied().with_context(|| format!("{key}= is empty"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_pairs() {
        let words = Words::parse(&["a=1".to_owned(), "b=127.0.0.1:1,127.0.0.2:1".to_owned()]).unwrap();
        assert_eq!(words.number("a", 5).unwrap(), 1);
        assert_eq!(words.number("c", 5).unwrap(), 5);
        assert_eq!(words.addresses("b").unwrap().len(), 2);
        assert!(words.flag("a") && !words.flag("b"));
        assert!(Words::parse(&["a".to_owned()]).is_err());
    }
}
