// SPDX-License-Identifier: Apache-2.0
mod heads;
mod hostile;
mod pair;

use super::*;
use proptest::prelude::*;

/// A frame with its payload.
pub(super) fn bytes_of(frame: Frame, payload: &[u8]) -> Vec<u8> {
    let value = if frame.kind.has_payload() { payload.len() as u32 } else { frame.value };
    [&Frame { value, ..frame }.to_bytes()[..], payload].concat()
}

pub(super) fn frame(slot: u32, kind: Kind, end: bool) -> Frame {
    Frame { stream: StreamId::new(slot, 1), kind, end, value: 0 }
}

/// The frames in `input`, each piece of a body joined to its frame, however the input is cut.
fn read(input: &[u8], cuts: &[usize]) -> Result<Vec<(Frame, Vec<u8>, bool)>, Wrong> {
    let mut reader = Reader::default();
    let mut frames: Vec<(Frame, Vec<u8>, bool)> = Vec::new();
    let mut at = 0;
    for end in cuts.iter().map(|&cut| cut.min(input.len())).chain([input.len()]) {
        let mut part = &input[at.min(end)..end];
        at = at.max(end);
        while let Some(piece) = reader.next(&mut part)? {
            if piece.first {
                frames.push((piece.frame, Vec::new(), false));
            }
            let last = frames.last_mut().unwrap();
            assert!(last.0 == piece.frame && !last.2, "pieces of a frame follow each other");
            last.1.extend_from_slice(piece.payload);
            last.2 = piece.last;
        }
        assert!(part.is_empty(), "all is used");
    }
    Ok(frames)
}

