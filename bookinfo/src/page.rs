//! Draws the product page. Pure: what was asked and what came back in, HTML out. Everything that came over the network goes
//! through `esc`, also what our own services said: between them and us there may be anything.

mod parts;
#[cfg(test)]
mod tests;

use crate::client::{Answer, Failure};
use crate::identity::Identity;
use crate::shop;

const STYLE: &str = include_str!("page/style.css");
/// Two overlapping rings for two pairs of twins, on a cloth cover.
const COVER: &str = include_str!("page/cover.svg");

pub(crate) type Outcome = Result<Answer, Failure>;

pub(crate) struct Page<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) identity: &'a Identity,
    pub(crate) details: &'a Outcome,
    pub(crate) reviews: &'a Outcome,
}

pub(crate) fn render(page: &Page<'_>) -> String {
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · Bookinfo</title>
<link rel="icon" href="data:,">
<style>
{STYLE}</style>
</head>
<body>
<header class="bar"><a class="brand" href="/productpage">Bookinfo</a>{account}</header>
<main>
<article class="book">
<div class="cover">{COVER}</div>
<div class="about">
<h1>{title}</h1>
<p class="by">{byline}</p>
<p class="summary">{summary}</p>
{details}
</div>
</article>
{reviews}
{route}
</main>
<footer class="foot">Bookinfo is a sample shop of four services. This page asked each of them by name and drew what came back.</footer>
</body>
</html>
"#,
        title = esc(shop::TITLE),
        account = account(page.user),
        byline = byline(page.details),
        summary = esc(shop::SUMMARY),
        details = parts::details(page.details),
        reviews = parts::reviews(page.reviews),
        route = parts::route(page),
    )
}

fn account(user: Option<&str>) -> String {
    match user {
        Some(user) => format!(
            r#"<div class="account"><span class="who"><span class="hint">Signed in as </span><b>{}</b></span><a class="button quiet" href="/logout">Sign out</a></div>"#,
            esc(user)
        ),
        None => r#"<details class="account"><summary class="button">Sign in</summary>
<form method="post" action="/login">
<label>User name<input name="username" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="64" required></label>
<label>Password<input name="passwd" type="password" autocomplete="off" placeholder="any will do"></label>
<button class="button">Sign in</button>
</form></details>"#
            .to_owned(),
    }
}

fn byline(details: &Outcome) -> String {
    match details.as_ref().ok().and_then(|answer| answer.json["author"].as_str()) {
        Some(author) => format!("by {}", esc(author)),
        None => "A play in five acts".to_owned(),
    }
}

/// For text and for quoted attribute values.
pub(crate) fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char => out.push(char),
        }
    }
    out
}
