// SPDX-License-Identifier: Apache-2.0
//! Traffic policies with anything in them that may be.

use super::*;

pub(super) fn traffic() -> impl Strategy<Value = TrafficPolicy> {
    let plain = option::of(select(vec![
        Balance::PeakEwma,
        Balance::LeastRequest,
        Balance::RoundRobin,
        Balance::Random,
        Balance::WeightedRoundRobin,
    ]))
    .prop_map(|balance| (balance, None));
    let on = prop_oneof![
        Just(HashOn::Source),
        label().prop_map(HashOn::Header),
        label().prop_map(HashOn::Cookie),
        label().prop_map(HashOn::Query)
    ];
    let hash = (on, option::of(101u32..=1000)).prop_map(|(on, load_percent_max)| Hash { on, load_percent_max });
    let hashing = (select(vec![Balance::RingHash, Balance::Maglev]), hash)
        .prop_map(|(balance, hash)| (Some(balance), Some(hash)));
    let balance = prop_oneof![plain, hashing];
    let choice = (labels(), option::of(1u32..10_000), option::of(span()), option::of(0u8..101)).prop_map(
        |(labels, most, slow_start, panic_percent)| Choice {
            labels,
            most,
            slow_start,
            panic_percent,
            health_check: None,
            load_report: None,
        },
    );
    let prefer = select(vec![vec![Nearness::Any], vec![Nearness::SameZone, Nearness::SameRegion, Nearness::Any]]);
    let failover = (prefer, 0u8..101, option::of(0u8..101), distribute()).prop_map(
        |(prefer, below_percent, first, distribute)| {
            let shares = match (first, prefer.len()) {
                (Some(first), 3) => vec![first, 100 - first, 0],
                (Some(_), 1) => vec![100],
                _ => vec![],
            };
            Failover { prefer, below_percent, shares, distribute }
        },
    );
    let parts = (option::of(1u32..10_000), option::of(1u8..101), option::of(101u32..10_000), 1u32..1000, span());
    let rows = (1u32..1000, option::of(1u32..1000), option::of(1u32..1000));
    let eject = (rows, parts, span(), 0u8..101).prop_map(|(rows, parts, span, ejected_percent_max)| Eject {
        consecutive_errors: Some(rows.0),
        consecutive_gateway_errors: rows.1,
        consecutive_local_errors: rows.2,
        deviation_percent: parts.0,
        failure_percent: parts.1,
        latency_percent: parts.2,
        volume: parts.3,
        interval: parts.4,
        span,
        ejected_percent_max,
    });
    let rate = || (1u32..1000, span()).prop_map(|(requests, per)| Rate { requests, per });
    let admission = (1u8..91, 1u64..3600, 1u32..1000, 1u8..101, vec(400u16..600, 0..3));
    let admission = option::of(admission.prop_map(|(success_percent, window, volume, rejected_percent_max, codes)| {
        let window = Duration::from_secs(window);
        Admission { success_percent, window, volume, rejected_percent_max, codes }
    }));
    let limits = (1u32..1000, option::of(rate()), option::of(span()), vec(quota(), 0..2), admission);
    let limits = limits.prop_map(|(pending, rate, idle_max, mut quotas, admission)| {
        // No two of them for the same.
        quotas.dedup_by_key(|quota: &mut Quota| std::mem::discriminant(&quota.by));
        Limits { pending_max: Some(pending), queued_max: Some(pending), rate, idle_max, quotas, admission }
    });
    let hedge = prop_oneof![(50u8..=99).prop_map(Hedge::Percentile), span().prop_map(Hedge::Delay)];
    let budget = (0u8..101, span(), rate(), option::of(hedge))
        .prop_map(|(percent, interval, least, hedge)| RetryBudget { percent, interval, least, hedge });
    let connect = option::of((1u64..60_000).prop_map(Duration::from_millis));
    let strings = || option::of("[A-Z]{1,6}".prop_map(Text::from));
    let what = prop_oneof![
        span().prop_map(|delay| (Some(delay), None, false, None)),
        (200u16..600).prop_map(|abort| (None, Some(abort), false, None)),
        span().prop_map(|slow| (None, None, false, Some(slow))),
        Just((None, None, true, None)),
    ];
    let header = option::of((label(), "[a-z]{1,5}".prop_map(Text::from)));
    let fault = (what, 0u8..101, strings(), option::of(path()), header, 0u64..4_000_000_000_000).prop_map(
        |((delay, abort, reset, slow), percent, method, path_prefix, header, until)| Fault {
            percent,
            delay: delay.map(|span| span.min(Duration::from_secs(300))),
            abort,
            reset,
            slow_body: slow.map(|span| span.min(Duration::from_secs(300))),
            method,
            path_prefix,
            header,
            until: byrnie_base::Timestamp::from_millis(until),
        },
    );
    let kinds = proptest::collection::btree_set("[a-z]{1,5}/([a-z]{1,5}|[*])".prop_map(Text::from), 0..3);
    let compression = (0u32..=1 << 20, kinds)
        .prop_map(|(bytes_min, kinds)| Compression { bytes_min, kinds: kinds.into_iter().collect() });
    let rest =
        (option::of(fault), option::of(limits), option::of(budget), any::<bool>(), connect, option::of(compression));
    let targets = proptest::collection::btree_set(label(), 1..3);
    let chosen = (balance, option::of(choice), option::of(failover));
    (targets, chosen, option::of(eject), rest).prop_map(
        |(
            targets,
            ((balance, hash), endpoints, failover),
            eject,
            (fault, limits, retry_budget, unsafe_retry, connect_timeout, compression),
        )| TrafficPolicy {
            targets: targets.into_iter().map(|name| ServiceRef::new("ns", name)).collect(),
            balance,
            hash,
            endpoints,
            failover,
            eject,
            limits,
            retry_budget,
            unsafe_retry,
            fault,
            connect_timeout,
            idempotency: None,
            compression,
        },
    )
}

