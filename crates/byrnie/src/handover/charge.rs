// SPDX-License-Identifier: Apache-2.0
//! What a proxy is to be, in a form that goes to another process. Keys aren't in it: they lie in the workload's own state
//! directory, where the next process of that workload finds them.

use crate::failure::Failure;
use crate::globals::Globals;
use crate::join;
use byrnie_base::Text;
use byrnie_model::{Identity, Key, Kind, Resource, Revision, Spec, code, yaml};
use byrnie_proxy::{AccessLog, Config, Control, Gateway, Hop, Mount, Sidecar, Source, Users};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a proxy is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Charge {
    /// Its name.
    pub name: String,
    namespace: String,
    identity: String,
    stands: Stands,
    control: Plane,
    state_dir: PathBuf,
    admin: Admin,
    workers: usize,
    access_log: Log,
    hop_http1: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plane {
    address: SocketAddr,
    roots_pem: String,
    identity: String,
    patience_millis: u64,
    keep_view: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Admin {
    address: SocketAddr,
    token: Option<String>,
    strict_ports: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Stands {
    #[serde(rename_all = "camelCase")]
    Beside {
        /// The workload as a resource.
        workload: Value,
        service: String,
        inbound: SocketAddr,
        forward: Option<SocketAddr>,
        forward_for_own: bool,
    },
    AtEdge(SocketAddr),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Log {
    Off,
    Stdout,
    File(PathBuf),
}

impl Charge {
    /// The charge of a proxy that is configured so; `None` for one that has no control plane.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let Source::Control(control) = &config.source else { return None };
        let stands = match &config.mount {
            Mount::Gateway(gateway) => Stands::AtEdge(gateway.edge),
            Mount::Sidecar(sidecar) => {
                let workload = Resource {
                    key: Key::new(Kind::Workload, config.namespace.clone(), config.name.clone()),
                    revision: Revision(0),
                    created: Revision(0),
                    labels: sidecar.labels.clone(),
                    origin: None,
                    spec: Spec::Workload(Box::new(sidecar.workload.clone())),
                };
                Stands::Beside {
                    workload: yaml::to_json(&workload),
                    service: sidecar.service.to_string(),
                    inbound: sidecar.inbound,
                    forward: sidecar.forward,
                    forward_for_own: sidecar.forward_for == Users::Own,
                }
            }
        };
        Some(Self {
            name: config.name.to_string(),
            namespace: config.namespace.to_string(),
            identity: config.identity.to_string(),
            stands,
            control: Plane {
                address: control.address.now(),
                roots_pem: control.roots_pem.clone(),
                identity: control.identity.to_string(),
                patience_millis: super::millis(control.patience),
                keep_view: control.keep_view,
            },
            state_dir: config.state_dir.clone(),
            admin: Admin {
                address: config.admin,
                token: config.admin_token.as_ref().map(ToString::to_string),
                strict_ports: config.strict_ports,
            },
            workers: config.workers,
            access_log: match &config.access_log {
                AccessLog::Off => Log::Off,
                AccessLog::Stdout => Log::Stdout,
                AccessLog::File(path) => Log::File(path.clone()),
            },
            hop_http1: config.hop == Hop::Http1,
        })
    }

    /// The configuration of such a proxy, of the mesh that `globals` lead to.
    ///
    /// # Errors
    /// If it makes no sense to this version.
    pub(crate) fn config(self, globals: &Globals) -> Result<Config, Failure> {
        let unfit = |what: String| Failure::new(code::HAND_OVER.id, what).next(code::HAND_OVER.next);
        let identity = |text: &str| Identity::parse(text).map_err(|error| unfit(error.to_string()));
        let own = identity(&self.identity)?;
        let mount = match self.stands {
            Stands::AtEdge(edge) => Mount::Gateway(Gateway { edge }),
            Stands::Beside { workload, service, inbound, forward, forward_for_own } => {
                let defaults = yaml::Defaults {
                    namespace: self.namespace.as_str().into(),
                    trust_domain: own.trust_domain().clone(),
                };
                let read = yaml::from_json(&workload, &defaults);
                let Ok(Resource { labels, spec: Spec::Workload(workload), .. }) = read else {
                    return Err(unfit("the workload is of a form that this version does not know".to_owned()));
                };
                let forward_for = if forward_for_own { Users::Own } else { Users::Any };
                let (workload, service) = (*workload, service.into());
                Mount::Sidecar(Box::new(Sidecar {
                    workload,
                    labels,
                    service,
                    inbound,
                    forward,
                    forward_for,
                    listening: None,
                }))
            }
        };
        let source = Source::Control(Box::new(Control {
            address: join::address(globals, self.control.address),
            roots_pem: self.control.roots_pem,
            identity: identity(&self.control.identity)?,
            tokens: Some(join::tokens(globals, &own, None)),
            patience: Duration::from_millis(self.control.patience_millis),
            keep_view: self.control.keep_view,
        }));
        Ok(Config {
            namespace: self.namespace.into(),
            name: self.name.into(),
            identity: own,
            mount,
            source,
            state_dir: self.state_dir,
            admin: self.admin.address,
            admin_token: self.admin.token.map(Text::from),
            strict_ports: self.admin.strict_ports,
            workers: self.workers,
            access_log: match self.access_log {
                Log::Off => AccessLog::Off,
                Log::Stdout => AccessLog::Stdout,
                Log::File(path) => AccessLog::File(path),
            },
            hop: if self.hop_http1 { Hop::Http1 } else { Hop::Framed },
        })
    }
}
