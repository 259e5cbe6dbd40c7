// SPDX-License-Identifier: Apache-2.0
//! Chains that must be refused, each with its reason, and chains that must be accepted.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Purpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose as KeyUse,
    NameConstraints, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use std::net::{IpAddr, Ipv4Addr};

const NOW: u64 = 1_800_000_000;
const HOUR: i64 = 3600;
const WEB: &str = "spiffe://mesh.local/ns/default/sa/web";

type Chain = Vec<CertificateDer<'static>>;
/// Expected reason, what is wrong, the chain.
type Case = (&'static str, String, Chain);

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

fn at(seconds: i64) -> Duration {
    Duration::from_secs(NOW.saturating_add_signed(seconds))
}

fn params(from: i64, to: i64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (epoch + at(from), epoch + at(to));
    params.distinguished_name = DistinguishedName::new();
    params
}

fn ca(name: &str, issuer: Option<&Ca>, edit: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = params(-HOUR, 1000 * HOUR);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUse::KeyCertSign, KeyUse::CrlSign];
    edit(&mut params);
    let key = KeyPair::generate().unwrap();
    let signed = match issuer {
        Some(issuer) => params.signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key)),
        None => params.self_signed(&key),
    };
    Ca { der: signed.unwrap().der().clone(), params, key }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn leaf_for(
    issuer: &Ca,
    key: &impl PublicKeyData,
    edit: impl FnOnce(&mut CertificateParams),
) -> CertificateDer<'static> {
    let mut params = params(-HOUR, HOUR);
    params.subject_alt_names = vec![uri(WEB)];
    params.key_usages = vec![KeyUse::DigitalSignature];
    params.extended_key_usages = vec![Purpose::ServerAuth, Purpose::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(SerialNumber::from_slice(&[0x5a; 16]));
    edit(&mut params);
    params.signed_by(key, &Issuer::from_params(&issuer.params, &issuer.key)).unwrap().der().clone()
}

struct World {
    root: Ca,
    key: KeyPair,
    roots: Roots,
}

impl World {
    fn new() -> Self {
        let root = ca("root", None, |_| {});
        let roots = Roots::from_pem(&super::super::keys::pem("CERTIFICATE", &root.der), "mesh.local").unwrap();
        Self { root, key: KeyPair::generate().unwrap(), roots }
    }

    fn leaf(&self, edit: impl FnOnce(&mut CertificateParams)) -> Chain {
        vec![leaf_for(&self.root, &self.key, edit)]
    }

    fn below(&self, issuer: &Ca) -> Chain {
        vec![leaf_for(issuer, &self.key, |_| {}), issuer.der.clone()]
    }

