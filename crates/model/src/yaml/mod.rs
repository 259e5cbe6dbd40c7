// SPDX-License-Identifier: Apache-2.0
//! Documents in, valid resources or diagnostics out, and back. Strict: what isn't understood or not
//! enforced is refused, never dropped. The command line, the console and the store's readers all pass
//! through here; the data plane never does.

mod access;
mod de;
mod enlist;
mod gateway;
mod idempotency;
mod kinds;
mod mesh;
mod meta;
mod names;
mod node;
mod outside;
mod pool;
mod probe;
mod reader;
mod route;
mod saga;
mod secret;
mod service;
mod site;
mod slice;
mod split;
mod traffic;
mod workload;

pub use names::time_text;

use crate::diagnostic::{Diagnostic, Severity};
use crate::resource::Origin;
use crate::{Key, Kind, Resource, Revision, Spec, code};
use byrnie_base::Text;
use de::Fault;
use node::{DEPTH_MAX, Node, Raw, Span};
use reader::Reader;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) use access::AccessSpec;
pub(crate) use mesh::MeshSpec;
pub(crate) use pool::PoolSpec;
pub(crate) use route::direct::FilterSpec;
pub(crate) use saga::SagaSpec;
pub(crate) use site::SiteSpec;
pub(crate) use traffic::TrafficSpec;
pub(crate) use workload::WorkloadSpec;

/// Largest input: several thousand documents of usual size.
pub const INPUT_BYTES_MAX: usize = 16 << 20;
/// Most documents in one input.
pub const DOCUMENTS_MAX: usize = 10_000;
/// Largest document, measured as canonical JSON (after aliases are expanded), as in etcd.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Most messages about one input; what is beyond is not read.
pub const DIAGNOSTICS_MAX: usize = 1_000;

/// What a document leaves unsaid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Namespace of documents that name none.
    pub namespace: Text,
    /// Trust domain of the identities of workloads.
    pub trust_domain: Text,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { namespace: "default".into(), trust_domain: "mesh.local".into() }
    }
}

/// A resource and the text that it was read from.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it says.
    pub resource: Resource,
    root: Node,
}

/// All that was found in one input.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The valid documents, in order.
    pub documents: Vec<Document>,
    /// What is wrong with the others, and warnings about these.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Whether anything was refused.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Gives diagnostics of whole-mesh checks their line, column and snippet, if they're about a field
    /// of one of these documents. `text` is the input that was parsed.
    pub fn place(&self, text: &str, diagnostics: &mut [Diagnostic]) {
        for diagnostic in diagnostics.iter_mut().filter(|d| d.column == 0) {
            let document = self.documents.iter().find(|d| Some(&d.resource.key) == diagnostic.subject.as_ref());
            let Some(document) = document else { continue };
            let file = document.resource.origin.as_ref().map(|origin| origin.file.clone()).unwrap_or_default();
            set_place(diagnostic, &file, document.root.locate(&diagnostic.path), text);
        }
    }
}

/// Reads every document of a text, YAML or JSON; `file` is its name for messages. Empty documents are
/// passed over. One bad document doesn't hide the others, even if it isn't YAML at all.
pub fn parse(file: &str, text: &str, defaults: &Defaults) -> Parsed {
    let file = Text::from(file);
    let mut parsed = Parsed::default();
    let (roots, faults) = split::roots(text);
    let told = faults.iter().map(|fault| diagnostic(fault, Severity::Error, None, None, &file, text));
    parsed.diagnostics.extend(told);
    let mut lines: BTreeMap<Key, u32> = BTreeMap::new();
    for root in roots {
        if root.value == Raw::Null {
            continue;
        }
        if parsed.diagnostics.len() >= DIAGNOSTICS_MAX {
            let message = format!("more than {DIAGNOSTICS_MAX} messages: the rest of the input was not read");
            let mut fault = Fault::new(&code::TOO_LARGE, "", message);
            fault.span = Some(root.span);
            parsed.diagnostics.push(diagnostic(&fault, Severity::Error, Some(&root), None, &file, text));
            break;
        }
        let mut read = read(&root, defaults);
        for (faults, severity) in [(&read.faults, Severity::Error), (&read.warnings, Severity::Warning)] {
            let told = faults.iter().map(|f| diagnostic(f, severity, Some(&root), read.key.as_ref(), &file, text));
            parsed.diagnostics.extend(told);
        }
        if let Some(mut resource) = read.resource.take() {
            if let Some(line) = lines.get(&resource.key) {
                let message = format!("{} is already described at line {line}", resource.key);
                let fault = Fault::new(&code::DUPLICATE_RESOURCE, "metadata.name", message);
                parsed.diagnostics.push(diagnostic(
                    &fault,
                    Severity::Error,
                    Some(&root),
                    Some(&resource.key),
                    &file,
                    text,
                ));
                continue;
            }
            lines.insert(resource.key.clone(), root.span.line);
            resource.origin = Some(Origin { file: file.clone(), line: root.span.line });
            parsed.documents.push(Document { resource, root });
        }
    }
    if !faults.is_empty() {
        parsed.diagnostics.sort_by_key(|diagnostic| diagnostic.line);
    }
    parsed
}

