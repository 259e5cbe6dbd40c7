// SPDX-License-Identifier: Apache-2.0
//! Access decisions: tables of cases, and a comparison with the plainest evaluator that could be written.

use super::*;
use crate::fixtures::{account, http, identity};
use byrnie_model::{Key, Kind};
use proptest::prelude::*;

fn policy(name: &str, action: Action, mode: Mode, rules: Vec<Rule>) -> Arc<CompiledPolicy> {
    let spec = Arc::new(AccessPolicy { mode, targets: Vec::new(), action, rules });
    Arc::new(CompiledPolicy::new(&Key::new(Kind::AccessPolicy, "shop", name), &spec))
}

fn allow(name: &str, rules: Vec<Rule>) -> Arc<CompiledPolicy> {
    policy(name, Action::Allow, Mode::Enforce, rules)
}

fn from(sources: Vec<Source>) -> Rule {
    Rule { sources, ..Rule::default() }
}

fn exact(path: &str) -> PathPattern {
    PathPattern::Exact(path.into())
}

fn rule_on(policies: &[Arc<CompiledPolicy>], caller: &str, http: Option<(&str, &str)>) -> Ruling {
    let source = identity(caller);
    let call = Call { source: Some(&source), port: 8080, http };
    Access::new(policies, &"demo.local".into()).rule_on(&call, false)
}

fn check(policies: &[Arc<CompiledPolicy>], caller: &str, http: Option<(&str, &str)>, allowed: bool, rule: &str) {
    let ruling = rule_on(policies, caller, http);
    let told = ruling.rule.as_deref().unwrap_or("default");
    assert_eq!((ruling.allowed, told), (allowed, rule), "{caller} {http:?}");
}

const GET: Option<(&str, &str)> = Some(("GET", "/x"));

#[test]
fn deny_beats_allow_and_silence_means_the_default() {
    let everyone = allow("a", vec![Rule::default()]);
    let not_eve = policy("z", Action::Deny, Mode::Enforce, vec![from(vec![account("eve")])]);
    check(&[], "bob", GET, false, "default");
    check(&[allow("a", Vec::new())], "bob", GET, false, "default");
    check(std::slice::from_ref(&everyone), "bob", GET, true, "shop/a[0]");
    check(&[everyone.clone(), not_eve.clone()], "bob", GET, true, "shop/a[0]");
    check(&[everyone, not_eve], "eve", GET, false, "shop/z[0]");
}

#[test]
fn sources_are_compared_byte_by_byte() {
    let rules = vec![from(vec![account("pay.ments")]), from(vec![Source::Namespace("other".into())])];
    let policies = [allow("a", rules)];
    check(&policies, "pay.ments", GET, true, "shop/a[0]");
    for caller in ["payxments", "pay.ments2", "PAY.MENTS", "pay"] {
        check(&policies, caller, GET, false, "default");
    }
    let exact_id = Identity::new("partner.example", "x", "y").unwrap();
    let access = Access::new(&[allow("a", vec![from(vec![Source::Identity(exact_id.clone())])])], &"demo.local".into());
    let on = |source| access.rule_on(&Call { source, port: 1, http: None }, false).allowed;
    assert!(on(Some(&exact_id)));
    assert!(!on(None));
    // The same names in another trust domain are someone else.
    let foreign = Identity::new("evil.local", "shop", "bob").unwrap();
    let access = Access::new(&[allow("a", vec![from(vec![account("bob")])])], &"demo.local".into());
    assert!(!access.rule_on(&Call { source: Some(&foreign), port: 1, http: None }, false).allowed);
}

#[test]
fn ports_methods_and_paths_must_all_fit() {
    let rule = Rule {
        sources: vec![account("bob")],
        ports: vec![8080],
        http: vec![http(&["POST"], &[exact("/charge")]), http(&["GET"], &[])],
    };
    let policies = [allow("a", vec![rule])];
    check(&policies, "bob", Some(("POST", "/charge")), true, "shop/a[0]");
    check(&policies, "bob", Some(("GET", "/any")), true, "shop/a[0]");
    check(&policies, "bob", Some(("POST", "/any")), false, "default");
    check(&policies, "bob", Some(("post", "/charge")), false, "default");
    // Rules that look at requests never fit opaque TCP.
    check(&policies, "bob", None, false, "default");
    let other_port = Rule { ports: vec![9090], ..Rule::default() };
    check(&[allow("a", vec![other_port])], "bob", GET, false, "default");
}

