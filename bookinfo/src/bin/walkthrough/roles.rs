//! What each role answers. Pure but for the dice of the retry backend; `server` speaks HTTP, waits and ends the process.

use super::{Failure, Role};
use std::cell::Cell;
use std::time::Duration;

use serde_json::json;

/// A role and what it counts.
pub(crate) struct Server {
    pub(crate) role: Role,
    version: String,
    instance: String,
    mode: Failure,
    fail_rate: u32,
    in_flight: Cell<u32>,
    most_in_flight: Cell<u32>,
    served: Cell<u64>,
}

/// What is asked.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: Vec<(String, String)>,
}

/// What is done about it.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) after: Duration,
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Instead of an answer the process ends.
    pub(crate) crash: bool,
}

impl Answer {
    fn ok(body: String) -> Self {
        Self { after: Duration::ZERO, status: 200, body, crash: false }
    }
}

impl Server {
    pub(crate) fn new(role: Role, version: String, mode: Failure, fail_rate: u32) -> Self {
        let instance = std::env::var("MESOS_TASK_ID").unwrap_or_else(|_| format!("pid-{}", std::process::id()));
        let zero = || Cell::new(0);
        Self { role, version, instance, mode, fail_rate, in_flight: zero(), most_in_flight: zero(), served: Cell::new(0) }
    }

    /// `dice`: uniform in 0..100.
    pub(crate) fn answer(&self, asked: &Asked<'_>, dice: u32) -> Answer {
        self.served.set(self.served.get() + 1);
        let Self { version, instance, .. } = self;
        match self.role {
            Role::Helloworld => Answer::ok(format!("Hello version: {version}, instance: {instance}\n")),
            Role::Web => Answer::ok(format!("version: {version}\ninstance: {instance}\n")),
            Role::Sniffer => Answer::ok(String::new()),
            Role::RetryBackend if dice < self.fail_rate => match self.mode {
                Failure::Busy => Answer { status: 503, ..Answer::ok("busy\n".to_owned()) },
                Failure::Hang => Answer { after: Duration::from_secs(5), ..Answer::ok(format!("OK late {instance}\n")) },
                Failure::Crash => Answer { crash: true, ..Answer::ok(String::new()) },
            },
            Role::RetryBackend => Answer::ok(format!("OK {instance}\n")),
            Role::Httpbin => self.httpbin(asked),
        }
    }

    fn httpbin(&self, asked: &Asked<'_>) -> Answer {
        let path = asked.path.split('?').next().unwrap_or_default();
        let headers: serde_json::Map<_, _> = asked.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let body = json!({
            "method": asked.method,
            "path": asked.path,
            "headers": headers,
            "instance": self.instance,
            "version": self.version,
            "served": self.served.get(),
            "mostInFlight": self.most_in_flight.get(),
        });
        let answer = Answer::ok(format!("{body}\n"));
        if path == "/forget" {
            self.most_in_flight.set(self.in_flight.get());
        }
        match path.split('/').collect::<Vec<_>>()[..] {
            ["", "status", code] => match code.parse() {
                Ok(status @ 200..=599) => Answer { status, ..answer },
                _ => Answer { status: 400, ..answer },
            },
            // httpbin's own limit is 10 s.
            ["", "delay", seconds] => match seconds.parse::<f64>() {
                Ok(seconds) if (0.0..=10.0).contains(&seconds) => Answer { after: Duration::from_secs_f64(seconds), ..answer },
                _ => Answer { status: 400, ..answer },
            },
            _ => answer,
        }
    }

    pub(crate) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.most_in_flight.set(self.most_in_flight.get().max(self.in_flight.get()));
    }

    pub(crate) fn end(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &Server, path: &str, dice: u32) -> Answer {
        server.answer(&Asked { method: "GET", path, headers: Vec::new() }, dice)
    }

    #[test]
    fn the_retry_backend_fails_as_often_as_it_is_told_and_in_the_way_it_is_told() {
        for (mode, status, seconds, crash) in
            [(Failure::Busy, 503, 0, false), (Failure::Hang, 200, 5, false), (Failure::Crash, 200, 0, true)]
        {
            let server = Server::new(Role::RetryBackend, "v1".into(), mode, 30);
            let failed = ask(&server, "/", 29);
            assert_eq!((failed.status, failed.after.as_secs(), failed.crash), (status, seconds, crash));
            let good = ask(&server, "/", 30);
            assert!(good.status == 200 && good.after.is_zero() && !good.crash && good.body.starts_with("OK"));
        }
    }

    #[test]
    fn httpbin_answers_status_and_delay_and_counts_what_is_in_flight() {
        let server = Server::new(Role::Httpbin, "v1".into(), Failure::Busy, 0);
        assert_eq!(ask(&server, "/status/418", 0).status, 418);
        assert_eq!(ask(&server, "/status/teapot", 0).status, 400);
        assert_eq!(ask(&server, "/delay/2.5", 0).after, Duration::from_millis(2500));
        assert_eq!(ask(&server, "/delay/11", 0).status, 400);
        server.begin();
        server.begin();
        server.end();
        server.begin();
        let body: serde_json::Value = serde_json::from_str(&ask(&server, "/get?a=b", 0).body).unwrap();
        assert_eq!((&body["mostInFlight"], &body["path"]), (&json!(2), &json!("/get?a=b")));
        server.end();
        ask(&server, "/forget", 0);
        let body: serde_json::Value = serde_json::from_str(&ask(&server, "/get", 0).body).unwrap();
        assert_eq!(body["mostInFlight"], json!(1));
    }

    #[test]
    fn version_and_instance_are_named() {
        for role in [Role::Helloworld, Role::Web] {
            let body = ask(&Server::new(role, "v7".into(), Failure::Busy, 0), "/hello", 0).body;
            assert!(body.contains("version: v7") && body.contains("instance: "), "{body}");
        }
    }
}