/// Reads one document that is already JSON, such as one from the store.
///
/// # Errors
/// What is wrong with it; places are paths, as there are no lines.
pub fn from_json(value: &Value, defaults: &Defaults) -> Result<Resource, Vec<Diagnostic>> {
    let Some(root) = Node::from_json(value, DEPTH_MAX) else {
        return Err(vec![Diagnostic::error(&code::TOO_LARGE, "", format!("nested deeper than {DEPTH_MAX} levels"))]);
    };
    let mut read = read(&root, defaults);
    match read.resource.take() {
        Some(resource) => Ok(resource),
        None => Err(read
            .faults
            .iter()
            .map(|f| diagnostic(f, Severity::Error, None, read.key.as_ref(), &Text::default(), ""))
            .collect()),
    }
}

/// The canonical document of a resource: what the store keeps and `get` shows. [`from_json`] reads the
/// same resource from it, but for revision and origin, which aren't part of a document. An Endpoint,
/// which can't be applied, is shown in the same shape.
pub fn to_json(resource: &Resource) -> Value {
    let key = &resource.key;
    let mut metadata = serde_json::Map::new();
    metadata.insert("name".to_owned(), json!(key.name));
    if key.kind.namespaced() {
        metadata.insert("namespace".to_owned(), json!(key.namespace));
    }
    if !resource.labels.is_empty() {
        metadata.insert("labels".to_owned(), json!(resource.labels));
    }
    let spec = match &resource.spec {
        Spec::Namespace | Spec::Export | Spec::Slice(_) | Spec::Secret(_) | Spec::Bundle(_) => None,
        Spec::Mesh(mesh) => Some(to_value(&MeshSpec::from(mesh))),
        Spec::Service(service) => Some(service::to_value(service)),
        Spec::Pool(pool) => Some(to_value(&PoolSpec::from(&**pool))),
        Spec::Workload(workload) => Some(to_value(&WorkloadSpec::write(workload, &key.namespace))),
        Spec::Gateway(gateway) => Some(gateway::to_value(gateway, &key.namespace)),
        Spec::GatewayClass(class) => Some(gateway::class_value(class)),
        Spec::Grant(grant) => Some(gateway::grant_value(grant)),
        Spec::BackendTls(policy) => Some(outside::to_value(policy)),
        Spec::Route(route) => Some(route::to_value(route, key.kind, &key.namespace)),
        Spec::Access(policy) => Some(to_value(&AccessSpec::write(policy, &key.namespace))),
        Spec::Traffic(policy) => Some(to_value(&TrafficSpec::from(&**policy))),
        Spec::Saga(saga) => Some(to_value(&SagaSpec::from(&**saga))),
        Spec::Site(site) => Some(to_value(&SiteSpec::from(&**site))),
        Spec::Direct(direct) => Some(to_value(&FilterSpec::from(&**direct))),
        Spec::Endpoint(endpoint) => Some(workload::endpoint_value(endpoint)),
    };
    let version = match &resource.spec {
        Spec::Route(route) if key.kind == Kind::TlsRoute && route.hostnames.is_empty() => kinds::TLS_ROUTE_EARLY,
        _ => key.kind.api_version(),
    };
    let mut document = json!({"apiVersion": version, "kind": key.kind.name(), "metadata": metadata});
    if let Some(spec) = spec {
        document["spec"] = spec;
    }
    if let Spec::Secret(secret) = &resource.spec {
        secret::write(secret, &mut document);
    }
    if let Spec::Bundle(bundle) = &resource.spec {
        outside::write(bundle, &mut document);
    }
    if let Spec::Slice(slice) = &resource.spec {
        slice::write(slice, &mut document);
    }
    if let Spec::Workload(workload) = &resource.spec
        && let Some(word) = workload::health_word(workload.health)
    {
        document["status"] = json!({"health": word});
    }
    document
}

/// Takes out of a canonical document what nobody is shown: the keys of Secrets. What is left can't be applied.
pub fn redact(document: &mut Value) {
    if document["kind"] == Kind::Secret.name() {
        secret::redact(document);
    }
}

/// Own border types hold nothing that JSON can't say.
fn to_value<T: serde::Serialize>(spec: &T) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