#[test]
fn path_patterns_mean_what_they_say() {
    let template = PathPattern::Template(vec![Some("x".into()), None, Some("y".into())]);
    for (pattern, path, fits) in [
        (exact("/x"), "/x", true),
        (exact("/x"), "/x/", false),
        (PathPattern::Below("/x/".into()), "/x/y", true),
        (PathPattern::Below("/x/".into()), "/x", false),
        (PathPattern::Below("/x/".into()), "/xy", false),
        (PathPattern::Below("/".into()), "/", true),
        (template.clone(), "/x/1/y", true),
        (template.clone(), "/x//y", false),
        (template.clone(), "/x/1/2/y", false),
        (template.clone(), "/x/1/y/", false),
        (template, "*", false),
    ] {
        assert_eq!(pattern_fits(&pattern, path), fits, "{pattern:?} {path}");
    }
}

#[test]
fn shadow_is_recorded_and_never_enforced() {
    let everyone = allow("a", vec![Rule::default()]);
    let deny = policy("s", Action::Deny, Mode::Shadow, vec![Rule::default()]);
    let ruling = rule_on(&[everyone, deny], "bob", GET);
    assert_eq!((ruling.allowed, ruling.shadow.as_deref()), (true, Some("shop/s[0]")));
    let admit = policy("s", Action::Allow, Mode::Shadow, vec![Rule::default()]);
    let ruling = rule_on(std::slice::from_ref(&admit), "bob", GET);
    assert_eq!((ruling.allowed, ruling.rule, ruling.shadow.as_deref()), (false, None, Some("shop/s[0]")));
    let deny = policy("d", Action::Deny, Mode::Enforce, vec![Rule::default()]);
    let ruling = rule_on(&[deny, admit], "bob", GET);
    assert_eq!((ruling.allowed, ruling.shadow), (false, None));
}

fn nearest(policies: &[Arc<CompiledPolicy>], caller: &str, http: Option<(&str, &str)>) -> Option<String> {
    let source = identity(caller);
    let access = Access::new(policies, &"demo.local".into());
    access.nearest(&Call { source: Some(&source), port: 8080, http })
}

#[test]
fn a_refusal_names_the_closest_rule() {
    let rule = |source, path| Rule {
        sources: vec![account(source)],
        ports: Vec::new(),
        http: vec![http(&["POST"], &[exact(path)])],
    };
    let policies = [allow("payments", vec![rule("checkout", "/charge")])];
    assert_eq!(
        nearest(&policies, "refunds", Some(("POST", "/charge"))).as_deref(),
        Some("closest rule payments[0] allows checkout; you are refunds; method, path fit")
    );
    assert_eq!(
        nearest(&policies, "checkout", Some(("GET", "/charge"))).as_deref(),
        Some("closest rule payments[0] allows POST; this is GET; caller, path fit")
    );
    assert_eq!(
        nearest(&policies, "checkout", None).as_deref(),
        Some("closest rule payments[0] looks at HTTP requests; this is opaque TCP; caller fit")
    );
    assert_eq!(nearest(&[], "checkout", GET), None);
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let source = prop_oneof![
        prop::sample::select(vec!["a", "b", "c"]).prop_map(account),
        prop::sample::select(vec!["shop", "other"]).prop_map(|ns| Source::Namespace(ns.into())),
        prop::sample::select(vec!["a", "b"]).prop_map(|name| Source::Identity(identity(name))),
    ];
    let path = prop_oneof![
        prop::sample::select(vec!["/", "/a", "/a/b"]).prop_map(exact),
        prop::sample::select(vec!["/", "/a/"]).prop_map(|p| PathPattern::Below(p.into())),
        Just(PathPattern::Template(vec![Some("a".into()), None])),
    ];
    let method = prop::sample::select(vec!["GET", "POST"]).prop_map(Text::from);
    let http = (prop::collection::vec(method, 0..2), prop::collection::vec(path, 0..3))
        .prop_map(|(methods, paths)| HttpMatch { methods, paths });
    let ports = prop::collection::vec(prop::sample::select(vec![8080u16, 9090]), 0..2);
    (prop::collection::vec(source, 0..3), ports, prop::collection::vec(http, 0..3))
        .prop_map(|(sources, ports, http)| Rule { sources, ports, http })
}

