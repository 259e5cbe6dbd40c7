// SPDX-License-Identifier: Apache-2.0
//! Who answers what is asked of this node: the program beside it or, where calls leave the mesh, a host outside.
//! Made by `compile`, carried by plans. Nothing here decides.

use crate::watch::Watch;
use byrnie_base::Text;
use byrnie_codec::headers::strip_internal;
use byrnie_codec::{Head, Known};
use byrnie_model::gateway::host_fits;
use byrnie_model::outside::{AltName, is_pattern};
use byrnie_model::{Key, Secret};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Who answers for a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The program beside the proxy, which listens here.
    Beside(SocketAddr),
    /// A host outside the mesh.
    Outside(Arc<Outside>),
}

/// A host outside the mesh.
#[derive(Debug, PartialEq, Eq)]
pub struct Outside {
    /// Its name, its address, or a pattern `*.DOMAIN` for hosts of which the caller names one.
    pub host: Text,
    /// Its port.
    pub port: u16,
    /// How connections to it are protected.
    pub security: Security,
    /// How its health bears on calls, if it's checked.
    pub(crate) watch: Option<Watch>,
}

/// How connections to a host outside are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not by the mesh.
    Plain,
    /// By TLS, with a check of who is there.
    Tls(Arc<Verify>),
    /// A policy asks for TLS, but can't be followed, for this reason: nothing may be sent.
    Broken(Text),
}

/// Who must be found at a host outside.
#[derive(Debug, PartialEq, Eq)]
pub struct Verify {
    /// What is asked for in the handshake.
    pub hostname: Text,
    /// The certificate must be for one of these. Never empty.
    pub names: Vec<AltName>,
    /// Certificates of those whose word counts, PEM; `None` means whom the system trusts.
    pub roots: Option<Text>,
    /// What is shown to a host that asks who calls, and the name of the Secret that it's in.
    pub certificate: Option<(Key, Arc<Secret>)>,
}

impl Outside {
    /// Whether it stands for many hosts.
    pub fn is_pattern(&self) -> bool {
        is_pattern(&self.host)
    }

    /// `HOST:PORT`.
    pub(crate) fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).to_string(),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    /// The very host that a caller names, if it's one of those that this stands for.
    pub fn of(&self, host: &str) -> Option<Self> {
        let fits = host_fits(Some(&self.host), host) && host.parse::<IpAddr>().is_err();
        let host = Text::from(host.to_ascii_lowercase());
        fits.then(|| Self { host, port: self.port, security: self.security.clone(), watch: None })
    }

    /// Leaves those of its addresses that may be asked, as far as checks know.
    pub fn choose(&self, addresses: &mut Vec<SocketAddr>) {
        if let Some(watch) = &self.watch {
            watch.choose(addresses);
        }
    }
}

impl Program {
    /// Who answers for `host`, where a program stands for many; an error if that's none of them.
    pub(crate) fn named<'h>(&self, host: impl FnOnce() -> &'h str) -> Result<Self, String> {
        match self {
            Self::Outside(outside) if outside.is_pattern() => {
                let host = host();
                match outside.of(host) {
                    Some(one) => Ok(Self::Outside(Arc::new(one))),
                    None => Err(format!("it stands for {}, and \"{host}\" is none of these", outside.host)),
                }
            }
            Self::Outside(_) | Self::Beside(_) => Ok(self.clone()),
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Beside(address) => address.port(),
            Self::Outside(outside) => outside.port,
        }
    }

    /// Where the program beside the proxy listens; `None` for a host outside.
    pub fn beside(&self) -> Option<SocketAddr> {
        match self {
            Self::Beside(address) => Some(*address),
            Self::Outside(_) => None,
        }
    }

    /// Why there is no use in asking it, if its checks say so.
    pub(crate) fn sick(&self) -> Option<String> {
        match self {
            Self::Outside(outside) if outside.watch.as_ref().is_some_and(Watch::is_sick) => {
                Some(format!("no address of {} passes its health check", outside.host))
            }
            Self::Outside(_) | Self::Beside(_) => None,
        }
    }

    /// Why nothing may be sent to it, if so.
    pub(crate) fn broken(&self) -> Option<&Text> {
        match self {
            Self::Outside(outside) => match &outside.security {
                Security::Broken(why) => Some(why),
                Security::Plain | Security::Tls(_) => None,
            },
            Self::Beside(_) => None,
        }
    }

    /// Takes out of a request what is for proxies alone, and what is for the mesh alone, if it leaves it.
    pub(crate) fn strip(&self, head: &mut Head) {
        match self {
            Self::Beside(_) => {
                head.remove_known(Known::ByrnieNewcomer);
                head.remove_known(Known::ByrnieSession);
            }
            Self::Outside(_) => strip_internal(head),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beside(address) => write!(f, "the program at {address}"),
            Self::Outside(outside) => {
                write!(f, "{} outside the mesh", outside.authority())?;
                match &outside.security {
                    Security::Plain => Ok(()),
                    Security::Tls(verify) => {
                        let names: Vec<String> = verify.names.iter().map(AltName::to_string).collect();
                        write!(f, " (TLS, verified as {}", names.join(" or "))?;
                        match &verify.certificate {
                            Some((key, _)) => write!(f, ", shown {key})"),
                            None => f.write_str(")"),
                        }
                    }
                    Security::Broken(why) => write!(f, " (no TLS: {why})"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::head;

    #[test]
    fn the_program_is_not_told_what_proxies_tell_each_other_of_its_callers() {
        let lines = [("x-byrnie-newcomer", "1"), ("x-byrnie-session", "7"), ("x-byrnie-criticality", "sheddable")];
        let mut request = head("GET", "web/", &lines);
        Program::Beside(([127, 0, 0, 1], 80).into()).strip(&mut request);
        assert_eq!((request.get("x-byrnie-newcomer"), request.get("x-byrnie-session")), (None, None));
        assert_eq!(request.get("x-byrnie-criticality"), Some(&b"sheddable"[..]));
    }
}