/// What reading one document came to: a resource, unless there are faults.
struct Read {
    key: Option<Key>,
    resource: Option<Resource>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

fn read(root: &Node, defaults: &Defaults) -> Read {
    let mut reader = Reader::new(root, defaults);
    let resource = resource(&mut reader);
    if let Some(resource) = resource.as_ref().filter(|_| reader.faults.is_empty()) {
        let bytes = to_json(resource).to_string().len();
        if bytes > DOCUMENT_BYTES_MAX {
            reader.fault(
                &code::TOO_LARGE,
                "",
                format!("the document has {bytes} bytes; at most {DOCUMENT_BYTES_MAX} are kept"),
            );
        }
    }
    let resource = resource.filter(|_| reader.faults.is_empty());
    Read { key: reader.key, resource, faults: reader.faults, warnings: reader.warnings }
}

fn resource(reader: &mut Reader<'_>) -> Option<Resource> {
    let kind = meta::kind(reader)?;
    let meta = meta::metadata(reader, kind)?;
    reader.key = Some(meta.key.clone());
    let spec = match kind {
        Kind::Namespace => meta::namespace(reader),
        Kind::Mesh => mesh::read(reader).map(Spec::Mesh),
        Kind::Service => service::read(reader).map(Spec::Service),
        Kind::EndpointSlice => slice::read(reader, &meta.labels).map(|slice| Spec::Slice(slice.into())),
        Kind::InferencePool => pool::read(reader).map(|pool| Spec::Pool(pool.into())),
        Kind::Workload => workload::read(reader).map(|workload| Spec::Workload(Box::new(workload))),
        Kind::HttpRoute => route::read(reader).map(|route| Spec::Route(route.into())),
        Kind::GrpcRoute => route::grpc::read(reader).map(|route| Spec::Route(route.into())),
        Kind::TlsRoute => route::opaque::tls(reader).map(|route| Spec::Route(route.into())),
        Kind::TcpRoute | Kind::UdpRoute => route::opaque::hostless(reader).map(|route| Spec::Route(route.into())),
        Kind::HttpRouteFilter => route::direct::read(reader).map(|direct| Spec::Direct(direct.into())),
        Kind::Gateway => gateway::read(reader).map(|gateway| Spec::Gateway(gateway.into())),
        Kind::ListenerSet => gateway::set(reader).map(|set| Spec::Gateway(set.into())),
        Kind::GatewayClass => gateway::class(reader).map(Spec::GatewayClass),
        Kind::ReferenceGrant => gateway::grant(reader).map(|grant| Spec::Grant(grant.into())),
        Kind::AccessPolicy => access::read(reader).map(|policy| Spec::Access(policy.into())),
        Kind::TrafficPolicy => traffic::read(reader).map(|policy| Spec::Traffic(policy.into())),
        Kind::Saga => saga::read(reader).map(|saga| Spec::Saga(saga.into())),
        Kind::Secret => secret::read(reader).map(|secret| Spec::Secret(secret.into())),
        Kind::ConfigMap => outside::bundle(reader).map(|bundle| Spec::Bundle(bundle.into())),
        Kind::BackendTlsPolicy => outside::read(reader).map(|policy| Spec::BackendTls(policy.into())),
        Kind::Site => site::read(reader).map(|site| Spec::Site(site.into())),
        Kind::ServiceExport => site::export(reader),
        Kind::Endpoint => None,
    }?;
    Some(Resource {
        key: meta.key,
        revision: Revision(0),
        created: Revision(0),
        labels: meta.labels,
        origin: None,
        spec,
    })
}

fn diagnostic(
    fault: &Fault,
    severity: Severity,
    root: Option<&Node>,
    key: Option<&Key>,
    file: &Text,
    text: &str,
) -> Diagnostic {
    let mut diagnostic = Diagnostic::error(fault.code, fault.path.clone(), fault.message.clone());
    diagnostic.severity = severity;
    diagnostic.subject = key.cloned();
    diagnostic.file = file.clone();
    if severity == Severity::Warning {
        diagnostic.effect.clear();
    }
    if let Some(fix) = &fault.fix {
        diagnostic.fix.clone_from(fix);
    }
    let span = fault.span.or_else(|| root.map(|root| root.locate(&fault.path))).unwrap_or_default();
    set_place(&mut diagnostic, file, span, text);
    diagnostic
}

fn set_place(diagnostic: &mut Diagnostic, file: &Text, span: Span, text: &str) {
    diagnostic.file = file.clone();
    (diagnostic.line, diagnostic.column, diagnostic.width) = (span.line, span.column, span.width);
    // A line of a Secret may be its key.
    let secret = diagnostic.subject.as_ref().is_some_and(|key| key.kind == Kind::Secret);
    let line = (span.line as usize).checked_sub(1).filter(|_| !secret).and_then(|index| text.lines().nth(index));
    diagnostic.snippet = line.map(|line| line.chars().take(2000).collect::<String>().into());
}

#[cfg(test)]
mod tests;
