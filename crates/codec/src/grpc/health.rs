// SPDX-License-Identifier: Apache-2.0
//! gRPC's health checking protocol (`grpc/grpc`, doc/health-checking.md): one question, one word in answer.

/// Where it is asked.
pub const PATH: &str = "/grpc.health.v1.Health/Check";
/// The `HealthCheckResponse` that says `SERVING`.
pub const SERVING: [u8; 2] = [STATUS_TAG, 1];

/// `HealthCheckResponse.status`, field 1, a varint.
const STATUS_TAG: u8 = 0x08;
/// `HealthCheckRequest.service`, field 1, a string.
const SERVICE_TAG: u8 = 0x0a;

/// A `HealthCheckRequest` about `service`; empty asks about the whole server.
pub fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(SERVICE_TAG);
        let mut left = service.len();
        while left >= 0x80 {
            message.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        message.push(left as u8);
        message.extend_from_slice(service.as_bytes());
    }
    message
}

/// Whether a `HealthCheckResponse` says `SERVING`.
///
/// # Errors
/// What it says instead.
pub fn is_serving(message: &[u8]) -> Result<(), &'static str> {
    // Fields that a newer server may add come after this one; proto3 leaves a zero out.
    match message {
        [STATUS_TAG, 1, ..] => Ok(()),
        [STATUS_TAG, 2, ..] => Err("NOT_SERVING"),
        [STATUS_TAG, 3, ..] => Err("SERVICE_UNKNOWN"),
        _ => Err("UNKNOWN"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_as_protobuf_has_them() {
        assert_eq!(question(""), []);
        assert_eq!(question("a.B"), [0x0a, 3, b'a', b'.', b'B']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 3 + 300);
    }

    #[test]
    fn only_serving_is_well() {
        assert_eq!(is_serving(&SERVING), Ok(()));
        assert_eq!(is_serving(&[8, 2]), Err("NOT_SERVING"));
        assert_eq!(is_serving(&[8, 3]), Err("SERVICE_UNKNOWN"));
        for other in [&[][..], &[8], &[8, 0], &[9, 1], &[0x81, 1]] {
            assert_eq!(is_serving(other), Err("UNKNOWN"), "{other:?}");
        }
    }
}
