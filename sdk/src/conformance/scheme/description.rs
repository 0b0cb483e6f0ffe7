//! What a scheme says of itself.

use super::{LARGE, SchemeSubject, Source, store};
use crate::{
    DType, Error, Options,
    conformance::report::{Broken, Ended, Outcome, Verdict, attempt, pass},
};

/// What `name:key=value,key=value` and a CSV can hold.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.+".contains(c))
}

pub(super) fn describes_itself(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    let info = scheme.info();
    for name in std::iter::once(&info.id).chain(&info.aliases) {
        if !is_word(name) {
            return Err(Broken(format!(
                "the name `{name}` cannot be typed: expected letters, digits and `_-.+`"
            )));
        }
        if std::path::Path::new(name)
            .extension()
            .is_some_and(|extension| extension == "so")
        {
            return Err(Broken(format!("the name `{name}` would be taken for a file")));
        }
    }
    for (name, _) in &info.options {
        if !is_word(name) {
            return Err(Broken(format!("the option `{name}` cannot be typed")));
        }
    }
    if info != scheme.info() || info.id != subject.open()?.info().id {
        return Err(Broken(
            "what it says of itself changes from call to call".to_owned(),
        ));
    }
    if info.summary.trim().is_empty() || info.summary.lines().count() > 1 {
        return Ok((Verdict::Warn, "the summary is not one line of text".to_owned()));
    }
    pass()
}

pub(super) fn options_round_trip(subject: &SchemeSubject) -> Outcome {
    let scheme = subject.open()?;
    let known = scheme.info().options;
    let unknown = Options::parse("no_such_option_of_this_scheme=1")?;
    match attempt(|| (subject.open)(&unknown)) {
        Ended::Refused(Error::InvalidArgument(_)) => {}
        Ended::Refused(other) => {
            return Err(Broken(format!(
                "an unknown option is answered with `{other}`, not with an invalid argument"
            )));
        }
        Ended::Done(_) => {
            return Err(Broken(
                "an unknown option is ignored: end reading options with `options.finish(&[...])`".to_owned(),
            ));
        }
        Ended::Panicked(message) => return Err(Broken(format!("an unknown option panics: {message}"))),
    }
    let source = Source::random(LARGE, DType::F32)?;
    let plain = (subject.open)(&Options::none())?;
    let expected = store(plain.as_ref(), &source, 1)?;
    for (name, default) in known.iter().filter(|(_, default)| !default.is_empty()) {
        let typed = format!("{name}={default}");
        let scheme = (subject.open)(&Options::parse(&typed)?)
            .map_err(|error| Broken(format!("the documented default `{typed}` is refused: {error}")))?;
        let stored = store(scheme.as_ref(), &source, 1)?;
        let same = match (&stored, &expected) {
            (Some(stored), Some(expected)) => {
                stored.layout == expected.layout && stored.same(expected).is_none()
            }
            _ => stored.is_none() && expected.is_none(),
        };
        if !same {
            return Err(Broken(format!(
                "`{typed}` is documented as the default, but stores other bytes"
            )));
        }
        let nonsense = Options::parse(&format!("{name}=\u{fffd}nonsense\u{fffd}"))?;
        match attempt(|| (subject.open)(&nonsense)) {
            Ended::Refused(_) => {}
            Ended::Done(_) if default.parse::<f64>().is_err() => {}
            Ended::Done(_) => return Err(Broken(format!("option `{name}` takes nonsense for a number"))),
            Ended::Panicked(message) => {
                return Err(Broken(format!("nonsense for option `{name}` panics: {message}")));
            }
        }
    }
    pass()
}