    fn verify(&self, chain: &[CertificateDer<'_>], usage: Usage) -> Result<Proven, Refusal> {
        let web = Identity::parse(WEB).unwrap();
        verify(chain, &self.roots, usage, Expected::Identity(&web), Timestamp::from_millis(NOW * 1000))
    }
}

/// An extension that holds these names, each a tag and its bytes.
fn raw_names(names: &[(u8, &[u8])]) -> CustomExtension {
    let mut content = Vec::new();
    for (tag, bytes) in names {
        content.extend([*tag, u8::try_from(bytes.len()).unwrap()]);
        content.extend_from_slice(bytes);
    }
    let mut der = vec![0x30, u8::try_from(content.len()).unwrap()];
    der.extend(content);
    CustomExtension::from_oid_content(&[2, 5, 29, 17], der)
}

fn bad_uris(world: &World) -> Vec<Case> {
    let segment = "a".repeat(254);
    let long = format!("spiffe://mesh.local/ns/default/sa/web{}", "/x".repeat(1100));
    let too_long_segment = format!("spiffe://mesh.local/ns/default/sa/{segment}");
    let not_an_identity = [
        "https://mesh.local/ns/default/sa/web",
        "SPIFFE://mesh.local/ns/default/sa/web",
        "spiffe:/mesh.local/ns/default/sa/web",
        "spiffe://MESH.local/ns/default/sa/web",
        "spiffe://mesh.local/ns/default/sa/web/",
        "spiffe://mesh.local//ns/default/sa/web",
        "spiffe://mesh.local/ns/default/sa/%77eb",
        "spiffe://mesh.local/ns%2Fdefault/sa/web",
        "spiffe://mesh.local/ns/default/sa/web?x=1",
        "spiffe://mesh.local/ns/default/sa/web#x",
        "spiffe://mesh.local/ns/default/sa/web;x=1",
        "spiffe://mesh.local:443/ns/default/sa/web",
        "spiffe://root@mesh.local/ns/default/sa/web",
        "spiffe://mesh.local/ns/default/sa/../sa/web",
        "spiffe://mesh.local/ns/./sa/web",
        "spiffe://mesh.local/ns/default/sa/..",
        "spiffe://mesh.local/ns/default/sa/",
        "spiffe://mesh.local/ns//sa/web",
        "spiffe://mesh.local/NS/default/SA/web",
        "spiffe://mesh.local/sa/web/ns/default",
        "spiffe://mesh.local",
        "spiffe://mesh.local/",
        "spiffe:///ns/default/sa/web",
        "spiffe://mesh.local/ns/default/sa/web ",
        " spiffe://mesh.local/ns/default/sa/web",
        "spiffe://mesh.local/ns/default/sa/web\0",
        "spiffe://mesh.local/ns/default/sa/web\0.evil",
        "spiffe://mesh.local/ns/default/sa/web\n",
        "spiffe://mesh.local/ns/default/sa/\tweb",
        "spiffe://mesh.local\\ns\\default\\sa\\web",
        "spiffe://mesh.local/ns/default/sa/web,spiffe://mesh.local/ns/default/sa/root",
        "spiffe://mesh.local/ns/default/sa/*",
        "spiffe://*.local/ns/default/sa/web",
        "",
        &long,
        &too_long_segment,
    ];
    let foreign = [
        "spiffe://evil.local/ns/default/sa/web",
        "spiffe://x.mesh.local/ns/default/sa/web",
        "spiffe://mesh.local./ns/default/sa/web",
        "spiffe://mesh-local/ns/default/sa/web",
        "spiffe://mesh.localx/ns/default/sa/web",
    ];
    let other = [
        "spiffe://mesh.local/ns/default/sa/Web",
        "spiffe://mesh.local/ns/Default/sa/web",
        "spiffe://mesh.local/ns/default/sa/web2",
        "spiffe://mesh.local/ns/default/sa/we",
        "spiffe://mesh.local/ns/default/sa/w.b",
        "spiffe://mesh.local/ns/default/sa/web.",
        "spiffe://mesh.local/ns/default2/sa/web",
        "spiffe://mesh.local/ns/byrnie/sa/control",
    ];
    let of = |reason: &'static str, text: &str| {
        (reason, format!("uri {text:?}"), world.leaf(|params| params.subject_alt_names = vec![uri(text)]))
    };
    let mut cases: Vec<Case> = not_an_identity.iter().map(|text| of("not_an_identity", text)).collect();
    cases.extend(foreign.iter().map(|text| of("trust_domain", text)));
    cases.extend(other.iter().map(|text| of("identity", text)));
    cases
}