/// The meaning of policies, in the fewest words.
fn naive(policies: &[Arc<CompiledPolicy>], call: &Call<'_>, default: bool) -> bool {
    let fits = |policy: &CompiledPolicy| {
        policy.spec.rules.iter().any(|rule| {
            // What is for any source is for any of this mesh, unless it denies.
            let foreign = call.source.is_some_and(|id| **id.trust_domain() != *"demo.local");
            let source = rule.sources.is_empty() && (!foreign || policy.spec.action == Action::Deny)
                || rule.sources.iter().any(|source| match (source, call.source) {
                    (_, None) => false,
                    (Source::ServiceAccount { namespace, name }, Some(id)) => {
                        **id.trust_domain() == *"demo.local"
                            && id.namespace() == namespace
                            && id.service_account() == name
                    }
                    (Source::Namespace(ns), Some(id)) => **id.trust_domain() == *"demo.local" && id.namespace() == ns,
                    (Source::Identity(exact), Some(id)) => exact == id,
                });
            let port = rule.ports.is_empty() || rule.ports.contains(&call.port);
            let http = rule.http.is_empty()
                // Of what can't be told, all is denied and nothing allowed.
                || call.http.map_or(policy.spec.action == Action::Deny, |(method, path)| {
                    rule.http.iter().any(|h| {
                        (h.methods.is_empty() || h.methods.contains(&Text::from(method)))
                            && (h.paths.is_empty() || h.paths.iter().any(|p| pattern_fits(p, path)))
                    })
                });
            source && port && http
        })
    };
    let enforced = |action| policies.iter().filter(move |p| p.spec.mode == Mode::Enforce && p.spec.action == action);
    if enforced(Action::Deny).any(|p| fits(p)) {
        return false;
    }
    let default = default && call.source.is_none_or(|id| **id.trust_domain() == *"demo.local");
    enforced(Action::Allow).any(|p| fits(p)) || default && !enforced(Action::Allow).any(|p| fits(p))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn agrees_with_the_naive_evaluator(
        specs in prop::collection::vec((any::<bool>(), any::<bool>(), prop::collection::vec(any_rule(), 0..40)), 0..4),
        caller in prop::option::of((prop::sample::select(vec!["demo.local", "x.local"]), prop::sample::select(vec!["shop", "other"]), prop::sample::select(vec!["a", "b", "d"]))),
        port in prop::sample::select(vec![8080u16, 9090]),
        http in prop::option::of((prop::sample::select(vec!["GET", "POST", "get"]), prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c", "*"]))),
        default in any::<bool>(),
    ) {
        let policies: Vec<_> = specs.into_iter().enumerate().map(|(i, (deny, shadow, rules))| {
            let action = if deny { Action::Deny } else { Action::Allow };
            policy(&format!("p{i}"), action, if shadow { Mode::Shadow } else { Mode::Enforce }, rules)
        }).collect();
        let source = caller.map(|(domain, ns, sa)| Identity::new(domain, ns, sa).unwrap());
        let call = Call { source: source.as_ref(), port, http };
        let access = Access::new(&policies, &"demo.local".into());
        let ruling = access.rule_on(&call, default);
        prop_assert_eq!(ruling.allowed, naive(&policies, &call, default));
        access.nearest(&call);
    }
}

#[test]
fn who_is_of_another_site_has_what_names_it_and_nothing_else() {
    let web = Identity::new("east.test", "shop", "web").unwrap();
    let on = |policies: &[Arc<CompiledPolicy>], default: bool, sites: &[&str]| {
        let access =
            Access::new(policies, &"demo.local".into()).among(sites.iter().map(|site| Text::from(*site)).collect());
        access.rule_on(&Call { source: Some(&web), port: 1, http: None }, default).allowed
    };
    let anybody = allow("a", vec![from(vec![])]);
    let named = allow("b", vec![from(vec![Source::Identity(web.clone())])]);
    let nobody = policy("c", Action::Deny, Mode::Enforce, vec![from(vec![])]);
    let sites = ["east.test", "north.test"];
    // Neither what is for any source, nor the mesh's default, nor the same names here.
    let alike = allow("d", vec![from(vec![account("web"), Source::Namespace("shop".into())])]);
    assert!(!on(&[anybody.clone(), alike], true, &sites));
    assert!(on(std::slice::from_ref(&named), false, &sites));
    // What denies everybody denies it too, and whose site is no more has nothing.
    assert!(!on(&[named.clone(), nobody], false, &sites));
    assert!(!on(&[named], false, &["north.test"]));
}
