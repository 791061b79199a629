//! The role that people see: asks details and reviews at the same time, draws the page from what came back, keeps the login.
//! Drawing itself is `page`, which is pure.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

use crate::client::{Answer, Failure};
use crate::server::{self, Reply};
use crate::{App, forward, page, session, shop};

const MAX_FORM: usize = 4096;
/// Nothing but this page's own style and its own forms: a script that slipped through escaping would still not run.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// `None` if there is nothing at `path`.
pub(crate) async fn route(app: &App, path: &str, request: Request<Incoming>) -> Option<Reply> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    Some(match (segments.as_slice(), get) {
        (["login"], false) => login(request).await,
        (["logout"], _) => see_page(Some(&session::set_cookie(None))),
        (_, false) => server::error(app, StatusCode::METHOD_NOT_ALLOWED, "only GET is served here"),
        ([] | ["login"], true) => see_page(None),
        (["productpage"], true) => product_page(app, &request).await,
        (["health"], true) => text("Product page is healthy\n"),
        (["api", "v1", "products"], true) => server::json(StatusCode::OK, &shop::products(&app.identity)),
        (["api", "v1", "products", id, rest @ ..], true) => api(app, id, rest, &request).await?,
        _ => return None,
    })
}

async fn product_page(app: &App, request: &Request<Incoming>) -> Reply {
    let user = session::user(request.headers());
    let headers = forward::forwarded_as(request.headers(), user.as_deref());
    let (details, reviews) = tokio::join!(app.backends.details(0, headers.clone()), app.backends.reviews(0, headers));
    let html = page::render(&page::Page { user: user.as_deref(), identity: &app.identity, details: &details, reviews: &reviews });
    let mut reply = Response::new(Full::from(html));
    let out = reply.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    out.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    out.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

async fn api(app: &App, id: &str, rest: &[&str], request: &Request<Incoming>) -> Option<Reply> {
    let Ok(id) = id.parse() else {
        return Some(server::error(app, StatusCode::BAD_REQUEST, "please provide numeric product id"));
    };
    let headers = forward::forwarded_as(request.headers(), session::user(request.headers()).as_deref());
    let outcome = match rest {
        [] => app.backends.details(id, headers).await,
        ["reviews"] => app.backends.reviews(id, headers).await,
        ["ratings"] => app.backends.ratings(id, headers).await,
        _ => return None,
    };
    Some(passed_on(app, outcome))
}

/// The service's own answer and status; what had no status is a bad gateway.
fn passed_on(app: &App, outcome: Result<Answer, Failure>) -> Reply {
    match outcome {
        Ok(answer) => server::json(StatusCode::OK, &answer.json),
        Err(failure) => {
            let status = failure.status.filter(|status| *status >= 400).and_then(|status| StatusCode::from_u16(status).ok());
            server::error(app, status.unwrap_or(StatusCode::BAD_GATEWAY), &failure.reason)
        }
    }
}

async fn login(request: Request<Incoming>) -> Reply {
    let body = Limited::new(request.into_body(), MAX_FORM).collect().await.map(http_body_util::Collected::to_bytes);
    let user = body.ok().and_then(|body: Bytes| session::user_of_form(&body));
    see_page(user.as_deref().map(|user| session::set_cookie(Some(user))).as_deref())
}

fn see_page(cookie: Option<&str>) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = StatusCode::SEE_OTHER;
    reply.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/productpage"));
    if let Some(value) = cookie.and_then(|cookie| HeaderValue::from_str(cookie).ok()) {
        reply.headers_mut().insert(header::SET_COOKIE, value);
    }
    reply
}

fn text(body: &'static str) -> Reply {
    let mut reply = Response::new(Full::from(body));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}
