//! The parts of the page that come from other services: facts, reviews with stars, and who served what in how long.

use serde_json::Value;

use super::{Outcome, Page, esc};

const FACTS: [(&str, &str); 7] = [
    ("Year", "year"),
    ("Format", "type"),
    ("Pages", "pages"),
    ("Language", "language"),
    ("Publisher", "publisher"),
    ("ISBN-10", "ISBN-10"),
    ("ISBN-13", "ISBN-13"),
];
/// From here on a part is shown as slow.
const SLOW_MILLIS: u64 = 1000;

pub(super) fn details(details: &Outcome) -> String {
    let body = match details {
        Ok(answer) => {
            let facts = FACTS.iter().filter_map(|(label, field)| {
                Some(format!("<div><dt>{label}</dt><dd>{}</dd></div>", scalar(&answer.json[*field])?))
            });
            format!("<dl>{}</dl>", facts.collect::<String>())
        }
        Err(failure) => trouble("details", &failure.reason),
    };
    format!(r#"<section class="facts" aria-label="Details" data-part="details">{body}{}</section>"#, served(details))
}

pub(super) fn reviews(reviews: &Outcome) -> String {
    let body = match reviews {
        Ok(answer) => {
            let list = answer.json["reviews"].as_array().map(Vec::as_slice).unwrap_or_default();
            format!(r#"<div class="quotes">{}</div>"#, list.iter().map(review).collect::<String>())
        }
        Err(failure) => trouble("reviews", &failure.reason),
    };
    format!(r#"<section class="reviews" data-part="reviews"><h2>What readers say</h2>{body}{}</section>"#, served(reviews))
}

fn review(review: &Value) -> String {
    let text = |field: &str| esc(review[field].as_str().unwrap_or_default());
    format!(
        r"<figure>{}<blockquote>{}</blockquote><figcaption>{}</figcaption></figure>",
        stars(&review["rating"]),
        text("text"),
        text("reviewer")
    )
}

fn stars(rating: &Value) -> String {
    if let Some(error) = rating["error"].as_str() {
        return format!(r#"<p class="nostars">{}</p>"#, esc(error));
    }
    let Some(stars) = rating["stars"].as_u64() else { return String::new() };
    let full = usize::try_from(stars.min(5)).unwrap_or(5);
    let color = if rating["color"] == "red" { "red" } else { "black" };
    format!(
        r#"<p class="stars {color}" role="img" aria-label="{full} of 5 stars, {color}">{}<i>{}</i></p>"#,
        "★".repeat(full),
        "★".repeat(5 - full)
    )
}

/// What a visitor reads in place of a part, in the words of Istio's sample, and why.
fn trouble(service: &str, reason: &str) -> String {
    format!(
        r#"<div class="trouble" role="alert"><h3>Error fetching product {service}!</h3><p>Sorry, product {service} are currently unavailable for this book.</p><p class="why">{}</p></div>"#,
        esc(reason)
    )
}

fn served(outcome: &Outcome) -> String {
    match outcome {
        Ok(answer) => format!(
            r#"<p class="served">served by {} in <span class="{}">{}</span></p>"#,
            instance(&answer.json),
            pace(answer.millis),
            duration(answer.millis)
        ),
        Err(failure) => format!(
            r#"<p class="served">failed in <span class="{}">{}</span></p>"#,
            pace(failure.millis),
            duration(failure.millis)
        ),
    }
}

/// The last section: the services that took part, each with its instance, version and a bar as long as it took.
pub(super) fn route(page: &Page<'_>) -> String {
    let mut rows = vec![("details", took(page.details)), ("reviews", took(page.reviews))];
    if let Some(ratings) = page.reviews.as_ref().ok().map(|answer| &answer.json["ratings"]).filter(|ratings| ratings.is_object())
    {
        let who = match ratings["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(instance(ratings)),
        };
        rows.push(("ratings", (who, ratings["millis"].as_u64().unwrap_or_default())));
    }
    let longest = rows.iter().map(|(_, (_, millis))| *millis).max().unwrap_or_default().max(1);
    let list: String = rows.iter().map(|(service, (who, millis))| row(service, who, *millis, longest)).collect();
    let me = &page.identity;
    format!(
        r#"<section class="route"><h2>Who served this page</h2>
<ol><li><span class="svc">productpage</span><span class="inst"><b>{}</b> <code>{}</code></span><span class="bar0"></span><span class="ms">this page</span></li>{list}</ol></section>"#,
        esc(&me.version),
        esc(&me.podname)
    )
}

fn took(outcome: &Outcome) -> (Result<String, String>, u64) {
    match outcome {
        Ok(answer) => (Ok(instance(&answer.json)), answer.millis),
        Err(failure) => (Err(failure.reason.clone()), failure.millis),
    }
}

fn row(service: &str, who: &Result<String, String>, millis: u64, longest: u64) -> String {
    let (inst, class) = match who {
        Ok(instance) => (instance.clone(), pace(millis)),
        Err(reason) => (format!(r#"<span class="failed">{}</span>"#, esc(reason)), "failed"),
    };
    let percent = (millis.saturating_mul(100) / longest).max(1);
    format!(
        r#"<li class="{class}"><span class="svc">{service}</span><span class="inst">{inst}</span><span class="track"><span style="width:{percent}%"></span></span><span class="ms">{}</span></li>"#,
        duration(millis)
    )
}

fn instance(json: &Value) -> String {
    let text = |field: &str| esc(json[field].as_str().unwrap_or("unnamed"));
    format!("<b>{}</b> <code>{}</code>", text("version"), text("podname"))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(esc(text)),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn pace(millis: u64) -> &'static str {
    if millis >= SLOW_MILLIS { "slow" } else { "quick" }
}

fn duration(millis: u64) -> String {
    match millis {
        0 => "under 1 ms".to_owned(),
        1..SLOW_MILLIS => format!("{millis} ms"),
        _ => format!("{}.{:02} s", millis / 1000, millis % 1000 / 10),
    }
}
