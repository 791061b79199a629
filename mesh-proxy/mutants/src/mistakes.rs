//! The mistakes: each is one that somebody could make, in one place, and that still compiles.

/// A text of the matcher and what stands there instead.
pub(crate) struct Mistake {
    pub(crate) name: &'static str,
    /// Below `mesh-proxy/src/core`.
    pub(crate) file: &'static str,
    /// Occurs once.
    pub(crate) text: &'static str,
    pub(crate) instead: &'static str,
}

const fn mistake(name: &'static str, file: &'static str, text: &'static str, instead: &'static str) -> Mistake {
    Mistake { name, file, text, instead }
}

const MATCHING: &str = "matching.rs";
const ROUTE: &str = "route.rs";
const HOST: &str = "route/host.rs";

pub(crate) const MISTAKES: [Mistake; 16] = [
    mistake("case is ignored where it counts", MATCHING, "let fold = self.ignore_case;", "let fold = true;"),
    mistake("case counts where it is ignored", MATCHING, "let fold = self.ignore_case;", "let fold = false;"),
    mistake(
        "a prefix may stand anywhere",
        MATCHING,
        "value.get(..text.len()).is_some_and(|head| equal(head, text))",
        "value.contains(text.as_str())",
    ),
    mistake(
        "a suffix may be as long as all of it only",
        MATCHING,
        "value.len().checked_sub(text.len())",
        "(value.len() == text.len()).then_some(0)",
    ),
    mistake("the end of a range belongs to it", MATCHING, "(*from..*to)", "(*from..=*to)"),
    mistake("without a header is with it", MATCHING, "matched != self.invert", "matched"),
    mistake(
        "a missing header differs from every value",
        MATCHING,
        "self.missing_is_empty && self.test.passes(\"\") != self.invert",
        "self.test.passes(\"\") != self.invert",
    ),
    mistake(
        "a missing header never counts as an empty one",
        MATCHING,
        "self.missing_is_empty && self.test.passes(\"\") != self.invert",
        "false",
    ),
    mistake("only the first of several values is looked at", MATCHING, "there = Some(false);", "return Some(false);"),
    mistake(
        "the last query parameter of a name counts",
        MATCHING,
        ".map(|(_, value)| value).next();",
        ".map(|(_, value)| value).last();",
    ),
    mistake("names of query parameters have no case", MATCHING, "*name == self.name", "name.eq_ignore_ascii_case(&self.name)"),
    mistake("segments end anywhere", ROUTE, "(rest.is_empty() || rest.starts_with('/'))", "true"),
    mistake("only the first condition on headers counts", ROUTE, "self.headers.iter().all(", "self.headers.iter().take(1).all("),
    mistake("the last route that matches wins", ROUTE, "host.routes.iter().find(", "host.routes.iter().rfind("),
    mistake("a star in front stands for nothing too", HOST, "host.len() > suffix.len()", "host.len() >= suffix.len()"),
    mistake("a host's port counts", HOST, "Ports::Ignored => split_port(&authority).0,", "Ports::Ignored => &*authority,"),
];
