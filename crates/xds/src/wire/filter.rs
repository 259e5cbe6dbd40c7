// SPDX-License-Identifier: Apache-2.0
//! The filters of a `Route` on the wire.

use super::Error;
use super::check::{self, LIST_MAX, invalid, list, missing};
use super::route::{destination, destination_out, hostname};
use crate::proto::byrnie::v1 as pb;
use byrnie_base::Text;
use byrnie_model::route::{
    Cors, DIRECT_BODY_BYTES_MAX, Direct, DirectResponse, HeaderEdits, Mirror, PathEdit, Redirect, Rewrite, RouteFilter,
};
use std::sync::Arc;

pub(super) fn filter(from: pb::RouteFilter) -> Result<RouteFilter, Error> {
    use pb::route_filter::Filter;
    Ok(match from.filter.ok_or_else(|| missing("rules[].filters[]"))? {
        Filter::RequestHeaders(from) => RouteFilter::RequestHeaders(edits(from)?),
        Filter::ResponseHeaders(from) => RouteFilter::ResponseHeaders(edits(from)?),
        Filter::Redirect(from) => RouteFilter::Redirect(redirect(from)?),
        Filter::Rewrite(from) => RouteFilter::Rewrite(Rewrite {
            hostname: from.hostname.map(|host| hostname(&host)).transpose()?,
            path: from.path.map(path_edit).transpose()?,
        }),
        Filter::Mirror(from) => RouteFilter::Mirror(mirror(from)?),
        Filter::Cors(from) => RouteFilter::Cors(cors(from)?),
        Filter::Direct(from) => RouteFilter::Direct(Direct {
            filter: check::text("rules[].filters[].extensionRef", &from.filter)?,
            response: from.response.map(response).transpose()?.map(Arc::new),
        }),
    })
}

fn response(from: pb::DirectResponse) -> Result<DirectResponse, Error> {
    const FIELD: &str = "rules[].filters[].directResponse";
    let status = u16::try_from(from.status).ok().filter(|status| (200..=599).contains(status));
    let status = status.ok_or_else(|| invalid(FIELD))?;
    let fits = from.body.is_empty() || DirectResponse::has_body(status);
    if !fits || from.body.len() > DIRECT_BODY_BYTES_MAX {
        return Err(invalid(FIELD));
    }
    let content_type = from.content_type.map(|text| check::text(FIELD, &text)).transpose()?;
    Ok(DirectResponse { status, content_type, body: from.body.into() })
}

fn mirror(from: pb::Mirror) -> Result<Mirror, Error> {
    const FIELD: &str = "rules[].filters[].requestMirror";
    if from.of == 0 || from.share > from.of {
        return Err(invalid(FIELD));
    }
    Ok(Mirror { to: destination(FIELD, from.to)?, share: from.share, of: from.of })
}

fn cors(from: pb::Cors) -> Result<Cors, Error> {
    const FIELD: &str = "rules[].filters[].cors";
    let texts = |texts: Vec<String>| list(FIELD, LIST_MAX, texts, |text| check::text(FIELD, &text));
    Ok(Cors {
        origins: texts(from.origins)?,
        credentials: from.credentials,
        methods: texts(from.methods)?,
        headers: texts(from.headers)?,
        expose: texts(from.expose)?,
        max_age: from.max_age,
    })
}

fn cors_out(from: &Cors) -> pb::Cors {
    let texts = |texts: &[Text]| texts.iter().map(Text::to_string).collect();
    pb::Cors {
        origins: texts(&from.origins),
        credentials: from.credentials,
        methods: texts(&from.methods),
        headers: texts(&from.headers),
        expose: texts(&from.expose),
        max_age: from.max_age,
    }
}

