// SPDX-License-Identifier: Apache-2.0
use super::*;
use byrnie_base::Rng;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
    bytes.extend_from_slice(payload);
    bytes
}

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

/// What a guard says of `bytes`, cut into pieces of any size.
fn verdict(sender: Sender, bytes: &[u8], mut piece: impl FnMut() -> usize) -> Option<Verdict> {
    let mut guard = Guard::new(sender, at(0));
    guard.preface = 0;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (first, after) = rest.split_at(piece().clamp(1, rest.len()));
        match guard.look(first, at(0)) {
            Ok(()) => rest = after,
            Err((passed, verdict)) => {
                assert!(passed <= first.len());
                return Some(verdict);
            }
        }
    }
    None
}

#[test]
fn a_verdict_is_the_same_however_the_bytes_come() {
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let mut rng = Rng::new(7);
    for (sender, bytes, expected) in [
        (Sender::Client, frame(PING, 0, &[0; 8]), None),
        (Sender::Client, frame(PING, 0, &[0; 7]), Some(Verdict::FrameSize)),
        (Sender::Client, frame(PRIORITY, 0, &[0; 4]), Some(Verdict::FrameSize)),
        (Sender::Client, frame(GOAWAY, 0, &[0; 7]), Some(Verdict::FrameSize)),
        (Sender::Client, frame(SETTINGS, 0, &[0; 7]), Some(Verdict::FrameSize)),
        (Sender::Client, frame(SETTINGS, 1, &[0; 6]), Some(Verdict::FrameSize)),
        (Sender::Client, frame(SETTINGS, 0, &setting(4, 1 << 31)), Some(Verdict::FlowControl)),
        (Sender::Client, frame(SETTINGS, 0, &setting(4, (1 << 31) - 1)), None),
        (Sender::Client, frame(SETTINGS, 0, &setting(2, 1)), None),
        (Sender::Server, frame(SETTINGS, 0, &setting(2, 1)), Some(Verdict::Protocol)),
        (Sender::Client, frame(RST_STREAM, 0, &[0; 4]).repeat(RESETS_MAX as usize), None),
        (Sender::Client, frame(RST_STREAM, 0, &[0; 4]).repeat(RESETS_MAX as usize + 1), Some(Verdict::EnhanceYourCalm)),
        (Sender::Proxy, frame(RST_STREAM, 0, &[0; 4]).repeat(RESETS_MAX as usize + 1), None),
        (Sender::Server, frame(RST_STREAM, 0, &[0; 4]).repeat(5000), None),
        (Sender::Client, frame(DATA, 0, &[]).repeat(IDLE_FRAMES_MAX as usize + 1), Some(Verdict::EnhanceYourCalm)),
        (Sender::Client, frame(DATA, 0, b"x").repeat(IDLE_FRAMES_MAX as usize + 1), None),
        (Sender::Client, frame(CONTINUATION, 0, b"x").repeat(65), Some(Verdict::EnhanceYourCalm)),
    ] {
        let whole = verdict(sender, &bytes, || usize::MAX);
        assert_eq!(whole, expected, "{sender:?} {:?}", &bytes[..9]);
        assert_eq!(verdict(sender, &bytes, || 1), expected);
        assert_eq!(verdict(sender, &bytes, || rng.below(40) as usize), expected);
    }
}

#[test]
fn time_answers_and_sent_bytes_give_back_what_was_used() {
    let reset = frame(RST_STREAM, 0, &[0; 4]);
    let mut guard = Guard::new(Sender::Proxy, at(0));
    (guard.preface, guard.sender) = (0, Sender::Client);
    guard.resets_left = 0;
    guard.notes.answered.set(3);
    assert_eq!(guard.look(&reset.repeat(3), at(0)), Ok(()));
    assert_eq!(guard.look(&reset, at(50)), Err((0, Verdict::EnhanceYourCalm)));
    let mut guard = Guard::new(Sender::Client, at(0));
    (guard.preface, guard.resets_left, guard.idle_left) = (0, 0, 0);
    assert_eq!(guard.look(&reset.repeat(10), at(100)), Ok(()));
    guard.idle_left = 0;
    guard.sent(2048);
    assert_eq!(guard.look(&frame(PING, 0, &[0; 8]).repeat(2 * IDLE_FRAMES_PER_KIB as usize), at(100)), Ok(()));
    assert!(guard.look(&frame(PING, 0, &[0; 8]), at(100)).is_err());
}

/// Bytes of a hostile peer, whatever they are, end in a verdict or none, never in a panic.
#[test]
fn any_bytes_are_looked_at() {
    let mut rng = Rng::new(11);
    for _ in 0..2_000 {
        let bytes: Vec<u8> =
            (0..rng.below(200)).map(|_| rng.below(256) as u8 & if rng.below(2) == 0 { 0x0f } else { 0xff }).collect();
        let _ = verdict(Sender::Client, &bytes, || rng.below(9) as usize + 1);
    }
}

#[test]
fn a_busy_server_that_opens_two_windows_for_each_call_is_heard() {
    let credit = frame(WINDOW_UPDATE, 0, &[0, 0, 0, 9]);
    let mut guard = Guard::new(Sender::Server, at(0));
    // As fast as they come: no time passes. A small call under header compression takes some 64 bytes.
    for _ in 0..10 * IDLE_FRAMES_MAX {
        guard.sent(64);
        assert_eq!(guard.look(&credit.repeat(2), at(0)), Ok(()));
    }
}
