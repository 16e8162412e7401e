//! Which events of the whole log a client wants.

use fancy_regex::{Regex, RegexBuilder};
use tonic::Status;

use crate::grpc::refusal;
use crate::kurrent_protocol::streams::{Expression, FilterBy, FilterOptions, Window};
use crate::ledger::Recorded;

/// Which events, and how often a subscription is told how far it has come without any.
pub(super) struct Filter {
    of: Part,
    matcher: Matcher,
    /// A checkpoint is due when so many events were looked at.
    pub(super) checkpoint_every: u64,
}

enum Part {
    Stream,
    EventType,
}

enum Matcher {
    Prefixes(Vec<String>),
    /// What clients usually leave out, without a regular expression.
    Not(fn(&str) -> bool),
    Regex(Box<Regex>),
}

impl Filter {
    pub(super) fn of(options: FilterOptions) -> Result<Self, Status> {
        let window = match options.window {
            Some(Window::Max(0)) | None => {
                return Err(refusal::invalid("the window of a filter has to be at least 1"));
            }
            Some(Window::Max(window)) => window,
            Some(Window::Count(())) => WINDOW,
        };
        let (of, expression) = match options.by {
            Some(FilterBy::Stream(expression)) => (Part::Stream, expression),
            Some(FilterBy::EventType(expression)) => (Part::EventType, expression),
            None => return Err(refusal::invalid("a filter needs an expression")),
        };
        let windows = u64::from(options.checkpoint_interval_multiplier.max(1));
        let checkpoint_every = u64::from(window).saturating_mul(windows);
        Ok(Self { of, matcher: Matcher::of(expression)?, checkpoint_every })
    }

    /// Whether the event is wanted.
    pub(super) fn takes(&self, recorded: &Recorded) -> Result<bool, Status> {
        let text = match self.of {
            Part::Stream => recorded.stream.as_str(),
            Part::EventType => recorded.kind.as_ref(),
        };
        match &self.matcher {
            Matcher::Prefixes(prefixes) => {
                Ok(prefixes.iter().any(|prefix| text.starts_with(prefix)))
            }
            Matcher::Not(unwanted) => Ok(!unwanted(text)),
            Matcher::Regex(regex) => regex.is_match(text).map_err(|_| {
                refusal::invalid("the filter's regular expression takes too long; simplify it")
            }),
        }
    }
}

impl Matcher {
    fn of(Expression { regex, prefix }: Expression) -> Result<Self, Status> {
        if regex.is_empty() {
            if prefix.is_empty() || prefix.len() > PREFIXES_MAX {
                let reason = format!("a filter needs a regex, or 1 to {PREFIXES_MAX} prefixes");
                return Err(refusal::invalid(reason));
            }
            return Ok(Self::Prefixes(prefix));
        }
        if let Some((_, unwanted)) = USUAL.iter().find(|(usual, _)| *usual == regex) {
            return Ok(Self::Not(*unwanted));
        }
        if regex.len() > REGEX_BYTES_MAX {
            let reason = format!("a filter's regex has at most {REGEX_BYTES_MAX} bytes");
            return Err(refusal::invalid(reason));
        }
        let built = RegexBuilder::new(&regex)
            .backtrack_limit(BACKTRACKS_MAX)
            .delegate_size_limit(PROGRAM_BYTES_MAX)
            .delegate_dfa_size_limit(PROGRAM_BYTES_MAX)
            .build();
        let invalid =
            |error| refusal::invalid(format!("the filter's regex is not usable: {error}"));
        Ok(Self::Regex(Box::new(built.map_err(invalid)?)))
    }
}

/// Empty, or begins with `$`.
fn is_system(text: &str) -> bool {
    text.is_empty() || text.starts_with('$')
}

/// What `kurrentdbclient` (Python) leaves out: `$` with something behind it, `PersistentConfig` with
/// a number, `Result`.
fn is_system_or_configuration(text: &str) -> bool {
    let number = text.strip_prefix("PersistentConfig");
    let numbered = number
        .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|digit| digit.is_ascii_digit()));
    numbered || text == "Result" || (text.len() > 1 && text.starts_with('$'))
}

/// Regular expressions that clients send unasked, and what they leave out. All others are compiled.
type Unwanted = fn(&str) -> bool;
const USUAL: &[(&str, Unwanted)] = &[
    ("^[^$].*", is_system),
    (r"^[^\$].*", is_system),
    (r"^(?!(\$.+$|PersistentConfig\d+$|Result$))", is_system_or_configuration),
];

/// When the client leaves it to the server.
const WINDOW: u32 = 32;
const PREFIXES_MAX: usize = 256;
const REGEX_BYTES_MAX: usize = 4096;
/// Names and types have at most 200 bytes: expressions for these get by with far fewer.
const BACKTRACKS_MAX: usize = 10_000;
const PROGRAM_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(regex: &str) -> Result<Matcher, Status> {
        Matcher::of(Expression { regex: regex.to_owned(), prefix: Vec::new() })
    }

    fn takes(matcher: Matcher, stream: &str) -> Result<bool, Status> {
        let stream = crate::ledger::StreamName::new(stream).unwrap();
        let recorded = Recorded {
            sequence: 0,
            cursor: "0".parse().unwrap(),
            stream,
            revision: 0,
            id: uuid::Uuid::nil(),
            kind: "".into(),
            data: Vec::new(),
            metadata: Vec::new(),
        };
        Filter { of: Part::Stream, matcher, checkpoint_every: 1 }.takes(&recorded)
    }

    #[test]
    fn the_usual_expressions_take_what_they_take_when_compiled() {
        let texts = [
            "$a",
            "$",
            "a",
            "a$",
            "Result",
            "Results",
            "PersistentConfig1",
            "PersistentConfig",
            "PersistentConfig12",
            "PersistentConfig1a",
            "user-1",
            "",
        ];
        for (expression, unwanted) in USUAL {
            let compiled = Regex::new(expression).unwrap();
            for text in texts {
                assert_eq!(
                    compiled.is_match(text).unwrap(),
                    !unwanted(text),
                    "{expression} {text}"
                );
            }
            assert!(matches!(regex(expression), Ok(Matcher::Not(_))));
        }
    }

    #[test]
    fn look_ahead_works_and_endless_work_is_cut_off() {
        assert!(takes(regex("^(?!device-).*$").unwrap(), "user-1").unwrap());
        assert!(!takes(regex("^(?!device-).*$").unwrap(), "device-1").unwrap());
        let endless = regex(r"^(?=((a+)+)+\1b)").unwrap();
        let refused = takes(endless, &"a".repeat(60)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn refuses_expressions_that_are_none_or_too_large() {
        for expression in ["(", "", &"a".repeat(REGEX_BYTES_MAX + 1), "(?:a{1000}){1000}"] {
            let refused = regex(expression).err().map(|status| status.code());
            assert_eq!(refused, Some(tonic::Code::InvalidArgument), "{expression}");
        }
    }

    #[test]
    fn prefixes_take_what_begins_with_one_of_them() {
        let prefixes = || Matcher::Prefixes(vec!["user-".to_owned(), "device-a".to_owned()]);
        for (name, taken) in [("user-1", true), ("device-a1", true), ("device-b", false)] {
            assert_eq!(takes(prefixes(), name).unwrap(), taken, "{name}");
        }
    }
}
