//! `access_log` of HttpConnectionManager and TcpProxy: the file logger to this process's own output.

#![expect(deprecated, reason = "deprecated fields are still part of the API: taken, not refused")]

use super::at::{At, Invalid};
use super::common::unpack;
use crate::core::access::{self, Format};
use envoy_types::pb::envoy::config::accesslog::v3 as pb;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as file;
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use std::mem::take;
use std::sync::Arc;

const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
/// A process without privilege in a container has no other file to write to.
const STDOUT: &str = "/dev/stdout";

/// Reads loggers: none, or one.
pub(super) fn access_log(at: &At<'_>, logs: Vec<pb::AccessLog>) -> Result<Option<Arc<Format>>, Invalid> {
    let count = logs.len();
    let mut logs = logs.into_iter();
    let Some(mut log) = logs.next() else { return Ok(None) };
    if count > 1 {
        return Err(at.value(format_args!("{count} loggers; at most one is supported")));
    }
    let at = at.index(0);
    log.name.clear();
    let Some(pb::access_log::ConfigType::TypedConfig(any)) = log.config_type.take() else {
        return Err(at.field("typed_config").missing());
    };
    at.nothing_else(&log)?;
    let at = at.field("typed_config");
    let mut message: file::FileAccessLog = unpack(&at, &any, FILE)?;
    let path = take(&mut message.path);
    if path != STDOUT {
        return Err(at.field("path").value(format_args!("{path:?} is not supported; {STDOUT} is")));
    }
    use file::file_access_log::AccessLogFormat;
    let format = match message.access_log_format.take() {
        None => text(&at, access::TEXT)?,
        Some(AccessLogFormat::Format(format)) => text(&at.field("format"), &format)?,
        Some(AccessLogFormat::JsonFormat(format)) => json(&at.field("json_format"), &format)?,
        Some(AccessLogFormat::TypedJsonFormat(format)) => json(&at.field("typed_json_format"), &format)?,
        Some(AccessLogFormat::LogFormat(format)) => log_format(&at.field("log_format"), format)?,
    };
    Ok(Some(Arc::new(format)))
}

fn log_format(at: &At<'_>, mut message: core::SubstitutionFormatString) -> Result<Format, Invalid> {
    use core::substitution_format_string::Format as Spec;
    // Members are sorted anyway.
    message.json_format_options = None;
    let format = match at.field("format").required(message.format.take())? {
        Spec::TextFormat(format) => text(&at.field("text_format"), &format),
        Spec::JsonFormat(format) => json(&at.field("json_format"), &format),
        Spec::TextFormatSource(source) => match source.specifier {
            Some(core::data_source::Specifier::InlineString(format)) => text(&at.field("text_format_source"), &format),
            _ => Err(at.field("text_format_source").value("only inline_string is supported")),
        },
    };
    at.nothing_else(&message)?;
    format
}

fn text(at: &At<'_>, format: &str) -> Result<Format, Invalid> {
    access::parse(format).map(Format::Text).map_err(|unknown| at.value(unknown))
}

/// Sorted by name, as in Envoy.
fn json(at: &At<'_>, format: &Struct) -> Result<Format, Invalid> {
    let mut members = Vec::new();
    for (name, value) in &format.fields {
        let at = at.field(name);
        let Some(Kind::StringValue(text)) = &value.kind else { return Err(at.value("only strings are supported")) };
        members.push((name.clone(), access::parse(text).map_err(|unknown| at.value(unknown))?));
    }
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Format::Json(members))
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::google::protobuf::Value;
    use envoy_types::util::pack_any;
    use file::file_access_log::AccessLogFormat;

    fn read(path: &str, format: Option<AccessLogFormat>) -> Result<Option<Arc<Format>>, String> {
        let config = pack_any(file::FileAccessLog { path: path.to_owned(), access_log_format: format });
        let log = pb::AccessLog { config_type: Some(pb::access_log::ConfigType::TypedConfig(config)), ..Default::default() };
        let at = At::resource("l");
        access_log(&at.field("access_log"), vec![log]).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn formats_are_read_and_unknown_commands_named() {
        assert_eq!(access_log(&At::resource("l").field("access_log"), Vec::new()), Ok(None));
        let istio = Format::Text(access::parse(access::TEXT).expect("known"));
        assert_eq!(read("/dev/stdout", None), Ok(Some(Arc::new(istio))));
        let member = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let json = |text: &str| {
            let fields = [("b".to_owned(), member(text)), ("a".to_owned(), member("x"))].into();
            let format = core::substitution_format_string::Format::JsonFormat(Struct { fields });
            Some(AccessLogFormat::LogFormat(core::SubstitutionFormatString { format: Some(format), ..Default::default() }))
        };
        let Ok(Some(format)) = read("/dev/stdout", json("%DURATION%")) else { panic!("taken") };
        let Format::Json(members) = &*format else { panic!("JSON") };
        assert_eq!(members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let text = "l: access_log[0].typed_config.log_format.json_format.b: %NOPE% is not supported";
        assert_eq!(read("/dev/stdout", json("%NOPE%")).expect_err("refused"), text);
        let text = "l: access_log[0].typed_config.path: \"/tmp/log\" is not supported; /dev/stdout is";
        assert_eq!(read("/tmp/log", None).expect_err("refused"), text);
    }
}
