// SPDX-License-Identifier: Apache-2.0
//! `Secret` on the wire.

use super::Error;
use super::check::{invalid, labels, labels_out, message};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_model::secret::{Private, Secret};
use byrnie_model::{Labels, Spec};

pub(super) fn encode(secret: &Secret, labels: &Labels) -> Bytes {
    let message =
        pb::Secret { labels: labels_out(labels), chain: secret.chain.to_string(), key: secret.key.expose().to_owned() };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let secret: pb::Secret = message("secret", bytes)?;
    let pem = |field, text: String| {
        if text.is_empty() || !text.is_ascii() { Err(invalid(field)) } else { Ok(text) }
    };
    let chain = pem("data[tls.crt]", secret.chain)?.into();
    let key = Private::new(pem("data[tls.key]", secret.key)?);
    Ok((Spec::Secret(Secret { chain, key }.into()), labels("labels", secret.labels)?))
}
