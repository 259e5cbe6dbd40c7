// SPDX-License-Identifier: Apache-2.0
//! `Gateway` on the wire. Its class and who may attach have been judged before; they travel along so
//! that a gateway is the same on both sides.

use super::Error;
use super::check::{self, LIST_MAX, invalid, labels, labels_out, list, message, missing};
use super::route::hostname;
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_base::Text;
use byrnie_model::gateway::{
    Carries, CertificateRef, Expression, From, Frontend, Gateway, Listener, Selector, Validation, Wanted,
};
use byrnie_model::range::Range;
use byrnie_model::{Labels, Revision, Spec};
use std::sync::Arc;

pub(super) fn encode(gateway: &Gateway, created: Revision, labels: &Labels) -> Bytes {
    let listener = |listener: &Listener| pb::Listener {
        name: listener.name.to_string(),
        hostname: listener.hostname.as_ref().map(Text::to_string),
        port: listener.port.into(),
        from: Some(match &listener.from {
            From::Same => pb::listener::From::Same(true),
            From::All => pb::listener::From::All(true),
            From::Selected(selector) => pb::listener::From::Selected(selector_out(selector)),
        }),
        kinds: listener.kinds.iter().map(Text::to_string).collect(),
        carries: match gateway.frontend.of(listener) {
            Some(_) => pb::Carries::HttpsValidated as i32,
            None => carries_out(&listener.carries) as i32,
        },
        certificates: listener.carries.certificates().iter().map(certificate_out).collect(),
    };
    let message = pb::Gateway {
        labels: labels_out(labels),
        class: gateway.class.to_string(),
        listeners: gateway.listeners.iter().map(listener).collect(),
        created: created.0,
        parent: gateway.parent.as_ref().map(check::service_ref_out),
        balancers: gateway.balancers.iter().map(Range::to_string).collect(),
        frontend: (gateway.frontend != Frontend::default()).then(|| frontend_out(&gateway.frontend)),
    };
    message.encode_to_vec().into()
}

/// What bytes say, and when the gateway began to exist.
pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels, Revision), Error> {
    let gateway: pb::Gateway = message("gateway", bytes)?;
    let frontend = gateway.frontend.map(frontend).transpose()?.unwrap_or_default();
    let listener = |from: pb::Listener| {
        let is_validated = from.carries == pb::Carries::HttpsValidated as i32;
        let listener = Listener {
            name: check::name("listeners[].name", &from.name)?,
            hostname: from.hostname.map(|host| hostname(&host)).transpose()?,
            port: check::port("listeners[].port", from.port)?,
            carries: carries(from.carries, list(CERTIFICATES, LIST_MAX, from.certificates, certificate)?)?,
            from: match from.from.ok_or_else(|| missing("listeners[].allowedRoutes"))? {
                pb::listener::From::Same(_) => From::Same,
                pb::listener::From::All(_) => From::All,
                pb::listener::From::Selected(from) => From::Selected(selector(from)?),
            },
            kinds: list("listeners[].allowedRoutes.kinds", LIST_MAX, from.kinds, |kind| {
                check::name("listeners[].allowedRoutes.kinds", &kind)
            })?,
        };
        if frontend.of(&listener).is_some() != is_validated {
            return Err(invalid("spec.tls.frontend"));
        }
        Ok(listener)
    };
    let spec = Gateway {
        class: check::optional_name("gatewayClassName", &gateway.class)?,
        parent: gateway.parent.map(|parent| check::service_ref("parentRef", Some(parent))).transpose()?,
        // Who may add was judged before, and one that has parameters isn't sent.
        sets: None,
        parameters: None,
        balancers: list("spec.infrastructure", LIST_MAX, gateway.balancers, |text| {
            Range::parse(&text).ok_or_else(|| invalid("spec.infrastructure"))
        })?,
        listeners: list("listeners", LIST_MAX, gateway.listeners, listener)?,
        frontend,
    };
    Ok((Spec::Gateway(Arc::new(spec)), labels("labels", gateway.labels)?, Revision(gateway.created)))
}

const CERTIFICATES: &str = "listeners[].tls.certificateRefs";

const fn carries_out(carries: &Carries) -> pb::Carries {
    match carries {
        Carries::Http => pb::Carries::Http,
        Carries::Https(_) => pb::Carries::Https,
        Carries::Tcp => pb::Carries::Tcp,
        Carries::Udp => pb::Carries::Udp,
        Carries::Tls(_) => pb::Carries::Tls,
        Carries::Passthrough => pb::Carries::Passthrough,
        Carries::Sites => pb::Carries::Sites,
    }
}