fn bad_names(world: &World) -> Vec<Case> {
    let with = |names: Vec<SanType>| world.leaf(|params| params.subject_alt_names = names);
    let raw = |names: &[&[(u8, &[u8])]]| {
        world.leaf(|params| {
            params.subject_alt_names.clear();
            params.custom_extensions = names.iter().map(|names| raw_names(names)).collect();
        })
    };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let named = |reason, what: &str, chain| (reason, what.to_owned(), chain);
    let web = WEB.as_bytes();
    let cyrillic = WEB.replace('e', "\u{435}");
    vec![
        named("no_identity", "a DNS name alone", with(vec![dns("web.default.mesh")])),
        named("no_identity", "an identity as DNS name", raw(&[&[(0x82, web)]])),
        named("no_identity", "an identity as e-mail", raw(&[&[(0x81, web)]])),
        named("no_identity", "an address alone", with(vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))])),
        named("no_identity", "no names", with(vec![])),
        named(
            "no_identity",
            "the identity as common name",
            world.leaf(|params| {
                params.subject_alt_names.clear();
                params.distinguished_name.push(DnType::CommonName, WEB);
            }),
        ),
        named(
            "no_identity",
            "the identity as other name",
            with(vec![SanType::OtherName((
                vec![1, 3, 6, 1, 4, 1, 99999, 1],
                rcgen::OtherNameValue::Utf8String(WEB.into()),
            ))]),
        ),
        named(
            "several_identities",
            "one and another",
            with(vec![uri(WEB), uri("spiffe://mesh.local/ns/default/sa/root")]),
        ),
        named(
            "several_identities",
            "another and one",
            with(vec![uri("spiffe://mesh.local/ns/default/sa/root"), uri(WEB)]),
        ),
        named("several_identities", "the same twice", with(vec![uri(WEB), uri(WEB)])),
        named("several_identities", "one and a web address", with(vec![uri(WEB), uri("https://mesh.local/")])),
        named("malformed", "two extensions of names", raw(&[&[(0x86, web)], &[(0x86, web)]])),
        named("not_an_identity", "look-alike letters", raw(&[&[(0x86, cyrillic.as_bytes())]])),
        named("malformed", "bytes that are no text", raw(&[&[(0x86, b"spiffe://mesh.local/ns/default/sa/\xff")]])),
        named("malformed", "a name of unknown kind", raw(&[&[(0x8f, web)]])),
    ]
}

fn bad_usages(world: &World) -> Vec<Case> {
    let keys = |usages: Vec<KeyUse>| world.leaf(|params| params.key_usages = usages);
    let purposes = |purposes: Vec<Purpose>| world.leaf(|params| params.extended_key_usages = purposes);
    let mut critical = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 7], vec![5, 0]);
    critical.set_criticality(true);
    let named = |reason, what: &str, chain| (reason, what.to_owned(), chain);
    let authority = world.leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    vec![
        named("leaf_is_authority", "CA:TRUE", authority),
        named("leaf_is_authority", "may sign certificates", keys(vec![KeyUse::DigitalSignature, KeyUse::KeyCertSign])),
        named("leaf_is_authority", "may sign revocations", keys(vec![KeyUse::DigitalSignature, KeyUse::CrlSign])),
        named("key_usage", "no key usage", keys(vec![])),
        named("key_usage", "encryption alone", keys(vec![KeyUse::KeyEncipherment])),
        named("key_usage", "agreement alone", keys(vec![KeyUse::KeyAgreement])),
        named("extended_key_usage", "no purpose", purposes(vec![])),
        named("extended_key_usage", "clients only", purposes(vec![Purpose::ClientAuth])),
        named("extended_key_usage", "code only", purposes(vec![Purpose::CodeSigning])),
        named("extended_key_usage", "any purpose", purposes(vec![Purpose::Any])),
        named(
            "unknown_critical",
            "critical and unknown",
            world.leaf(|params| params.custom_extensions = vec![critical]),
        ),
    ]
}

fn bad_times(world: &World) -> Vec<Case> {
    let span = |from: i64, to: i64| {
        world.leaf(|leaf| (leaf.not_before, leaf.not_after) = (params(from, to).not_before, params(from, to).not_after))
    };
    vec![
        ("expired", "a second ago".to_owned(), span(-HOUR, -1)),
        ("expired", "years ago".to_owned(), span(-90_000 * HOUR, -80_000 * HOUR)),
        ("not_yet_valid", "from the next second".to_owned(), span(1, HOUR)),
        ("not_yet_valid", "from next year".to_owned(), span(9000 * HOUR, 9001 * HOUR)),
        ("expired", "ends before it begins".to_owned(), span(HOUR, -HOUR)),
    ]
}

