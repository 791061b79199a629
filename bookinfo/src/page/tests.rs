//! What the page shows for each outcome, and that nothing from the network becomes markup.

use serde_json::{Value, json};

use super::*;

fn ok(json: Value, millis: u64) -> Outcome {
    Ok(Answer { status: 200, json, millis })
}

fn failed(status: u16, reason: &str) -> Outcome {
    Err(Failure { status: Some(status), reason: reason.into(), millis: 4 })
}

fn identity(podname: &str) -> Identity {
    Identity { podname: podname.into(), version: "v1".into() }
}

fn details() -> Outcome {
    ok(shop::signed(shop::details(0), &identity("details-v1-1")), 12)
}

fn reviews(color: Option<&str>) -> Outcome {
    let ratings = ok(shop::signed(shop::ratings(0), &identity("ratings-v1-1")), 3);
    ok(shop::signed(shop::reviews(0, color.map(|color| (color, &ratings))), &identity("reviews-v2-1")), 20)
}

fn draw(user: Option<&str>, details: &Outcome, reviews: &Outcome) -> String {
    render(&Page { user, identity: &identity("productpage-v1-1"), details, reviews })
}

#[test]
fn a_good_day_names_every_instance() {
    let html = draw(None, &details(), &reviews(Some("black")));
    for text in ["The Comedy of Errors", "William Shakespeare", "PublisherA", "123-1234567890", "Reviewer1", "Reviewer2"] {
        assert!(html.contains(text), "{text}");
    }
    for instance in ["productpage-v1-1", "details-v1-1", "reviews-v2-1", "ratings-v1-1"] {
        assert!(html.contains(instance), "{instance}");
    }
    assert!(!html.contains("Error fetching"));
    assert!(html.contains("Sign in"));
}

#[test]
fn stars_by_color() {
    assert!(!draw(None, &details(), &reviews(None)).contains("★"));
    let black = draw(None, &details(), &reviews(Some("black")));
    assert!(black.contains(r#"class="stars black""#) && black.contains("★★★★<i>★</i>"));
    assert!(draw(None, &details(), &reviews(Some("red"))).contains(r#"class="stars red""#));
}

#[test]
fn a_failed_part_says_so_and_the_rest_stays() {
    let html = draw(Some("jason"), &failed(500, "details answered 500: fault filter abort"), &reviews(None));
    assert!(html.contains("Error fetching product details!"));
    assert!(html.contains("fault filter abort"));
    assert!(html.contains("Reviewer1"));
    assert!(html.contains("Signed in as </span><b>jason</b>"));
    let html = draw(None, &details(), &failed(503, "x"));
    assert!(html.contains("Error fetching product reviews!") && html.contains("PublisherA"));
}

#[test]
fn missing_ratings_are_told_in_the_reviews() {
    let ratings = failed(500, "ratings answered 500");
    let reviews = ok(shop::signed(shop::reviews(0, Some(("red", &ratings))), &identity("reviews-v3-1")), 20);
    let html = draw(None, &details(), &reviews);
    assert_eq!(html.matches("Ratings service is currently unavailable").count(), 2);
    assert!(html.contains("ratings answered 500"));
}

#[test]
fn a_delay_is_seen() {
    let html = draw(None, &ok(shop::details(0), 7012), &reviews(None));
    assert!(html.contains(r#"<span class="slow">7.01 s</span>"#));
}

#[test]
fn nothing_from_the_network_becomes_markup() {
    let evil = "<script>alert(1)</script>\"'&";
    let details = ok(json!({ "author": evil, "year": evil, "type": evil, "podname": evil, "version": evil }), 1);
    let reviews = ok(
        json!({ "podname": evil, "version": evil, "ratings": { "podname": evil, "version": evil, "millis": 1 },
                "reviews": [{ "reviewer": evil, "text": evil, "rating": { "stars": 9, "color": evil } },
                            { "reviewer": evil, "text": evil, "rating": { "error": evil } }] }),
        1,
    );
    for html in [draw(Some(evil), &details, &reviews), draw(Some(evil), &failed(500, evil), &failed(500, evil))] {
        assert!(!html.contains("<script"), "{html}");
        assert!(!html.contains(evil));
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;"));
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let html = draw(None, &details(), &reviews(Some("red")));
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("@import"));
}