fn any_frame() -> impl Strategy<Value = (Frame, Vec<u8>)> {
    let kinds = prop_oneof![
        Just(Kind::Data),
        Just(Kind::Open),
        Just(Kind::Interim),
        Just(Kind::Trailers),
        Just(Kind::Reset),
        Just(Kind::Credit),
        Just(Kind::Ping),
        Just(Kind::Pong),
        Just(Kind::Goaway),
    ];
    (kinds, 1u32..2000, 0u16..4096, any::<bool>(), 0u32..1 << 24, prop::collection::vec(any::<u8>(), 0..300)).prop_map(
        |(kind, slot, generation, end, value, payload)| {
            let connection = matches!(kind, Kind::Ping | Kind::Pong | Kind::Goaway);
            let stream = if connection { StreamId::CONNECTION } else { StreamId::new(slot, generation) };
            let end = match kind {
                Kind::Data | Kind::Open => end,
                other => other == Kind::Trailers,
            };
            let payload = if kind.has_payload() { payload } else { Vec::new() };
            let value = if kind.has_payload() { payload.len() as u32 } else { value };
            (Frame { stream, kind, end, value }, payload)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn frames_are_read_as_written_wherever_they_are_cut(
        frames in prop::collection::vec(any_frame(), 1..12),
        cuts in prop::collection::vec(0usize..4000, 0..20),
    ) {
        let input: Vec<u8> = frames.iter().flat_map(|(frame, payload)| bytes_of(*frame, payload)).collect();
        let expected: Vec<_> = frames.into_iter().map(|(frame, payload)| (frame, payload, true)).collect();
        let mut cuts = cuts;
        cuts.sort_unstable();
        prop_assert_eq!(read(&input, &cuts).unwrap(), expected);
    }

    #[test]
    fn whatever_comes_nothing_panics_and_cuts_do_not_matter(
        input in prop::collection::vec(prop_oneof![3 => 0u8..9, 1 => any::<u8>()], 0..600),
        cut in 0usize..600,
    ) {
        hostile::survive(&input);
        let whole = read(&input, &[]);
        let cut = read(&input, &[cut]);
        prop_assert_eq!(whole.is_err(), cut.is_err());
        if let (Ok(whole), Ok(cut)) = (whole, cut) {
            prop_assert_eq!(whole, cut);
        }
    }
}

#[test]
fn a_stream_of_frames_cut_at_every_byte_is_the_same() {
    let open = bytes_of(frame(1, Kind::Open, false), b"head and body");
    let data = bytes_of(frame(1, Kind::Data, false), &[7; 40]);
    let end = bytes_of(frame(1, Kind::Trailers, true), b"x: y\r\n\r\n");
    let credit = Frame::new(StreamId::CONNECTION, Kind::Credit, 77).to_bytes();
    let input = [&open[..], &data, &credit, &end].concat();
    let whole = read(&input, &[]).unwrap();
    assert_eq!(whole.len(), 4);
    for cut in 0..=input.len() {
        assert_eq!(read(&input, &[cut]).unwrap(), whole, "cut at {cut}");
    }
    let each: Vec<usize> = (0..input.len()).collect();
    assert_eq!(read(&input, &each).unwrap(), whole);
}

#[test]
fn a_number_of_a_stream_keeps_its_place_and_begins_anew() {
    let mut id = StreamId::new(5, 4094);
    for generation in [4094, 4095, 0, 1] {
        assert_eq!((id.slot(), id.generation()), (5, generation));
        id = id.next();
    }
}

#[test]
fn head_body_and_end_are_one_frame_until_it_has_begun_to_leave() {
    let id = StreamId::new(1, 1);
    let mut writer = Writer::default();
    assert!(writer.head(id, Kind::Open, false, |out| out.extend_from_slice(b"head")));
    writer.data(id, b"body");
    writer.end(id);
    let one = bytes_of(frame(1, Kind::Open, true), b"headbody");
    assert_eq!((writer.waiting(), writer.frames()), (&one[..], 1));
    // The end is the end: what another stream adds is a frame of its own.
    writer.control(Frame::new(id.next(), Kind::Reset, code::CANCEL));
    writer.advance(one.len());
    assert_eq!((writer.waiting().len(), writer.gone()), (8, 16));
    writer.advance(8);
    assert_eq!((writer.waiting().len(), writer.frames(), writer.position()), (0, 0, 24));
    // Once a byte has left, its length can't be changed.
    writer.head(id, Kind::Open, false, |out| out.extend_from_slice(b"head"));
    writer.advance(1);
    writer.data(id, b"body");
    writer.end(id);
    let mut all = bytes_of(frame(1, Kind::Open, false), b"head");
    all.extend(bytes_of(frame(1, Kind::Data, true), b"body"));
    assert_eq!(writer.waiting(), &all[1..]);
}

#[test]
fn pieces_join_only_their_own_stream_and_only_so_far() {
    let (a, b) = (StreamId::new(1, 1), StreamId::new(2, 1));
    let mut writer = Writer::default();
    writer.head(a, Kind::Open, false, |out| out.extend_from_slice(b"a"));
    writer.data(b, b"b");
    writer.data(a, b"a");
    assert_eq!(writer.frames(), 3);
    writer.advance(writer.waiting().len());
    writer.head(a, Kind::Open, false, |out| out.extend_from_slice(b"a"));
    writer.data(a, &[0; JOIN_BYTES_MAX]);
    assert_eq!(writer.frames(), 2, "an OPEN stays small enough to be put together when cut");
    writer.data(a, &[0; JOIN_BYTES_MAX]);
    writer.data(a, b"x");
    assert_eq!(writer.frames(), 3);
    let long = writer.head(b, Kind::Open, false, |out| out.resize(out.len() + FRAME_BYTES_MAX + 1, 0));
    assert!(!long && writer.frames() == 3);
    // A payload sent from elsewhere: only what was left of it is added.
    writer.advance(writer.waiting().len());
    writer.data_header(a, 5);
    writer.rest(b"lo");
    writer.end(a);
    assert_eq!(writer.waiting().len(), 8 + 2 + 8);
}

#[test]
fn a_budget_fills_again_with_time_and_not_beyond() {
    use byrnie_base::Instant;
    let mut budget = Budget::new(3, Duration::from_millis(10));
    let mut now = Instant::from_nanos(1_000_000_000);
    let take = |budget: &mut Budget, now| (0..5).filter(|_| budget.take(now)).count();
    assert_eq!(take(&mut budget, now), 3);
    now = now + Duration::from_millis(20);
    assert_eq!(take(&mut budget, now), 2);
    now = now + Duration::from_secs(60);
    assert_eq!(take(&mut budget, now), 3);
    budget.earn(2);
    assert_eq!(take(&mut budget, now), 2);
    budget.earn(100);
    assert_eq!(take(&mut budget, now), 3);
}

/// Asked more often than it fills, or a little less often, it loses nothing.
#[test]
fn a_budget_keeps_the_rest_of_a_pause() {
    use byrnie_base::Instant;
    for step in [1, 7, 15, 19] {
        let mut budget = Budget::new(50, Duration::from_millis(10));
        let mut now = Instant::from_nanos(1_000_000_000);
        (0..50).for_each(|_| assert!(budget.take(now)));
        let mut got = 0;
        let steps = 3000 / step;
        for _ in 0..steps {
            now = now + Duration::from_millis(step);
            while budget.take(now) {
                got += 1;
            }
        }
        assert_eq!(got, steps * step / 10, "every {step} ms");
    }
}

#[test]
fn credit_comes_back_in_halves() {
    let mut window = Window::new(100);
    window.receive(60);
    assert_eq!((window.consume(49), window.left()), (0, 40));
    assert_eq!((window.consume(1), window.left()), (50, 90));
    window.receive(150);
    assert_eq!(window.left(), -60);
}
