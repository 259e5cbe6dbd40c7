// SPDX-License-Identifier: Apache-2.0
//! What fuzzing feeds to parsers, over the inputs that it once found worth keeping: every fixed bug's is among them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its own functions too")]

#[path = "../../../fuzz/bodies/capsule.rs"]
mod capsule;
#[path = "../../../fuzz/bodies/chunk.rs"]
mod chunk;
#[path = "../../../fuzz/bodies/grpc.rs"]
mod grpc;
#[path = "../../../fuzz/bodies/h2.rs"]
mod h2;
#[path = "../../../fuzz/bodies/h3.rs"]
mod h3;
#[path = "../../../fuzz/bodies/head.rs"]
mod head;
#[path = "../../../fuzz/bodies/hop.rs"]
mod hop;
#[path = "../../../fuzz/bodies/hop_head.rs"]
mod hop_head;
#[path = "../../../fuzz/bodies/key.rs"]
mod key;
#[path = "../../../fuzz/bodies/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "../../../fuzz/bodies/replay.rs"]
mod replay;
#[path = "../../../fuzz/bodies/sniff.rs"]
mod sniff;
#[path = "../../../fuzz/bodies/trace.rs"]
mod trace;
#[path = "../../../fuzz/bodies/uri.rs"]
mod uri;

#[test]
fn datagrams_on_a_stream_are_read_alike_wherever_they_are_cut() {
    replay::replay("capsule", capsule::run);
}

#[test]
fn chunked_bodies_are_read_alike_wherever_they_are_cut() {
    replay::replay("chunk", chunk::run);
}

#[test]
fn connections_of_http2_are_read_alike_wherever_they_are_cut() {
    replay::replay("h2", h2::run);
}

#[test]
fn streams_of_http3_are_read_alike_wherever_they_are_cut() {
    replay::replay("h3", h3::run);
}

#[test]
fn heads_that_are_accepted_are_forwarded_as_something_accepted() {
    replay::replay("head", head::run);
}

#[test]
fn frames_of_the_hop_are_read_alike_wherever_they_are_cut() {
    replay::replay("hop", hop::run);
}

#[test]
fn proxy_headers_are_read_as_they_are_written() {
    replay::replay("proxy_protocol", proxy_protocol::run);
}

#[test]
fn verdicts_on_first_bytes_stand_whatever_follows() {
    replay::replay("sniff", sniff::run);
}

#[test]
fn canonical_paths_and_hosts_stay_as_they_are() {
    replay::replay("uri", uri::run);
}

#[test]
fn headers_of_grpc_are_read_as_they_are_written() {
    replay::replay("grpc", grpc::run);
}

#[test]
fn heads_of_the_hop_that_are_accepted_are_passed_on_as_something_accepted() {
    replay::replay("hop_head", hop_head::run);
}

#[test]
fn idempotency_keys_are_the_same_however_they_are_quoted() {
    replay::replay("key", key::run);
}

#[test]
fn places_in_a_trace_are_read_as_they_are_written() {
    replay::replay("trace", trace::run);
}