fn bad_bytes(world: &World) -> Vec<Case> {
    let good = world.leaf(|_| {});
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut der = good[0].to_vec();
        edit(&mut der);
        vec![CertificateDer::from(der)]
    };
    let serial = good[0].windows(16).position(|bytes| bytes == [0x5a; 16]).unwrap();
    vec![
        ("no_certificate", "an empty chain".to_owned(), vec![]),
        ("malformed", "no bytes".to_owned(), vec![CertificateDer::from(vec![])]),
        ("malformed", "text".to_owned(), vec![CertificateDer::from(b"hello".to_vec())]),
        ("malformed", "the first half".to_owned(), edited(&|der| der.truncate(der.len() / 2))),
        ("malformed", "a byte too many".to_owned(), edited(&|der| der.push(0))),
        ("malformed", "a byte too few".to_owned(), edited(&|der| der.truncate(der.len() - 1))),
        ("bad_signature", "a bit of the signature".to_owned(), edited(&|der| *der.last_mut().unwrap() ^= 1)),
        ("bad_signature", "a bit of the serial".to_owned(), edited(&|der| der[serial] ^= 1)),
        ("chain_too_long", "seven times the same".to_owned(), vec![good[0].clone(); 7]),
    ]
}

fn bad_issuers(world: &World) -> Vec<Case> {
    let root = &world.root;
    let strangers = ca("stranger", None, |_| {});
    let namesake = ca("root", None, |_| {});
    let below_stranger = ca("below stranger", Some(&strangers), |_| {});
    let not_ca = ca("not a ca", Some(root), |params| params.is_ca = IsCa::ExplicitNoCa);
    let no_sign = ca("may not sign", Some(root), |params| params.key_usages = vec![KeyUse::DigitalSignature]);
    let no_usage = ca("no usage", Some(root), |params| params.key_usages = vec![]);
    let old = ca("old", Some(root), |old| old.not_after = params(-HOUR, -1).not_after);
    let young = ca("young", Some(root), |young| young.not_before = params(1, HOUR).not_before);
    let code = ca("code", Some(root), |params| params.extended_key_usages = vec![Purpose::CodeSigning]);
    let last = ca("last", Some(root), |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below_last = ca("below last", Some(&last), |_| {});
    let other_names = ca("other names", Some(root), |params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("other.example".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let intermediate = ca("intermediate", Some(root), |_| {});
    let mut too_deep = world.below(&below_last);
    too_deep.push(last.der.clone());
    let with_dns = leaf_for(&other_names, &world.key, |params| {
        params.subject_alt_names.push(SanType::DnsName("web.default.mesh".try_into().unwrap()));
    });
    let mut reversed = world.below(&intermediate);
    reversed.reverse();
    let named = |reason, what: &str, chain| (reason, what.to_owned(), chain);
    let mut cases = vec![
        named("unknown_issuer", "another root", vec![leaf_for(&strangers, &world.key, |_| {})]),
        named("unknown_issuer", "another root, sent along", world.below(&strangers)),
        named("unknown_issuer", "below another root", world.below(&below_stranger)),
        named("bad_signature", "a root of the same name", vec![leaf_for(&namesake, &world.key, |_| {})]),
        named("unknown_issuer", "the intermediate is missing", vec![leaf_for(&intermediate, &world.key, |_| {})]),
        named("leaf_is_authority", "the intermediate first", reversed),
        named("leaf_is_authority", "the root itself", vec![root.der.clone()]),
        named("issuer_is_not_authority", "signed by a leaf", world.below(&not_ca)),
        named("issuer_is_not_authority", "issuer may not sign", world.below(&no_sign)),
        named("issuer_is_not_authority", "issuer without usage", world.below(&no_usage)),
        named("expired", "expired intermediate", world.below(&old)),
        named("not_yet_valid", "intermediate of tomorrow", world.below(&young)),
        named("extended_key_usage", "intermediate for code", world.below(&code)),
        named("constraint", "path longer than allowed", too_deep),
        named("constraint", "name outside of the constraint", vec![with_dns, other_names.der.clone()]),
    ];
    let mut own = params(-HOUR, HOUR);
    own.subject_alt_names = vec![uri(WEB)];
    own.key_usages = vec![KeyUse::DigitalSignature];
    own.extended_key_usages = vec![Purpose::ServerAuth, Purpose::ClientAuth];
    let own = own.self_signed(&world.key).unwrap();
    cases.push(named("unknown_issuer", "signed by itself", vec![own.der().clone()]));
    cases
}

/// A public key without its private one.
struct Public(Vec<u8>, &'static SignatureAlgorithm);

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.1
    }
}

fn rsa(bits: usize) -> Public {
    let mut modulus = vec![0_u8];
    modulus.extend((0..bits / 8).map(|at| if at == 0 { 0xc5 } else { u8::try_from(at % 251).unwrap() | 1 }));
    let length = |bytes: usize| [0x82, u8::try_from(bytes >> 8).unwrap(), u8::try_from(bytes & 0xff).unwrap()];
    let mut content = vec![0x02];
    content.extend(length(modulus.len()));
    content.extend(&modulus);
    content.extend([0x02, 0x03, 1, 0, 1]);
    let mut der = vec![0x30];
    der.extend(length(content.len()));
    der.extend(content);
    Public(der, &rcgen::PKCS_RSA_SHA256)
}

fn bad_keys(world: &World) -> Vec<Case> {
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let chain = |key: &Public| vec![leaf_for(&world.root, key, |_| {})];
    vec![
        ("weak_key", "RSA of 512 bits".to_owned(), chain(&rsa(512))),
        ("weak_key", "RSA of 1024 bits".to_owned(), chain(&rsa(1024))),
        ("weak_key", "RSA of 2040 bits".to_owned(), chain(&rsa(2040))),
        ("weak_key", "an unusual curve".to_owned(), vec![leaf_for(&world.root, &p521, |_| {})]),
        ("weak_key", "RSA that is none".to_owned(), chain(&Public(vec![1, 2, 3], &rcgen::PKCS_RSA_SHA256))),
    ]
}

#[test]
fn no_bad_chain_is_accepted_and_each_is_refused_for_its_reason() {
    let world = World::new();
    let groups = [bad_uris, bad_names, bad_usages, bad_times, bad_bytes, bad_issuers, bad_keys];
    let cases: Vec<Case> = groups.iter().flat_map(|group| group(&world)).collect();
    let mut wrong = Vec::new();
    for (reason, what, chain) in &cases {
        match world.verify(chain, Usage::Server) {
            Err(refusal) if refusal.label() == *reason => {}
            other => wrong.push(format!("{what}: expected {reason}, got {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 60, "{} cases", cases.len());
}

fn good_chains(world: &World) -> Vec<(&'static str, Chain)> {
    let root = &world.root;
    let one = ca("one", Some(root), |_| {});
    let two = ca("two", Some(&one), |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let mut below_two = world.below(&two);
    below_two.push(one.der.clone());
    let mut unordered = world.below(&two);
    unordered.insert(1, one.der.clone());
    let mut with_root = world.below(&one);
    with_root.push(root.der.clone());
    let stranger = ca("stranger", None, |_| {});
    let mut with_stranger = world.leaf(|_| {});
    with_stranger.push(stranger.der);
    let more = |name: SanType| world.leaf(|params| params.subject_alt_names.push(name));
    let alien = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 7], vec![5, 0]);
    let of_key = |algorithm| vec![leaf_for(root, &KeyPair::generate_for(algorithm).unwrap(), |_| {})];
    let span = |from: i64, to: i64| {
        world.leaf(|leaf| (leaf.not_before, leaf.not_after) = (params(from, to).not_before, params(from, to).not_after))
    };
    vec![
        ("plain", world.leaf(|_| {})),
        ("below one", world.below(&one)),
        ("below two", below_two),
        ("below two, unordered", unordered),
        ("the root sent along", with_root),
        ("a stranger sent along", with_stranger),
        ("a DNS name beside it", more(SanType::DnsName("web.default.mesh".try_into().unwrap()))),
        ("an address beside it", more(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)))),
        ("an e-mail beside it", more(SanType::Rfc822Name("a@b.c".try_into().unwrap()))),
        ("unknown, but not critical", world.leaf(|params| params.custom_extensions = vec![alien])),
        ("P-384", of_key(&rcgen::PKCS_ECDSA_P384_SHA384)),
        ("Ed25519", of_key(&rcgen::PKCS_ED25519)),
        ("RSA of 2048 bits", vec![leaf_for(root, &rsa(2048), |_| {})]),
        ("from this second", span(0, HOUR)),
        ("to this second", span(-HOUR, 0)),
        ("no basic constraints", world.leaf(|params| params.is_ca = IsCa::NoCa)),
        ("a subject", world.leaf(|params| params.distinguished_name.push(DnType::CommonName, "web"))),
        ("more purposes", world.leaf(|params| params.extended_key_usages.push(Purpose::CodeSigning))),
        ("more usages", world.leaf(|params| params.key_usages.push(KeyUse::KeyEncipherment))),
    ]
}

#[test]
fn every_good_chain_is_accepted_on_both_sides() {
    let world = World::new();
    let chains = good_chains(&world);
    assert!(chains.len() >= 15);
    for (what, chain) in &chains {
        for usage in [Usage::Server, Usage::Client] {
            let proven = world.verify(chain, usage);
            assert_eq!(proven.map(|proven| proven.identity.to_string()).as_deref(), Ok(WEB), "{what}, {usage:?}");
        }
    }
}

#[test]
fn a_side_refuses_a_certificate_meant_for_the_other_alone() {
    let world = World::new();
    let only = |purpose: Purpose| world.leaf(|params| params.extended_key_usages = vec![purpose]);
    let (servers, clients) = (only(Purpose::ServerAuth), only(Purpose::ClientAuth));
    assert!(world.verify(&servers, Usage::Server).is_ok() && world.verify(&clients, Usage::Client).is_ok());
    assert_eq!(world.verify(&servers, Usage::Client), Err(Refusal::ExtendedKeyUsage));
    assert_eq!(world.verify(&clients, Usage::Server), Err(Refusal::ExtendedKeyUsage));
}

#[test]
fn the_chain_ends_with_its_shortest_lived_certificate() {
    let world = World::new();
    let short = ca("short", Some(&world.root), |short| short.not_after = params(0, 60).not_after);
    let proven = world.verify(&world.below(&short), Usage::Server).unwrap();
    assert_eq!(proven.not_after, Timestamp::from_millis((NOW + 60) * 1000));
}

#[test]
fn an_expired_root_vouches_for_nobody() {
    let world = World::new();
    let chain = world.leaf(|leaf| leaf.not_after = params(0, 5000 * HOUR).not_after);
    let later = Timestamp::from_millis((NOW + 2000 * 3600) * 1000);
    let refused = verify(&chain, &world.roots, Usage::Server, Expected::AnyOfDomain, later);
    assert_eq!(refused, Err(Refusal::Expired));
}

#[test]
fn both_roots_of_a_rotation_are_accepted_and_the_old_one_no_longer_after_it() {
    let (old, new) = (World::new(), World::new());
    let pem = |world: &World| super::super::keys::pem("CERTIFICATE", &world.root.der);
    let both = Roots::from_pem(&(pem(&old) + &pem(&new)), "mesh.local").unwrap();
    let now = Timestamp::from_millis(NOW * 1000);
    for chain in [old.leaf(|_| {}), new.leaf(|_| {})] {
        assert!(verify(&chain, &both, Usage::Client, Expected::AnyOfDomain, now).is_ok());
    }
    let refused = verify(&old.leaf(|_| {}), &new.roots, Usage::Client, Expected::AnyOfDomain, now);
    assert!(refused.is_err());
}

#[test]
fn mangled_certificates_never_panic_and_never_pass() {
    let world = World::new();
    let good = world.leaf(|_| {})[0].to_vec();
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut der = good.clone();
            der[at] ^= flip;
            assert!(world.verify(&[CertificateDer::from(der)], Usage::Server).is_err(), "byte {at} ^ {flip:#x}");
        }
        let cut = CertificateDer::from(good[..at].to_vec());
        assert!(world.verify(&[cut], Usage::Server).is_err(), "cut at {at}");
    }
}

#[test]
fn who_comes_again_is_known_as_long_as_and_where_the_chain_holds() {
    let (world, other) = (World::new(), World::new());
    let chain = world.leaf(|_| {});
    let at = |seconds: i64| Timestamp::from_millis(NOW.saturating_add_signed(seconds) * 1000);
    let verify = |roots: &Roots, usage, now| verify(&chain, roots, usage, Expected::AnyOfDomain, now);
    let known = |usage, now| Fingerprint::of(&chain, &world.roots, usage).and_then(|of| known::recall(&of, now));
    assert_eq!(known(Usage::Client, at(0)), None);
    let proven = verify(&world.roots, Usage::Client, at(0)).unwrap();
    assert_eq!(known(Usage::Client, at(0)).as_ref(), Some(&proven));
    assert_eq!(verify(&world.roots, Usage::Client, at(1)), Ok(proven));
    // Not before its time nor after it, not on the other side, not to those who trust others.
    assert_eq!(verify(&world.roots, Usage::Client, at(HOUR + 1)), Err(Refusal::Expired));
    assert_eq!(verify(&world.roots, Usage::Client, at(-HOUR - 1)), Err(Refusal::NotYetValid));
    assert_eq!(known(Usage::Server, at(0)), None);
    assert!(verify(&other.roots, Usage::Client, at(0)).is_err());
    let db = Identity::parse("spiffe://mesh.local/ns/default/sa/db").unwrap();
    let wrong = super::verify(&chain, &world.roots, Usage::Client, Expected::Identity(&db), at(0));
    assert!(matches!(wrong, Err(Refusal::Identity { .. })), "{wrong:?}");
}

#[test]
fn no_more_chains_are_remembered_than_the_limit_and_none_that_was_refused() {
    let world = World::new();
    let proven = world.verify(&world.leaf(|_| {}), Usage::Client).unwrap();
    let before = known::count();
    let foreign = World::new().leaf(|_| {});
    assert!(world.verify(&foreign, Usage::Client).is_err());
    assert_eq!(known::count(), before);
    for number in 0..2 * known::CHAINS_MAX {
        let shown = [CertificateDer::from(number.to_le_bytes().to_vec())];
        known::keep(Fingerprint::of(&shown, &world.roots, Usage::Client).unwrap(), proven.clone());
        assert!(known::count() <= known::CHAINS_MAX);
    }
    let long = [CertificateDer::from(vec![0; 9 * 1024])];
    assert!(Fingerprint::of(&long, &world.roots, Usage::Client).is_none(), "hashed for nothing");
}

#[test]
fn each_authority_vouches_for_its_own_domain_alone() {
    let (home, far) = (ca("home", None, |_| {}), ca("far", None, |_| {}));
    let pem = |ca: &Ca| crate::tls::keys::pem("CERTIFICATE", &ca.der);
    let roots = |ca: &Ca, domain: &str| Roots::from_pem(&pem(ca), domain).unwrap();
    let foreign: Arc<[Roots]> = [roots(&far, "far.test")].into();
    let verifier = Verifier { roots: roots(&home, "mesh.local"), foreign, expected: None, mandatory: true };
    let key = KeyPair::generate().unwrap();
    let of = |domain: &str| format!("spiffe://{domain}/ns/default/sa/web");
    let check = |issuer: &Ca, domain: &str| {
        let leaf = leaf_for(issuer, &key, |params| params.subject_alt_names = vec![uri(&of(domain))]);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        verifier.check(&leaf, &[], Usage::Client, now).map_err(|error| refusal_of(&error).unwrap().label())
    };
    assert_eq!(check(&home, "mesh.local"), Ok(()));
    assert_eq!(check(&far, "far.test"), Ok(()));
    // Neither speaks for the other, nor for a third.
    assert_eq!(check(&far, "mesh.local"), Err("unknown_issuer"));
    assert_eq!(check(&home, "far.test"), Err("unknown_issuer"));
    assert_eq!(check(&far, "third.test"), Err("unknown_issuer"));
    assert_eq!(check(&home, "third.test"), Err("trust_domain"));
}
