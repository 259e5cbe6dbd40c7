// SPDX-License-Identifier: Apache-2.0
//! What is kept comes back as it was; what isn't as it was kept does not come back.

use super::*;
use byrnie_model::policy::AccessPolicy;
use byrnie_model::policy::access::{Action, Mode};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::{Endpoint, Health, Identity, Labels, ServiceRef, Spec};

fn resource(kind: Kind, name: &str, revision: u64, spec: Spec) -> Arc<Resource> {
    let namespace = if kind == Kind::Mesh { "" } else { "default" };
    let key = Key::new(kind, namespace, name);
    Arc::new(Resource {
        key,
        revision: Revision(revision),
        created: Revision(0),
        labels: Labels::new(),
        origin: None,
        spec,
    })
}

fn mesh(revision: u64) -> Arc<Resource> {
    let mesh = Mesh {
        trust_domain: "mesh.local".into(),
        default_access: DefaultAccess::Deny,
        otlp: None,
        limits: Box::default(),
    };
    resource(Kind::Mesh, "mesh", revision, Spec::Mesh(mesh))
}

fn policy(name: &str, revision: u64) -> Arc<Resource> {
    let targets = vec![ServiceRef::new("default", "web")];
    let policy = AccessPolicy { mode: Mode::Enforce, targets, action: Action::Deny, rules: vec![] };
    resource(Kind::AccessPolicy, name, revision, Spec::Access(policy.into()))
}

fn endpoint(port: u16, revision: u64) -> Arc<Resource> {
    let endpoint = Endpoint {
        service: ServiceRef::new("default", "web"),
        workload: "web-1".into(),
        way: None,
        identity: Identity::new("mesh.local", "default", "web").unwrap(),
        address: ([127, 0, 0, 1], port).into(),
        ports: vec![byrnie_model::service::PortPair { service: 80, target: 8080 }],
        labels: Labels::new(),
        locality: byrnie_model::service::Locality::default(),
        weight: 1,
        health: Health::Healthy,
    };
    resource(Kind::Endpoint, "web/web-1", revision, Spec::Endpoint(Box::new(endpoint)))
}

fn origin() -> Origin {
    Origin { node: "default/web-1".into(), inbound: Some(([127, 0, 0, 1], 7781).into()) }
}

fn delta(changed: &[Arc<Resource>], removed: &[Key]) -> Delta {
    Delta { changed: changed.to_vec(), removed: removed.to_vec() }
}

fn names(kept: &Kept) -> Vec<String> {
    kept.resources.iter().map(|resource| format!("{} {}", resource.key, resource.revision)).collect()
}

fn folder() -> std::path::PathBuf {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("byrnie-view-{}-{next}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn what_was_in_force_comes_back_and_what_was_on_the_way_does_not() {
    let folder = folder();
    assert!(matches!(load(&folder), Err(Refused::Absent)));
    let mut cache = Cache::open(&folder, origin(), None).unwrap();
    assert!(cache.apply(&delta(&[mesh(1), policy("a", 2)], &[]), &[]), "policies are urgent");
    cache.save(Outlives::Process);
    assert!(matches!(load(&folder), Err(Refused::Absent)), "half a revision is no state");
    assert!(!cache.apply(&delta(&[endpoint(1, 3)], &[]), &[]), "endpoints aren't");
    cache.reached(Revision(3));
    assert!(cache.is_dirty());
    cache.save(Outlives::Process);
    assert!(load(&folder).is_ok() && cache.is_dirty(), "written, and not yet safe from the loss of power");
    cache.save(Outlives::PowerLoss);
    assert!(!cache.is_dirty());
    let kept = load(&folder).unwrap();
    assert_eq!((kept.origin.clone(), kept.revision), (origin(), Revision(3)));
    assert_eq!(names(&kept), ["Mesh/mesh 1", "AccessPolicy/default/a 2", "Endpoint/default/web/web-1 3"]);
    assert_eq!(kept.resources[2].spec, endpoint(1, 3).spec);

    // The next process goes on from there. What was refused never was in force.
    let mut cache = Cache::open(&folder, origin(), Some(&kept)).unwrap();
    let refused = Key::new(Kind::AccessPolicy, "default", "b");
    cache.apply(&delta(&[policy("b", 4), endpoint(2, 4)], &[policy("a", 2).key.clone()]), &[refused]);
    cache.reached(Revision(4));
    cache.save(Outlives::Process);
    let kept = load(&folder).unwrap();
    assert_eq!(names(&kept), ["Mesh/mesh 1", "Endpoint/default/web/web-1 4"]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_was_changed_cut_or_put_back_is_refused() {
    let folder = folder();
    let view = folder.join(VIEW);
    let mut cache = Cache::open(&folder, origin(), None).unwrap();
    cache.apply(&delta(&[mesh(1)], &[]), &[]);
    cache.reached(Revision(1));
    cache.save(Outlives::Process);
    let older = std::fs::read(&view).unwrap();
    cache.apply(&delta(&[policy("a", 2)], &[]), &[]);
    cache.reached(Revision(2));
    cache.save(Outlives::Process);
    let whole = std::fs::read(&view).unwrap();
    let unfit = |bytes: &[u8]| {
        std::fs::write(&view, bytes).unwrap();
        matches!(load(&folder), Err(Refused::Unfit(_)))
    };
    assert!(unfit(&older), "one of before the newest that was acknowledged");
    for at in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        assert!(unfit(&changed), "byte {at}");
        assert!(unfit(&whole[..at]), "cut at {at}");
    }
    assert!(unfit(b""));
    assert!(!unfit(&whole));
    // Neither of the other two files can be done without, or be another's.
    std::fs::remove_file(folder.join(NEWEST)).unwrap();
    assert!(unfit(&whole));
    std::fs::copy(&view, folder.join(NEWEST)).unwrap();
    assert!(unfit(&whole));
    cache.reached(Revision(3));
    cache.save(Outlives::Process);
    assert!(load(&folder).is_ok());
    std::fs::remove_file(folder.join(SEAL)).unwrap();
    assert!(matches!(load(&folder), Err(Refused::Unfit(_))));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn any_bytes_under_the_seal_are_read_without_a_panic() {
    let resources = [mesh(1), policy("a", 2), endpoint(1, 3)];
    let whole = encode(&origin(), Revision(3), resources.iter());
    assert_eq!(decode(&whole).unwrap().resources.len(), 3);
    for at in 0..whole.len() {
        let _ = decode(&whole[..at]);
        for bits in [1, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= bits;
            let _ = decode(&changed);
        }
    }
}

#[test]
fn whoever_was_unwell_when_the_view_was_kept_may_be_asked_by_it() {
    let mut unwell = (*endpoint(1, 3)).clone();
    if let Spec::Endpoint(endpoint) = &mut unwell.spec {
        endpoint.health = Health::Unhealthy;
    }
    let kept = Kept { origin: origin(), resources: vec![mesh(1), Arc::new(unwell)], revision: Revision(3) };
    assert_eq!(whoever_was_well(kept).resources, [mesh(1), endpoint(1, 3)]);
}
