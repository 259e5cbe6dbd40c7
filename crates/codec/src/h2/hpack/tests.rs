// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::h2::message::Blocks;
use proptest::prelude::*;

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Lines, Broken> {
    let mut lines = Vec::new();
    decoder.read(block, |line| lines.push((line.name.to_vec(), line.value.to_vec())))?;
    Ok(lines)
}

fn lines(text: &[(&str, &str)]) -> Lines {
    text.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// RFC 7541 C.3 and C.4: three requests on one connection, without and with Huffman's code.
#[test]
fn the_requests_of_the_rfc_are_read() {
    let first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    let mut second = first.to_vec();
    second.push(("cache-control", "no-cache"));
    for blocks in [
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
    ] {
        let mut decoder = Decoder::default();
        for (block, expected) in blocks.iter().zip([&first[..], &second, &third]) {
            assert_eq!(read(&mut decoder, &hex(block)).unwrap(), lines(expected));
        }
    }
}

/// RFC 7541 C.6: answers whose entries push each other out of a table of 256 bytes.
#[test]
fn the_answers_of_the_rfc_are_read() {
    let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let (private, location) = (("cache-control", "private"), ("location", "https://www.example.com"));
    let cookie = ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
    let blocks = [
        (
            "3fe101 488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            vec![(":status", "302"), private, date, location],
        ),
        ("4883640effc1c0bf", vec![(":status", "307"), private, date, location]),
        (
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            vec![
                (":status", "200"),
                private,
                ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                location,
                ("content-encoding", "gzip"),
                cookie,
            ],
        ),
    ];
    let mut decoder = Decoder::default();
    for (block, expected) in blocks {
        assert_eq!(read(&mut decoder, &hex(block)).unwrap(), lines(&expected));
    }
}

#[test]
fn what_repeats_becomes_one_byte_and_what_is_secret_never_does() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let mut sizes = Vec::new();
    for n in 0..4 {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.pseudo(Place::Path, b"/shop.Cart/Add", &mut block);
        encoder.field(Known::Other, b"X-Tenant", b"seventeen", &mut block);
        encoder.field(Known::UserAgent, b"user-agent", b"somebody", &mut block);
        let public = block.len();
        encoder.field(Known::Authorization, b"authorization", b"Bearer 0123456789", &mut block);
        encoder.field(Known::XRequestId, b"x-request-id", n.to_string().as_bytes(), &mut block);
        sizes.push((public, block.len() - public));
        let expected = [
            (":path", "/shop.Cart/Add"),
            ("x-tenant", "seventeen"),
            ("user-agent", "somebody"),
            ("authorization", "Bearer 0123456789"),
            ("x-request-id", &n.to_string()),
        ];
        assert_eq!(read(&mut decoder, &block).unwrap(), lines(&expected));
    }
    assert_eq!((sizes[2].0, sizes[3].0), (3, 3), "{sizes:?}");
    assert_eq!(sizes[0].1, sizes[3].1, "{sizes:?}");
}

#[test]
fn numbers_come_back_and_are_bounded() {
    for prefix in [4, 5, 6, 7] {
        for value in (0..600).chain([16_383, 16_384, 65_535, 1 << 20, (1 << 28) - 1]) {
            let mut bytes = Vec::new();
            write_integer(value, prefix, 0, &mut bytes);
            let mut rest = &bytes[..];
            assert_eq!((read_integer(&mut rest, prefix), rest.len()), (Ok(value), 0));
            for cut in 0..bytes.len() {
                assert!(read_integer(&mut &bytes[..cut], prefix).is_err());
            }
        }
    }
    assert!(read_integer(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..], 7).is_err());
}

/// A line of any name and value that may stand in a message; few of them, so that they repeat.
fn line() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let known = prop::sample::select(vec!["accept", "te", "cookie", "content-type", "x-request-id", "grpc-status"]);
    let other = "x-[a-c]{1,2}";
    let name = prop_oneof![known.prop_map(str::to_owned), other.prop_map(String::from)];
    let value = prop_oneof!["[a-b]{0,2}", "[ -~]{0,40}", "[a-z]{1000,1200}"];
    (name, value).prop_map(|(name, value)| (name.into_bytes(), value.into_bytes()))
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        blocks in prop::collection::vec((prop::collection::vec(line(), 0..12), prop::option::of(0..5000_usize)), 1..20),
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for (lines, resize) in blocks {
            if let Some(bytes) = resize {
                encoder.allow(bytes / 3);
                encoder.allow(bytes);
            }
            let mut block = Vec::new();
            encoder.begin(&mut block);
            encoder.pseudo(Place::Authority, b"shop", &mut block);
            for (name, value) in &lines {
                encoder.field(Known::of(name), name, value, &mut block);
            }
            let mut expected = vec![(b":authority".to_vec(), b"shop".to_vec())];
            expected.extend(lines);
            prop_assert_eq!(read(&mut decoder, &block).unwrap(), expected);
        }
    }

    #[test]
    fn coded_strings_are_read_as_plain_ones(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let coded = huffman::tests::encode(&text);
        let mut block = vec![0, 1, b'x'];
        write_integer(coded.len(), 7, 0x80, &mut block);
        block.extend(coded);
        prop_assert_eq!(read(&mut Decoder::default(), &block).unwrap(), vec![(b"x".to_vec(), text)]);
    }

    #[test]
    fn no_bytes_make_it_panic_or_outgrow_its_table(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            if read(&mut decoder, &block).is_err() {
                break;
            }
        }
    }
}
