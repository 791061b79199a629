//! Formats, rendered.

use super::*;
use std::time::UNIX_EPOCH;

fn pairs(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn line(format: &Format, change: impl FnOnce(&mut Entry<'_>)) -> String {
    let request = pairs(&[("user-agent", "curl/8 \"quoted\""), ("x-request-id", "id")]);
    let response = pairs(&[("x-envoy-upstream-service-time", "12")]);
    let mut entry = Entry {
        started: UNIX_EPOCH,
        duration: Duration::from_millis(15),
        method: "GET",
        scheme: "http",
        authority: "reviews:9080",
        path: "/reviews/0?a=b",
        protocol: "HTTP/1.1",
        request: &request,
        response: &response,
        status: 200,
        grpc_status: None,
        flags: Flags::default(),
        answered: true,
        received: 0,
        sent: 295,
        attempts: 1,
        cluster: "outbound|9080|v1|reviews",
        route: "default",
        upstream: Some(([9, 0, 2, 3], 9080).into()),
        client: None,
        client_ip: Some([9, 0, 1, 4].into()),
        destination: Some(([11, 0, 0, 1], 9080).into()),
        trace_id: None,
        workload: "productpage.instance-1",
    };
    change(&mut entry);
    let mut out = String::new();
    format.write(&entry, &mut out);
    out
}

#[test]
fn istios_own_format_looks_as_istios() {
    let format = Format::Text(parse(TEXT).expect("known commands"));
    assert_eq!(
        line(&format, |_| {}),
        "[1970-01-01T00:00:00.000Z] \"GET /reviews/0?a=b HTTP/1.1\" 200 - via_upstream - \"-\" 0 295 15 12 \"-\" \"curl/8 \"quoted\"\" \
         \"id\" \"reviews:9080\" \"9.0.2.3:9080\" outbound|9080|v1|reviews - 11.0.0.1:9080 9.0.1.4 - default\n"
    );
}

#[test]
fn json_has_numbers_strings_and_null() {
    let members = [
        ("code", "%RESPONSE_CODE%"),
        ("agent", "%REQ(User-Agent)%"),
        ("short", "%REQ(User-Agent):4%"),
        ("none", "%REQ(absent)%"),
        ("mixed", "a %PROTOCOL% 100%%"),
        ("who", "%DYNAMIC_METADATA(mesh.source:workload)%"),
        ("other", "%RESP(absent?X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ];
    let members = members.map(|(name, text)| (name.to_owned(), parse(text).expect("known commands")));
    let said: serde_json::Value = serde_json::from_str(&line(&Format::Json(members.into()), |_| {})).expect("JSON");
    assert_eq!(
        said,
        serde_json::json!({
            "code": 200, "agent": "curl/8 \"quoted\"", "short": "curl", "none": null, "mixed": "a HTTP/1.1 100%",
            "who": "productpage.instance-1", "other": "12",
        })
    );
}

#[test]
fn unknown_commands_are_named() {
    for (text, expected) in [
        ("%NOPE%", "NOPE"),
        ("a %START_TIME(%s)%", "START_TIME("),
        ("%REQ(a b)%", "REQ(a b)"),
        ("%REQ(a):x%", "REQ(a):x"),
        ("%DYNAMIC_METADATA(other:key)%", "DYNAMIC_METADATA(other:key)"),
    ] {
        assert_eq!(parse(text), Err(operators::Unknown::Command(expected.to_owned())), "{text}");
    }
    assert_eq!(parse("100%"), Err(operators::Unknown::Open));
}

#[test]
fn a_clients_bytes_cannot_break_a_line() {
    let format = Format::Text(parse("%REQ(x)%\n").expect("known"));
    let mut request = HeaderMap::new();
    request.insert("x", HeaderValue::from_bytes(b"a\tb\xffc").expect("a value"));
    let mut out = String::new();
    let empty = HeaderMap::new();
    let _ = line(&format, |_| {});
    let entry = Entry {
        started: UNIX_EPOCH,
        duration: Duration::ZERO,
        method: "",
        scheme: "",
        authority: "",
        path: "",
        protocol: "",
        request: &request,
        response: &empty,
        status: 0,
        grpc_status: None,
        flags: Flags::default(),
        answered: false,
        received: 0,
        sent: 0,
        attempts: 0,
        cluster: "",
        route: "",
        upstream: None,
        client: None,
        client_ip: None,
        destination: None,
        trace_id: None,
        workload: "",
    };
    format.write(&entry, &mut out);
    assert_eq!(out, "a?b?c\n");
}
