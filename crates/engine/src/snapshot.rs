// SPDX-License-Identifier: Apache-2.0
//! Everything a core needs to decide, at one revision. Immutable: made by the compiler on the agent's
//! thread, handed to each core, which swaps it between two events; running exchanges end on the one
//! they began with. Unchanged services share their subtree with the snapshot before.

use crate::Node;
use crate::authorize::Access;
use crate::cluster::{Cluster, Member};
use crate::compress::Compress;
use crate::edge::Served;
use crate::keyed::Protection;
use crate::probe::{Checked, Probe};
use crate::program::Program;
use crate::quota::Counted;
use crate::reporting::Reporting;
use crate::route::Table;
use crate::slot::Slot;
use crate::watch::Watched;
use byrnie_base::Text;
use byrnie_base::hash::BuildQuick;
use byrnie_base::share::Line;
use byrnie_model::gateway;
use byrnie_model::outside::is_pattern;
use byrnie_model::range::Range;
use byrnie_model::resource::DefaultAccess;
use byrnie_model::telemetry::{Otlp, Share};
use byrnie_model::{Protocol, Revision, ServiceRef};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Everything a core needs, at one revision.
///
/// A core that clones the value (not the `Arc`) once after each swap has reference counts of its own,
/// which no other core touches.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) revision: Revision,
    pub(crate) node: Arc<Node>,
    pub(crate) mesh: MeshDefaults,
    /// By namespace, then by name.
    pub(crate) services: Names<Arc<Names<Arc<Subtree>>>>,
    /// By slot.
    pub(crate) clusters: Vec<Option<Arc<Cluster>>>,
    /// How the own program is checked, as the workload itself says.
    pub(crate) check: Option<Arc<(ServiceRef, Probe)>>,
    /// Services outside the mesh, by the name of their host.
    pub(crate) outside: Arc<BTreeMap<Text, BTreeSet<ServiceRef>>>,
    /// Other meshes, by name, whose identities are believed here.
    pub(crate) sites: Arc<BTreeMap<Text, Arc<byrnie_model::Site>>>,
    /// What other sites may reach: by this node, if it's a gateway, or else of what its program serves.
    pub(crate) exports: Arc<BTreeSet<ServiceRef>>,
    /// Where requests enter from outside.
    pub(crate) edge: Arc<crate::edge::Edge>,
    pub(crate) words: Words,
    /// When a call of this workload was last given up after retries, over all cores: see `exchange`.
    pub(crate) spent: Arc<Line>,
}

/// By a name from configuration.
pub(crate) type Names<V> = HashMap<Text, V, BuildQuick>;

/// What the Mesh resource says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshDefaults {
    pub(crate) default_access: DefaultAccess,
    /// Where traces and metrics are sent.
    pub(crate) otlp: Option<Arc<Otlp>>,
    /// Which traces that begin here are sent; `None` if none are.
    pub(crate) traces: Option<Share>,
}

/// Texts that many verdicts share.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    /// Nothing.
    pub(crate) none: Text,
    /// `default`: no route, or no access rule, decided.
    pub(crate) default: Text,
    /// A caller or service that can't be named.
    pub(crate) unknown: Text,
    /// This node as a caller: `ACCOUNT.NAMESPACE`.
    pub(crate) own: Text,
}

/// What a program is asked by its own proxy, beside calls.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// How it's checked, if a policy says so.
    pub(crate) probe: Option<Box<Probe>>,
    /// Where it's asked for reports of its load, if a policy says so.
    pub(crate) reporting: Option<Box<Reporting>>,
}

/// One service, compiled.
#[derive(Debug)]
pub(crate) struct Subtree {
    pub(crate) service: ServiceRef,
    /// `NAME.NAMESPACE`.
    pub(crate) label: Text,
    pub(crate) ports: Box<[Port]>,
    /// No policy lets this node call it: it's known by its name alone, or as it's served here.
    pub(crate) closed: bool,
    /// Who may call it; `None` unless this node serves it.
    pub(crate) access: Option<Access>,
    /// How requests under an idempotency key are protected.
    pub(crate) protection: Option<Arc<Protection>>,
    /// Which answers are compressed, if this node serves it and a policy says so.
    pub(crate) compress: Option<Box<Compress>>,
    /// How many requests the own program is asked for; empty unless this node serves it.
    pub(crate) quotas: Arc<[Counted]>,
    /// What the own program is asked of itself, if it serves this.
    pub(crate) asked: Asked,
    /// Which addresses of slices are checked, if this node leads there and a policy says so.
    pub(crate) checked: Box<[Checked]>,
    /// How the host outside is checked, if this node leads there and a policy says so.
    pub(crate) watched: Option<Box<Watched>>,
    /// The cluster by which routes name it whatever its ports, if it stands for a pool.
    pub(crate) front: Option<Slot>,
}

/// One port of a service.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    pub(crate) cluster: Slot,
    pub(crate) table: Table,
    /// Who answers for it, if this node serves it.
    pub(crate) program: Option<Program>,
}

impl Snapshot {
    /// The revision of the configuration.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whose snapshot this is.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Other meshes, by name, whose identities are believed here.
    pub fn sites(&self) -> &Arc<BTreeMap<Text, Arc<byrnie_model::Site>>> {
        &self.sites
    }

    /// Where traces and metrics are sent, if they are.
    pub fn otlp(&self) -> Option<&Arc<Otlp>> {
        self.mesh.otlp.as_ref()
    }