pub(super) fn filter_out(from: &RouteFilter) -> pb::RouteFilter {
    use pb::route_filter::Filter;
    let filter = match from {
        RouteFilter::RequestHeaders(edits) => Filter::RequestHeaders(edits_out(edits)),
        RouteFilter::ResponseHeaders(edits) => Filter::ResponseHeaders(edits_out(edits)),
        RouteFilter::Redirect(from) => Filter::Redirect(pb::Redirect {
            scheme: from.scheme.as_ref().map(Text::to_string),
            hostname: from.hostname.as_ref().map(Text::to_string),
            path: from.path.as_ref().map(path_edit_out),
            port: from.port.map(u32::from),
            status: from.status.into(),
        }),
        RouteFilter::Rewrite(from) => Filter::Rewrite(pb::Rewrite {
            hostname: from.hostname.as_ref().map(Text::to_string),
            path: from.path.as_ref().map(path_edit_out),
        }),
        RouteFilter::Mirror(from) => {
            Filter::Mirror(pb::Mirror { to: Some(destination_out(&from.to)), share: from.share, of: from.of })
        }
        RouteFilter::Cors(from) => Filter::Cors(cors_out(from)),
        RouteFilter::Direct(from) => Filter::Direct(pb::Direct {
            filter: from.filter.to_string(),
            response: from.response.as_ref().map(|says| pb::DirectResponse {
                status: says.status.into(),
                content_type: says.content_type.as_ref().map(Text::to_string),
                body: says.body.to_string(),
            }),
        }),
    };
    pb::RouteFilter { filter: Some(filter) }
}

fn redirect(from: pb::Redirect) -> Result<Redirect, Error> {
    const FIELD: &str = "rules[].filters[].requestRedirect";
    if from.scheme.as_deref().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(invalid(FIELD));
    }
    let status = u16::try_from(from.status).ok().filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308));
    Ok(Redirect {
        scheme: from.scheme.map(Text::from),
        hostname: from.hostname.map(|host| hostname(&host)).transpose()?,
        path: from.path.map(path_edit).transpose()?,
        port: from.port.map(|port| check::port(FIELD, port)).transpose()?,
        status: status.ok_or_else(|| invalid(FIELD))?,
    })
}

fn path_edit(from: pb::PathEdit) -> Result<PathEdit, Error> {
    const FIELD: &str = "rules[].filters[].path";
    Ok(match from.edit.ok_or_else(|| missing(FIELD))? {
        pb::path_edit::Edit::Full(text) => PathEdit::Full(check::text(FIELD, &text)?),
        pb::path_edit::Edit::Prefix(text) => PathEdit::Prefix(check::text(FIELD, &text)?),
    })
}

fn path_edit_out(from: &PathEdit) -> pb::PathEdit {
    let edit = match from {
        PathEdit::Full(text) => pb::path_edit::Edit::Full(text.to_string()),
        PathEdit::Prefix(text) => pb::path_edit::Edit::Prefix(text.to_string()),
    };
    pb::PathEdit { edit: Some(edit) }
}

fn edits(from: pb::HeaderEdits) -> Result<HeaderEdits, Error> {
    const FIELD: &str = "rules[].filters[].headers";
    let pair = |header: pb::Header| Ok((check::token(FIELD, &header.name)?, check::text(FIELD, &header.value)?));
    let lower = |name: String| match check::token(FIELD, &name)? {
        name if name.bytes().any(|b| b.is_ascii_uppercase()) => Err(invalid(FIELD)),
        name => Ok(name),
    };
    Ok(HeaderEdits {
        set: list(FIELD, LIST_MAX, from.set, pair)?,
        add: list(FIELD, LIST_MAX, from.add, pair)?,
        remove: list(FIELD, LIST_MAX, from.remove, lower)?,
    })
}

fn edits_out(from: &HeaderEdits) -> pb::HeaderEdits {
    let pair = |(name, value): &(Text, Text)| pb::Header { name: name.to_string(), value: value.to_string() };
    pb::HeaderEdits {
        set: from.set.iter().map(pair).collect(),
        add: from.add.iter().map(pair).collect(),
        remove: from.remove.iter().map(Text::to_string).collect(),
    }
}