fn carries(number: i32, certificates: Vec<CertificateRef>) -> Result<Carries, Error> {
    let found = pb::Carries::try_from(number).map_err(|_| invalid("listeners[].protocol"))?;
    let ends = matches!(found, pb::Carries::Https | pb::Carries::HttpsValidated | pb::Carries::Tls);
    if !certificates.is_empty() && !ends {
        return Err(invalid(CERTIFICATES));
    }
    Ok(match found {
        pb::Carries::Http => Carries::Http,
        pb::Carries::Https | pb::Carries::HttpsValidated => Carries::Https(certificates),
        pb::Carries::Tcp => Carries::Tcp,
        pb::Carries::Udp => Carries::Udp,
        pb::Carries::Tls => Carries::Tls(certificates),
        pb::Carries::Passthrough => Carries::Passthrough,
        pb::Carries::Sites => Carries::Sites,
    })
}

fn certificate_out(to: &CertificateRef) -> pb::CertificateRef {
    pb::CertificateRef {
        namespace: to.namespace.to_string(),
        name: to.name.to_string(),
        unserved: to.unserved.as_ref().map(Text::to_string),
    }
}

fn certificate(from: pb::CertificateRef) -> Result<CertificateRef, Error> {
    Ok(CertificateRef {
        namespace: check::name(CERTIFICATES, &from.namespace)?,
        name: check::name(CERTIFICATES, &from.name)?,
        unserved: from.unserved.map(|word| check::text(CERTIFICATES, &word)).transpose()?,
    })
}

fn frontend_out(frontend: &Frontend) -> pb::Frontend {
    let validation = |said: &Validation| pb::Validation {
        authorities: said.authorities.iter().map(certificate_out).collect(),
        optional: said.optional,
    };
    let port = |(port, said): (&u16, &Option<Validation>)| pb::PortValidation {
        port: (*port).into(),
        validation: said.as_ref().map(validation),
    };
    pb::Frontend {
        default: frontend.default.as_ref().map(validation),
        ports: frontend.ports.iter().map(port).collect(),
    }
}

fn frontend(from: pb::Frontend) -> Result<Frontend, Error> {
    const AT: &str = "spec.tls.frontend";
    let validation = |from: pb::Validation| {
        let authorities = list(AT, LIST_MAX, from.authorities, certificate)?;
        Ok::<_, Error>(Validation { authorities, optional: from.optional })
    };
    let port =
        |from: pb::PortValidation| Ok((check::port(AT, from.port)?, from.validation.map(validation).transpose()?));
    let ports = list(AT, LIST_MAX, from.ports, port)?;
    Ok(Frontend { default: from.default.map(validation).transpose()?, ports: ports.into_iter().collect() })
}

fn selector_out(selector: &Selector) -> pb::Selector {
    use pb::expression::Value;
    let values = |values: &[Text]| pb::Values { values: values.iter().map(Text::to_string).collect() };
    let expression = |expression: &Expression| pb::Expression {
        key: expression.key.to_string(),
        value: Some(match &expression.value {
            Wanted::In(some) => Value::In(values(some)),
            Wanted::NotIn(some) => Value::NotIn(values(some)),
            Wanted::Exists => Value::Exists(true),
            Wanted::DoesNotExist => Value::Exists(false),
        }),
    };
    pb::Selector {
        labels: labels_out(&selector.labels),
        expressions: selector.expressions.iter().map(expression).collect(),
    }
}

fn selector(from: pb::Selector) -> Result<Selector, Error> {
    use pb::expression::Value;
    const AT: &str = "listeners[].allowedRoutes";
    let values = |from: pb::Values| list(AT, LIST_MAX, from.values, |value| Ok(Text::from(value)));
    let expression = |from: pb::Expression| {
        let value = match from.value.ok_or_else(|| missing(AT))? {
            Value::In(some) => Wanted::In(values(some)?),
            Value::NotIn(some) => Wanted::NotIn(values(some)?),
            Value::Exists(true) => Wanted::Exists,
            Value::Exists(false) => Wanted::DoesNotExist,
        };
        Ok(Expression { key: check::name(AT, &from.key)?, value })
    };
    Ok(Selector {
        labels: check::labels(AT, from.labels)?,
        expressions: list(AT, LIST_MAX, from.expressions, expression)?,
    })
}