fn distribute() -> impl Strategy<Value = Vec<Distribution>> {
    let area = |(region, zone): (&str, &str)| Area { region: region.into(), zone: zone.into() };
    let one = (1u8..100, any::<bool>()).prop_map(move |(share, all)| {
        // In the order of their names, as a document has them.
        let rest = if all { ("", "") } else { ("eu", "a") };
        vec![(area(rest), share), (area(("us", "")), 100 - share)]
    });
    let from = proptest::sample::subsequence(vec![("eu", "a"), ("us", ""), ("", "")], 0..3);
    (from, one).prop_map(move |(from, to)| {
        from.into_iter().map(|from| Distribution { from: area(from), to: to.clone() }).collect()
    })
}

pub(super) fn checked() -> impl Strategy<Value = TrafficPolicy> {
    let how = select(vec![
        Check::Http("/healthz?deep=1".into()),
        Check::Grpc("shop.Cart".into()),
        Check::Grpc("".into()),
        Check::Tcp,
    ]);
    let port = select(vec![None, Some(1), Some(u16::MAX)]);
    (traffic(), how, port, 100_u64..3_600_000, 1_u64..=100, 1_u8..=100, 1_u8..=100).prop_map(
        |(policy, how, port, interval, part, sick_after, well_after)| {
            let timeout = Duration::from_millis((interval * part / 100).max(1));
            let interval = Duration::from_millis(interval);
            let health_check = Some(HealthCheck { how, port, interval, timeout, sick_after, well_after });
            // No rule but this one looks at load.
            let weighs = policy.balance == Some(Balance::WeightedRoundRobin);
            let load_report = weighs.then_some(LoadReport { port, interval: interval.min(LoadReport::INTERVAL_MAX) });
            let endpoints = Choice { health_check, load_report, ..policy.endpoints.clone().unwrap_or_default() };
            TrafficPolicy { endpoints: Some(endpoints), ..policy }
        },
    )
}

/// What is read where no key is kept.
fn unkept() -> Idempotency {
    Idempotency {
        mode: KeyMode::Optional,
        guarantee: Guarantee::G0,
        key_ttl: Idempotency::KEY_TTL,
        lease: Idempotency::LEASE,
        on_ambiguous: OnAmbiguous::Hold,
        on_server_error: OnServerError::Ambiguous,
        mint_keys: false,
        status_only: false,
        enlist: Vec::new(),
    }
}

pub(super) fn keyed() -> impl Strategy<Value = TrafficPolicy> {
    let off = (Just(KeyMode::Off), Just(Guarantee::G0), Just(false));
    let modes = select(vec![KeyMode::Optional, KeyMode::Required]);
    let on = (modes, select(vec![Guarantee::G0, Guarantee::G1, Guarantee::G2]), any::<bool>());
    let choice = (
        select(vec![OnAmbiguous::Hold, OnAmbiguous::Reexecute, OnAmbiguous::Probe("/keys".into())]),
        select(vec![OnServerError::Ambiguous, OnServerError::Keep, OnServerError::Release]),
    );
    let lease = (1u64..1000).prop_map(Duration::from_secs);
    (traffic(), prop_oneof![off, on], choice, lease).prop_map(
        |(policy, (mode, guarantee, mint_keys), (on_ambiguous, on_server_error), lease)| {
            let key_ttl = lease * 2;
            let act = |method: &str, path: &str| Act { method: method.into(), path: path.into() };
            let enlist = vec![
                Enlist { call: act("POST", "/a/*"), compensate: act("DELETE", "/b"), complete: None },
                Enlist { call: act("PUT", "/c"), compensate: act("PUT", "/d"), complete: Some(act("POST", "/e")) },
            ];
            let (enlist, status_only) = if mint_keys { (enlist, true) } else { (Vec::new(), false) };
            if mode != KeyMode::Off && guarantee == Guarantee::G0 {
                let idempotency = Idempotency { mode, mint_keys, enlist, ..unkept() };
                return TrafficPolicy { idempotency: Some(idempotency), ..policy };
            }
            let idempotency = Idempotency {
                mode,
                guarantee,
                key_ttl,
                lease,
                on_ambiguous,
                on_server_error,
                mint_keys,
                status_only,
                enlist,
            };
            TrafficPolicy { idempotency: Some(idempotency), ..policy }
        },
    )
}
