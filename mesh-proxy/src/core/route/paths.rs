//! Which routes of a virtual host can match a path at all, in their order: so that a thousand routes cost little more than one. Never says
//! that a route does match; that is [`super::When`]'s.

use super::PathMatch;
use crate::core::matching::{Pattern, StringMatch};

/// Fewer routes than this are looked at one by one, which costs less than any search.
const FEW: usize = 12;
/// Lists of candidates that are merged; a path with more of its beginnings among the routes is looked for one by one.
const LISTS: usize = 8;

/// See the module. Positions are those of the routes.
#[derive(Debug)]
pub(super) struct Paths {
    /// Whole paths, sorted.
    exact: Vec<(Box<str>, Vec<u32>)>,
    /// Beginnings of paths, sorted.
    prefixes: Vec<Prefix>,
    /// What looks at paths in other ways, or not at all.
    others: Vec<u32>,
}

#[derive(Debug)]
struct Prefix {
    text: Box<str>,
    routes: Vec<u32>,
    /// The longest other one that this one begins with.
    parent: Option<usize>,
}

/// What of a path a condition asks for.
enum Asked<'a> {
    Exact(&'a str),
    Prefix(&'a str),
    Other,
}

fn asked(path: &PathMatch) -> Asked<'_> {
    match path {
        PathMatch::String(StringMatch { pattern: Pattern::Exact(text), ignore_case: false }) => Asked::Exact(text),
        PathMatch::String(StringMatch { pattern: Pattern::Prefix(text), ignore_case: false }) => Asked::Prefix(text),
        // That it ends at a slash is for the route to see.
        PathMatch::Segments(text, false) => Asked::Prefix(text),
        PathMatch::String(_) | PathMatch::Segments(..) | PathMatch::Connect => Asked::Other,
    }
}

impl Paths {
    /// `None`: they are few.
    pub(super) fn new<'a>(routes: impl ExactSizeIterator<Item = &'a PathMatch>) -> Option<Self> {
        if routes.len() < FEW {
            return None;
        }
        let (mut exact, mut prefixes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (position, path) in (0..).zip(routes) {
            match asked(path) {
                Asked::Exact(text) => exact.push((text, position)),
                Asked::Prefix(text) => prefixes.push((text, position)),
                Asked::Other => others.push(position),
            }
        }
        let mut found: Vec<Prefix> = Vec::new();
        for (text, routes) in grouped(prefixes) {
            // Sorted, one that this begins with is the last one, or what that begins with, and so on.
            let mut parent = found.len().checked_sub(1);
            while let Some(at) = parent.filter(|at| !text.starts_with(&*found[*at].text)) {
                parent = found[at].parent;
            }
            found.push(Prefix { text, routes, parent });
        }
        Some(Self { exact: grouped(exact), prefixes: found, others })
    }

    /// The first route, in their order, of those that can match this path, for which `holds` is true. `Err`: they must be looked at one by one.
    pub(super) fn first(&self, path: &str, mut holds: impl FnMut(usize) -> bool) -> Result<Option<usize>, ()> {
        let mut lists: [&[u32]; LISTS] = [&[]; LISTS];
        let mut count = 0;
        let mut add = |list| -> Result<(), ()> {
            *lists.get_mut(count).ok_or(())? = list;
            count += 1;
            Ok(())
        };
        add(&self.others)?;
        if let Ok(at) = self.exact.binary_search_by(|(text, _)| (**text).cmp(path)) {
            add(&self.exact[at].1)?;
        }
        // Whatever this path begins with, the last one not behind the path in the order begins with too.
        let mut at = self.prefixes.partition_point(|prefix| &*prefix.text <= path).checked_sub(1);
        while let Some(prefix) = at.map(|at| &self.prefixes[at]) {
            if path.starts_with(&*prefix.text) {
                add(&prefix.routes)?;
            }
            at = prefix.parent;
        }
        let lists = &mut lists[..count];
        while let Some(list) = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0]) {
            let position = list[0] as usize;
            *list = &list[1..];
            if holds(position) {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }
}

/// Sorted, with all positions of each text.
fn grouped(mut all: Vec<(&str, u32)>) -> Vec<(Box<str>, Vec<u32>)> {
    all.sort_unstable();
    let same = all.chunk_by(|(a, _), (b, _)| a == b);
    same.map(|chunk| (chunk[0].0.into(), chunk.iter().map(|(_, position)| *position).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::matching::full_match;
    use proptest::prelude::*;

    fn path() -> impl Strategy<Value = String> {
        "(/[ab]{0,2}){1,4}"
    }

    fn condition() -> impl Strategy<Value = PathMatch> {
        let string = |pattern, ignore_case| PathMatch::String(StringMatch { pattern, ignore_case });
        prop_oneof![
            (path(), any::<bool>()).prop_map(move |(text, fold)| string(Pattern::Exact(text), fold)),
            (path(), any::<bool>()).prop_map(move |(text, fold)| string(Pattern::Prefix(text), fold)),
            (path(), any::<bool>()).prop_map(|(text, fold)| PathMatch::Segments(text, fold)),
            Just(string(Pattern::Prefix(String::new()), false)),
            path().prop_map(move |text| string(Pattern::Suffix(text), false)),
            Just(string(Pattern::Regex(full_match("/a+").expect("valid")), false)),
            Just(PathMatch::Connect),
        ]
    }

    proptest! {
        /// Against a look at one after the other, with other conditions that hold or not.
        #[test]
        fn it_is_the_first_of_all(
            routes in prop::collection::vec((condition(), prop::bool::weighted(0.7)), FEW..40),
            path in path(),
        ) {
            let holds = |position: usize| routes[position].1 && routes[position].0.matches(&path);
            let expected = (0..routes.len()).find(|position| holds(*position));
            let paths = Paths::new(routes.iter().map(|(path, _)| path)).expect("many");
            if let Ok(found) = paths.first(&path, holds) {
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn only_what_can_match_is_looked_at() {
        let prefix = |text: &str| PathMatch::String(StringMatch::new(Pattern::Prefix(text.to_owned())));
        let routes: Vec<PathMatch> = (0..1000).map(|n| prefix(&format!("/route-{n}/"))).chain([prefix("/")]).collect();
        let paths = Paths::new(routes.iter()).expect("many");
        for (path, expected) in [("/route-7/x", 7), ("/route-77/x", 77), ("/route-7", 1000), ("/zzz", 1000)] {
            let mut looks = 0;
            let found = paths.first(path, |position| {
                looks += 1;
                routes[position].matches(path)
            });
            assert_eq!(found, Ok(Some(expected)), "{path}");
            assert_eq!(looks, 1, "{path}");
        }
        assert_eq!(paths.first("x", |_| true), Ok(None));
    }

    #[test]
    fn a_path_with_too_many_beginnings_is_looked_for_one_by_one() {
        let nested = |length: usize| PathMatch::Segments("/a".repeat(length), false);
        let routes: Vec<PathMatch> = (1..=FEW).map(nested).collect();
        let paths = Paths::new(routes.iter()).expect("many");
        assert_eq!(paths.first(&"/a".repeat(FEW), |_| true), Err(()));
        assert_eq!(paths.first("/a/a", |_| true), Ok(Some(0)));
    }
}
