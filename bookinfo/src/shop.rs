//! The JSON answers of the three services behind the page. Pure: numbers in, documents out; `server` does the asking.
//! Paths and shapes are those of Istio's sample, plus `podname` and `version` in each.

use serde_json::{Map, Value, json};

use crate::client::{Answer, Failure};
use crate::identity::Identity;

pub(crate) const TITLE: &str = "The Comedy of Errors";
pub(crate) const SUMMARY: &str = "Two sets of twins, parted in a shipwreck and each unaware of the other, spend a single day in the same \
city. Shakespeare’s shortest play is also one of his earliest and his most farcical: wit and slapstick, a gold chain, a locked door, \
and one mistaken identity after another.";

const REVIEWS: [(&str, &str); 2] = [
    (
        "Reviewer1",
        "An extremely entertaining play. The slapstick is as fresh as on the first night, and nobody leaves without a smile.",
    ),
    (
        "Reviewer2",
        "Absolutely fun, from the first mix-up to the last. It lacks the depth of the later plays, and does not miss it.",
    ),
];

/// `value`, with the author's name on it.
pub(crate) fn signed(mut value: Value, identity: &Identity) -> Value {
    if let Value::Object(map) = &mut value {
        map.insert("podname".into(), identity.podname.as_str().into());
        map.insert("version".into(), identity.version.as_str().into());
    }
    value
}

pub(crate) fn details(id: u64) -> Value {
    json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    })
}

pub(crate) fn ratings(id: u64) -> Value {
    json!({ "id": id, "ratings": { "Reviewer1": 5, "Reviewer2": 4 } })
}

/// The colour in which a version of reviews shows stars; v1 shows none and does not ask for ratings.
pub(crate) fn star_color(version: &str) -> Option<&'static str> {
    match version {
        "v1" => None,
        "v3" => Some("red"),
        _ => Some("black"),
    }
}

/// `stars`: the colour and what `ratings` said, from v2 on.
pub(crate) fn reviews(id: u64, stars: Option<(&str, &Result<Answer, Failure>)>) -> Value {
    let list: Vec<Value> = REVIEWS
        .iter()
        .map(|(reviewer, text)| {
            let mut review = Map::new();
            review.insert("reviewer".into(), (*reviewer).into());
            review.insert("text".into(), (*text).into());
            if let Some((color, answer)) = stars {
                review.insert("rating".into(), rating(reviewer, color, answer));
            }
            Value::Object(review)
        })
        .collect();
    let mut out = json!({ "id": id.to_string(), "reviews": list });
    if let Some((_, answer)) = stars {
        out["ratings"] = match answer {
            Ok(answer) => {
                json!({ "podname": answer.json["podname"], "version": answer.json["version"], "millis": answer.millis })
            }
            Err(failure) => json!({ "error": failure.reason, "millis": failure.millis }),
        };
    }
    out
}

fn rating(reviewer: &str, color: &str, answer: &Result<Answer, Failure>) -> Value {
    let stars = answer.as_ref().ok().and_then(|answer| answer.json["ratings"][reviewer].as_u64());
    match stars {
        Some(stars) => json!({ "stars": stars.min(5), "color": color }),
        None => json!({ "error": "Ratings service is currently unavailable" }),
    }
}

/// `/api/v1/products` of the page.
pub(crate) fn products(identity: &Identity) -> Value {
    json!([signed(json!({ "id": 0, "title": TITLE, "descriptionHtml": SUMMARY }), identity)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        let identity = Identity { podname: "ratings-v1-1".into(), version: "v1".into() };
        Answer { status: 200, json: signed(ratings(0), &identity), millis: 3 }
    }

    #[test]
    fn details_have_the_samples_fields() {
        let details = details(0);
        for field in ["id", "author", "year", "type", "pages", "publisher", "language", "ISBN-10", "ISBN-13"] {
            assert!(!details[field].is_null(), "{field}");
        }
    }

    #[test]
    fn every_answer_names_instance_and_version() {
        let identity = Identity { podname: "reviews-v2-1".into(), version: "v2".into() };
        for answer in [details(0), ratings(0), reviews(0, None), products(&identity)[0].clone()] {
            let answer = signed(answer, &identity);
            assert_eq!(answer["podname"], "reviews-v2-1");
            assert_eq!(answer["version"], "v2");
        }
    }

    #[test]
    fn v1_has_no_stars_v2_black_v3_red() {
        assert_eq!(star_color("v1"), None);
        assert!(reviews(0, None)["reviews"][0].get("rating").is_none());
        for (version, color) in [("v2", "black"), ("v3", "red")] {
            let found = star_color(version).unwrap();
            let reviews = reviews(0, Some((found, &Ok(answer()))));
            assert_eq!(reviews["reviews"][0]["rating"], json!({ "stars": 5, "color": color }));
            assert_eq!(reviews["reviews"][1]["rating"]["stars"], 4);
            assert_eq!(reviews["ratings"]["podname"], "ratings-v1-1");
        }
    }

    #[test]
    fn without_ratings_the_texts_stay_and_say_why() {
        let failure = Failure { status: Some(500), reason: "ratings answered 500".into(), millis: 9 };
        let reviews = reviews(0, Some(("black", &Err(failure))));
        assert_eq!(reviews["reviews"][1]["rating"]["error"], "Ratings service is currently unavailable");
        assert_eq!(reviews["ratings"], json!({ "error": "ratings answered 500", "millis": 9 }));
        assert_eq!(reviews["reviews"][1]["reviewer"], "Reviewer2");
    }

    #[test]
    fn a_strange_ratings_answer_is_an_error_not_a_panic() {
        let strange = Answer { status: 200, json: json!(["?"]), millis: 0 };
        assert!(reviews(0, Some(("red", &Ok(strange))))["reviews"][0]["rating"]["error"].is_string());
    }
}