    /// Services in view, in no order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceRef> {
        self.services.values().flat_map(|names| names.values()).map(|subtree| &subtree.service)
    }

    /// Ports of a service, with what is spoken there.
    pub fn ports(&self, service: &ServiceRef) -> impl Iterator<Item = (u16, Protocol)> {
        let ports = self.subtree(&service.namespace, &service.name).map(|subtree| &*subtree.ports);
        ports.unwrap_or_default().iter().map(|port| (port.number, port.protocol))
    }

    /// Whether connections to a service port are told apart by the host that their TLS asks for: then it has to be known
    /// before one is begun.
    pub fn asks_for_hosts(&self, service: &ServiceRef, port: u16) -> bool {
        let port = self.port(service, port).map(|(_, port)| port);
        port.is_some_and(|port| !port.protocol.is_http() && port.table.asks_for_hosts())
    }

    /// What is served at the ports that gateways name.
    pub fn gates(&self) -> &Arc<BTreeMap<gateway::Port, Served>> {
        &self.edge.ports
    }

    /// By port that gateways name, the balancers that alone may connect to it, and begin by saying for whom. To a port
    /// that isn't here anybody may connect.
    pub fn balancers(&self) -> &BTreeMap<u16, Vec<Range>> {
        &self.edge.balancers
    }

    /// How the own program is checked, by what asks for it: a service, or the workload itself.
    pub fn probes(&self) -> impl Iterator<Item = (&ServiceRef, &Probe)> {
        let all = self.services.values().flat_map(|names| names.values());
        let by_service = all.filter_map(|subtree| Some((&subtree.service, subtree.asked.probe.as_deref()?)));
        by_service.chain(self.check.iter().map(|check| (&check.0, &check.1)))
    }

    /// Where the own program is asked for reports of its load, by the service whose policy says so.
    pub fn reporting(&self) -> impl Iterator<Item = (&ServiceRef, &Reporting)> {
        let all = self.services.values().flat_map(|names| names.values());
        all.filter_map(|subtree| Some((&subtree.service, subtree.asked.reporting.as_deref()?)))
    }

    /// Addresses of slices that are to be checked by this node, in no order.
    pub fn checked(&self) -> impl Iterator<Item = (&ServiceRef, &Checked)> {
        let all = self.services.values().flat_map(|names| names.values());
        all.flat_map(|tree| tree.checked.iter().map(|one| (&tree.service, one)))
    }

    /// Hosts outside that are to be checked by this node, in no order.
    pub fn watched(&self) -> impl Iterator<Item = (&ServiceRef, &Watched)> {
        let all = self.services.values().flat_map(|names| names.values());
        all.filter_map(|tree| Some((&tree.service, tree.watched.as_deref()?)))
    }

    /// Hosts outside to which this node leads, one by one.
    pub fn hosts(&self) -> impl Iterator<Item = &Text> {
        let leads = self.node.is_exit();
        self.outside.keys().filter(move |host| leads && !is_pattern(host))
    }

    /// Services that this node serves itself, as (service, port, who answers).
    pub fn served(&self) -> impl Iterator<Item = (&ServiceRef, u16, &Program)> {
        let all = self.services.values().flat_map(|names| names.values());
        all.flat_map(|tree| tree.ports.iter().filter_map(move |p| Some((&tree.service, p.number, p.program.as_ref()?))))
    }

    /// The protocol that the program behind (service, port) speaks, if this node serves it.
    pub fn served_protocol(&self, service: &ServiceRef, port: u16) -> Option<Protocol> {
        let port = self.port(service, port)?.1;
        port.program.as_ref().map(|_| port.protocol)
    }

    /// The compiled groups of endpoints, in no order.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter().flatten()
    }

    /// Services that this node serves itself, each by one of the groups that count what its program has under way.
    pub fn programs(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let all = self.services.values().flat_map(|names| names.values());
        let served = all.filter_map(|tree| tree.ports.iter().find(|port| port.program.is_some()));
        served.filter_map(|port| self.cluster(port.cluster))
    }

    /// The healthy endpoints of a service.
    pub fn endpoints(&self, service: &ServiceRef) -> &[Arc<Member>] {
        let tree = self.subtree(&service.namespace, &service.name);
        let cluster = tree.and_then(|tree| self.cluster(tree.ports.first()?.cluster));
        cluster.map_or(&[], |cluster| cluster.members())
    }

    /// The service port that an authority names, as the forward proxy reads it: `NAME`, `NAME.NAMESPACE`,
    /// `NAME.NAMESPACE.mesh`, or a host outside that a service stands for, with port 80 unless it has one. For CONNECT, and for answering names.
    pub fn find(&self, host: &str, port: Option<u16>) -> Option<(&ServiceRef, u16)> {
        let (tree, port) = crate::resolve::resolve(self, &crate::Direction::Forward, || (host, port)).ok()?;
        Some((&tree.service, port.number))
    }

    pub(crate) fn subtree(&self, namespace: &str, name: &str) -> Option<&Arc<Subtree>> {
        self.services.get(namespace)?.get(name)
    }

    pub(crate) fn port(&self, service: &ServiceRef, port: u16) -> Option<(&Arc<Subtree>, &Port)> {
        let tree = self.subtree(&service.namespace, &service.name)?;
        Some((tree, tree.port(port)?))
    }

    pub(crate) fn cluster(&self, slot: Slot) -> Option<&Arc<Cluster>> {
        let cluster = self.clusters.get(slot.index as usize)?.as_ref()?;
        Some(cluster).filter(|cluster| cluster.slot == slot)
    }

    pub(crate) fn default_allows(&self) -> bool {
        self.mesh.default_access == DefaultAccess::Allow
    }
}

impl Subtree {
    pub(crate) fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The port that an edge means when the host names none of the service's own: 80, or else the first
    /// that speaks HTTP.
    pub(crate) fn main_port(&self) -> Option<&Port> {
        self.port(80)
            .filter(|port| port.protocol.is_http())
            .or_else(|| self.ports.iter().find(|p| p.protocol.is_http()))
    }
}
