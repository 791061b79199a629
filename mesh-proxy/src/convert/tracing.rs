//! HttpConnectionManager's `tracing`, with Zipkin's tracer.

use super::at::{At, Invalid};
use super::common::unpack;
use crate::core::trace::{Collector, Sampling, Tag, TagValue, Tracing};
use envoy_types::pb::envoy::config::trace::v3 as trace;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as pb;
use envoy_types::pb::envoy::r#type::tracing::v3 as tags;
use std::mem::take;
use std::sync::Arc;

const ZIPKIN: &str = "envoy.config.trace.v3.ZipkinConfig";
/// Envoy's default.
const MAX_PATH: usize = 256;

/// Reads it; without a provider nothing is traced, as in Envoy since 1.21.
pub(super) fn tracing(at: &At<'_>, mut message: pb::Tracing) -> Result<Option<Arc<Tracing>>, Invalid> {
    let percent = |value: Option<envoy_types::pb::envoy::r#type::v3::Percent>| value.map(|percent| percent.value);
    let sampling = Sampling::percent(
        percent(message.client_sampling.take()),
        percent(message.random_sampling.take()),
        percent(message.overall_sampling.take()),
    );
    let max_path =
        message.max_path_tag_length.take().map_or(MAX_PATH, |length| usize::try_from(length.value).unwrap_or(MAX_PATH));
    let mut own = Vec::new();
    for (index, tag) in take(&mut message.custom_tags).into_iter().enumerate() {
        let at = at.field("custom_tags");
        own.extend(self::tag(&at.index(index), tag)?);
    }
    let hop = message.spawn_upstream_span.take().is_some_and(|spawn| spawn.value);
    let provider = message.provider.take();
    at.nothing_else(&message)?;
    let Some(provider) = provider else { return Ok(None) };
    let at = at.field("provider");
    let Some(trace::tracing::http::ConfigType::TypedConfig(any)) = provider.config_type else {
        return Err(at.field("typed_config").missing());
    };
    let at = at.field("typed_config");
    let zipkin: trace::ZipkinConfig = unpack(&at, &any, ZIPKIN)?;
    if hop && zipkin.shared_span_context.as_ref().is_none_or(|shared| shared.value) {
        // A hop's span is a server's, which would be the client's own span too.
        return Err(at.field("shared_span_context").value("must be false with spawn_upstream_span"));
    }
    let (collector, long_ids, w3c) = self::zipkin(&at, zipkin)?;
    Ok(Some(Arc::new(Tracing { sampling, tags: own, max_path, long_ids, w3c, hop, collector: Arc::new(collector) })))
}

fn zipkin(at: &At<'_>, mut message: trace::ZipkinConfig) -> Result<(Collector, bool, bool), Invalid> {
    use trace::zipkin_config::{CollectorEndpointVersion, TraceContextOption};
    let cluster = take(&mut message.collector_cluster);
    if cluster.is_empty() {
        return Err(at.field("collector_cluster").missing());
    }
    let path = take(&mut message.collector_endpoint);
    if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
        return Err(at.field("collector_endpoint").value(format_args!("{path:?} is no path")));
    }
    let host = take(&mut message.collector_hostname);
    let host = if host.is_empty() { cluster.clone() } else { host };
    if http::HeaderValue::try_from(&host).is_err() {
        return Err(at.field("collector_hostname").value("no valid header value"));
    }
    if take(&mut message.collector_endpoint_version) != CollectorEndpointVersion::HttpJson as i32 {
        return Err(at.field("collector_endpoint_version").value("only HTTP_JSON is supported"));
    }
    let w3c = match TraceContextOption::try_from(take(&mut message.trace_context_option)) {
        Ok(TraceContextOption::UseB3) => false,
        Ok(TraceContextOption::UseB3WithW3cPropagation) => true,
        Err(_) => return Err(at.field("trace_context_option").value("unknown")),
    };
    let long_ids = take(&mut message.trace_id_128bit);
    // It is about the spans of servers; a client's is always its own, and a hop's was asked for above.
    message.shared_span_context = None;
    at.nothing_else(&message)?;
    Ok((Collector { cluster: cluster.into(), path, host }, long_ids, w3c))
}

