//! Answers that need no upstream: redirects, and direct responses.

use super::entrance::Entrance;
use super::envoy::{core, route};
use crate::istio::virtual_service::{HttpDirectResponse, HttpRedirect, RedirectPortSelection};
use base64::Engine;

/// A redirect.
pub(super) fn redirect(rule: &HttpRedirect, here: &Entrance<'_>) -> route::RedirectAction {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let code = match rule.redirect_code {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let path = match (rule.uri.as_str(), rule.prefix_rewrite.as_str()) {
        ("", "") => None,
        ("", prefix) => Some(PathRewriteSpecifier::PrefixRewrite(prefix.to_owned())),
        (uri, _) => Some(PathRewriteSpecifier::PathRedirect(uri.to_owned())),
    };
    route::RedirectAction {
        host_redirect: rule.authority.clone(),
        port_redirect: port(rule, here),
        response_code: code.into(),
        scheme_rewrite_specifier: (!rule.scheme.is_empty()).then(|| SchemeRewriteSpecifier::SchemeRedirect(rule.scheme.clone())),
        path_rewrite_specifier: path,
        ..Default::default()
    }
}

/// The port to name; 0 is none, and none is named where it is the scheme's own.
fn port(rule: &HttpRedirect, here: &Entrance<'_>) -> u32 {
    let port = match rule.derive_port {
        Some(RedirectPortSelection::FromRequestPort) => u32::from(here.port),
        Some(RedirectPortSelection::FromProtocolDefault) => 0,
        None => rule.port.unwrap_or_default(),
    };
    match (rule.scheme.as_str(), here.is_tls(), port) {
        ("http", _, 80) | ("", false, 80) | ("https", _, 443) | ("", true, 443) => 0,
        _ => port,
    }
}

/// An answer from the rule itself.
pub(super) fn direct(rule: &HttpDirectResponse) -> route::DirectResponseAction {
    use core::data_source::Specifier;
    let body = rule.body.as_ref().and_then(|body| match (&body.string, &body.bytes) {
        (Some(text), _) => Some(Specifier::InlineString(text.clone())),
        (None, Some(encoded)) => base64::engine::general_purpose::STANDARD.decode(encoded).ok().map(Specifier::InlineBytes),
        (None, None) => None,
    });
    let body = body.map(|specifier| core::DataSource { specifier: Some(specifier), ..Default::default() });
    route::DirectResponseAction { status: rule.status, body, ..Default::default() }
}
