// SPDX-License-Identifier: Apache-2.0
//! What a gRPC client may send, well-meant or not.

use super::grpc::{read, read_branch};
use byrnie_base::Rng;
use byrnie_net::serve::unary::Status;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::dtmgimp::{DtmBranchRequest, DtmRequest, DtmTransOptions};

fn saga() -> DtmRequest {
    DtmRequest {
        gid: "g1".into(),
        trans_type: "saga".into(),
        trans_options: Some(DtmTransOptions {
            wait_result: true,
            timeout_to_fail: 3,
            branch_headers: [("x-tenant".to_owned(), "a".to_owned())].into(),
            ..DtmTransOptions::default()
        }),
        customed_data: "{\"concurrent\":true}".into(),
        bin_payloads: vec![vec![0, 255, 10].into(), vec![].into()],
        steps: r#"[{"action":"a/b.C/D","compensate":"a/b.C/E"},{"action":"a/b.C/F","compensate":""}]"#.into(),
        ..DtmRequest::default()
    }
}

#[test]
fn a_request_is_read_as_over_http() {
    let asked = read(&saga().encode_to_vec()).unwrap();
    assert_eq!((asked.gid.as_deref(), asked.trans_type.as_deref()), (Some("g1"), Some("saga")));
    assert_eq!((asked.wait_result, asked.timeout_to_fail, asked.pace.retry_limit), (Some(true), Some(3), None));
    assert_eq!(asked.payloads.unwrap(), ["AP8K", ""]);
    let steps = asked.steps.unwrap();
    assert_eq!((steps.len(), steps[1].action.as_deref()), (2, Some("a/b.C/F")));
    assert_eq!(asked.branch_headers.unwrap()["x-tenant"], "a");
    let joins = DtmBranchRequest {
        gid: "g1".into(),
        branch_id: "01".into(),
        data: [("confirm".to_owned(), "a/b.C/D".to_owned())].into(),
        busi_payload: vec![1].into(),
        ..DtmBranchRequest::default()
    };
    let joins = read_branch(&joins.encode_to_vec()).unwrap();
    assert_eq!((joins.confirm.as_deref(), joins.cancel, joins.data.as_deref()), (Some("a/b.C/D"), None, Some("AQ==")));
}

#[test]
fn nothing_nulls_and_fields_of_tomorrow_are_taken() {
    assert!(read(&[]).is_ok_and(|asked| asked.steps.is_none() && asked.gid.as_deref() == Some("")));
    let null = DtmRequest { steps: "null".into(), ..DtmRequest::default() };
    assert!(read(&null.encode_to_vec()).is_ok_and(|asked| asked.steps.is_none()));
    let mut later = saga().encode_to_vec();
    // Field 200, a string.
    later.extend([0xc2, 0x0c, 2, b'h', b'i']);
    assert!(read(&later).is_ok_and(|asked| asked.gid.as_deref() == Some("g1")));
}

#[test]
fn what_can_not_be_meant_is_refused_with_words() {
    let refused = |change: &dyn Fn(&mut DtmRequest)| {
        let mut asked = saga();
        change(&mut asked);
        let refusal = read(&asked.encode_to_vec()).map(|_| ()).unwrap_err();
        assert_eq!(refusal.status, Status::InvalidArgument);
        refusal.text
    };
    assert!(refused(&|asked| asked.steps = "[".into()).contains("Steps"));
    assert!(refused(&|asked| asked.steps = "{}".into()).contains("Steps"));
    assert!(refused(&|asked| asked.bin_payloads[0] = vec![0; 64 * 1024 + 1].into()).contains("65536"));
    let options = |options: DtmTransOptions| refused(&|asked| asked.trans_options = Some(options.clone()));
    assert!(options(DtmTransOptions { timeout_to_fail: -1, ..Default::default() }).contains("TimeoutToFail is -1"));
    assert!(options(DtmTransOptions { retry_limit: i64::MAX, ..Default::default() }).contains("RetryLimit"));
}

#[test]
fn no_bytes_panic() {
    let whole = saga().encode_to_vec();
    for end in 0..whole.len() {
        drop((read(&whole[..end]), read_branch(&whole[..end])));
    }
    // One bit after the other, and noise.
    for at in 0..whole.len() * 8 {
        let mut bent = whole.clone();
        bent[at / 8] ^= 1 << (at % 8);
        drop((read(&bent), read_branch(&bent)));
    }
    let mut dice = Rng::new(7);
    for _ in 0..20_000 {
        let length = (dice.next_u64() % 64) as usize;
        let noise: Vec<u8> = (0..length).map(|_| (dice.next_u64() & 0xff) as u8).collect();
        drop((read(&noise), read_branch(&noise)));
    }
}