/// `None`: a variable that is not set, without default.
fn tag(at: &At<'_>, mut message: tags::CustomTag) -> Result<Option<Tag>, Invalid> {
    use tags::custom_tag::Type;
    let name = take(&mut message.tag);
    if name.is_empty() {
        return Err(at.field("tag").missing());
    }
    let default = |text: String| Some(text).filter(|text| !text.is_empty());
    let value = match at.field("type").required(message.r#type.take())? {
        Type::Literal(literal) => Some(TagValue::Literal(literal.value)),
        Type::Environment(from) => std::env::var(&from.name).ok().or_else(|| default(from.default_value)).map(TagValue::Literal),
        Type::RequestHeader(from) => {
            let name = from.name.parse().map_err(|_invalid| {
                at.field("request_header").field("name").value(format_args!("{:?} is no name of a header", from.name))
            })?;
            Some(TagValue::Header(name, default(from.default_value)))
        }
        Type::Metadata(_) => return Err(at.field("metadata").unsupported()),
        Type::Value(_) => return Err(at.field("value").unsupported()),
    };
    at.nothing_else(&message)?;
    Ok(value.map(|value| Tag { name, value }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::r#type::v3::Percent;
    use envoy_types::pb::google::protobuf::BoolValue;
    use envoy_types::util::pack_any;

    fn message(zipkin: trace::ZipkinConfig) -> pb::Tracing {
        let config = trace::tracing::http::ConfigType::TypedConfig(pack_any(zipkin));
        let provider = trace::tracing::Http { name: "envoy.tracers.zipkin".to_owned(), config_type: Some(config) };
        pb::Tracing { provider: Some(provider), random_sampling: Some(Percent { value: 1.0 }), ..Default::default() }
    }

    fn zipkin_config() -> trace::ZipkinConfig {
        trace::ZipkinConfig {
            collector_cluster: "zipkin".to_owned(),
            collector_endpoint: "/api/v2/spans".to_owned(),
            collector_endpoint_version: trace::zipkin_config::CollectorEndpointVersion::HttpJson as i32,
            trace_context_option: trace::zipkin_config::TraceContextOption::UseB3WithW3cPropagation as i32,
            trace_id_128bit: true,
            ..Default::default()
        }
    }

    fn read(message: pb::Tracing) -> Result<Option<Arc<Tracing>>, String> {
        let at = At::resource("l");
        let at = at.field("tracing");
        tracing(&at, message).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn a_collector_and_tags_are_taken() {
        let literal = tags::custom_tag::Type::Literal(tags::custom_tag::Literal { value: "v".to_owned() });
        let unset = tags::custom_tag::Environment { name: "MESH_TEST_UNSET".to_owned(), default_value: String::new() };
        let tag = |kind| tags::CustomTag { tag: "t".to_owned(), r#type: Some(kind) };
        let custom_tags = vec![tag(literal), tag(tags::custom_tag::Type::Environment(unset))];
        let read = read(pb::Tracing { custom_tags, ..message(zipkin_config()) }).expect("taken").expect("traced");
        assert_eq!((read.sampling, read.max_path), (Sampling { client: 10_000, random: 100, overall: 10_000 }, 256));
        assert_eq!(
            (&*read.collector.cluster, read.collector.host.as_str(), read.w3c, read.long_ids),
            ("zipkin", "zipkin", true, true)
        );
        assert_eq!(read.tags, [Tag { name: "t".to_owned(), value: TagValue::Literal("v".to_owned()) }]);
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        let protobuf = trace::ZipkinConfig { collector_endpoint_version: 2, ..zipkin_config() };
        let text = "l: tracing.provider.typed_config.collector_endpoint_version: only HTTP_JSON is supported";
        assert_eq!(read(message(protobuf)).expect_err("refused"), text);
        let path = trace::ZipkinConfig { collector_endpoint: "spans".to_owned(), ..zipkin_config() };
        assert_eq!(
            read(message(path)).expect_err("refused"),
            "l: tracing.provider.typed_config.collector_endpoint: \"spans\" is no path"
        );
        let verbose = pb::Tracing { verbose: true, ..message(zipkin_config()) };
        assert_eq!(read(verbose).expect_err("refused"), "l: tracing.verbose is not supported");
        let hop = |shared| {
            let zipkin = trace::ZipkinConfig { shared_span_context: shared, ..zipkin_config() };
            read(pb::Tracing { spawn_upstream_span: Some(BoolValue { value: true }), ..message(zipkin) })
        };
        for shared in [None, Some(BoolValue { value: true })] {
            let text = "l: tracing.provider.typed_config.shared_span_context: must be false with spawn_upstream_span";
            assert_eq!(hop(shared).expect_err("refused"), text);
        }
        assert!(hop(Some(BoolValue { value: false })).expect("taken").expect("traced").hop);
        assert_eq!(read(pb::Tracing::default()), Ok(None), "no provider, no tracing");
    }
}
