//! Parses the command line: words, flags, and options with a value.

use std::collections::BTreeMap;
use std::str::FromStr;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Args {
    /// The arguments that are not options, in order.
    words: Vec<String>,
    /// Options with their values; a flag has an empty value.
    options: BTreeMap<String, String>,
}

impl Args {
    /// Parses the arguments. `with_value` and `flags` are the known names; any other name is an error that lists them.
    pub(crate) fn parse(
        args: impl IntoIterator<Item = String>,
        with_value: &[&str],
        flags: &[&str],
    ) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let Some(name) = arg.strip_prefix("--") else {
                parsed.words.push(arg);
                continue;
            };
            let value = if flags.contains(&name) {
                String::new()
            } else if with_value.contains(&name) {
                args.next().ok_or_else(|| format!("`--{name}` needs a value"))?
            } else {
                let known: Vec<_> = with_value.iter().chain(flags).map(|name| format!("--{name}")).collect();
                return Err(format!("unknown option `--{name}`; known are {}", known.join(", ")));
            };
            parsed.options.insert(name.to_owned(), value);
        }
        Ok(parsed)
    }

    pub(crate) fn word(&self, index: usize, what: &str) -> Result<&str, String> {
        self.words.get(index).map(String::as_str).ok_or_else(|| format!("{what} is missing"))
    }

    pub(crate) fn no_words_after(&self, count: usize) -> Result<(), String> {
        self.words.get(count).map_or(Ok(()), |word| Err(format!("`{word}` was not expected")))
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    pub(crate) fn value<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.options.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("`--{name}` cannot be `{text}`"))
    }

    pub(crate) fn value_or<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        Ok(self.value(name)?.unwrap_or(default))
    }

    /// Parses the value as a list, separated by commas.
    pub(crate) fn list<T: FromStr>(&self, name: &str) -> Result<Option<Vec<T>>, String> {
        let Some(text) = self.options.get(name) else { return Ok(None) };
        let item = |item: &str| item.parse().map_err(|_| format!("`--{name}` cannot be `{item}`"));
        text.split(',').map(item).collect::<Result<_, _>>().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned), &["rounds", "cores"], &["short"])
    }

    #[test]
    fn words_options_and_flags_are_separated() {
        let args = parse("serve --rounds 5 ebbtide --short --cores 0,2").unwrap();
        assert_eq!(args.word(1, "the peer"), Ok("ebbtide"));
        assert_eq!(args.value_or("rounds", 11), Ok(5));
        assert_eq!(args.list("cores"), Ok(Some(vec![0, 2])));
        assert!(args.flag("short"));
        assert_eq!(args.no_words_after(2), Ok(()));
        assert!(args.no_words_after(1).is_err());
    }

    #[test]
    fn an_error_names_what_is_missing_unknown_or_malformed() {
        assert!(parse("--round 5").unwrap_err().contains("`--round`"));
        assert!(parse("--rounds").unwrap_err().contains("`--rounds` needs"));
        assert!(parse("--rounds five").unwrap().value::<u32>("rounds").unwrap_err().contains("`five`"));
        assert!(parse("--cores 0,x").unwrap().list::<usize>("cores").unwrap_err().contains("`x`"));
        assert_eq!(parse("").unwrap().word(0, "the peer"), Err("the peer is missing".to_owned()));
    }
}
