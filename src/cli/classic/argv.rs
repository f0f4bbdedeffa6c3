//! Flags as Go programs take them: `-cluster x` is `--cluster x`. Only long names that `admin` knows
//! are taken so; `-p 8080` and `-n2` stay what they are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

const LONG_NAMES: [&str; 10] =
    ["cluster", "port", "num-workers", "foreach", "config", "server", "handler", "file", "help", "version"];

/// The same arguments with two dashes in front of every long name that has one.
pub(in crate::cli) fn with_double_dashes(args: Vec<OsString>) -> Vec<OsString> {
    doubled_where(args, &LONG_NAMES)
}

/// The same for these names.
pub(super) fn doubled_where(args: Vec<OsString>, long_names: &[&str]) -> Vec<OsString> {
    let mut are_flags = true;
    args.into_iter()
        .map(|arg| {
            are_flags &= arg != "--";
            if are_flags && is_long_with_one_dash(&arg, long_names) { doubled(&arg) } else { arg }
        })
        .collect()
}

fn is_long_with_one_dash(arg: &OsString, long_names: &[&str]) -> bool {
    let bytes = arg.as_bytes();
    let Some(rest) = bytes.strip_prefix(b"-") else { return false };
    let name = rest.split(|byte| *byte == b'=').next().unwrap_or_default();
    long_names.iter().any(|long| long.as_bytes() == name)
}

fn doubled(arg: &OsString) -> OsString {
    let mut doubled = OsString::from("-");
    doubled.push(arg);
    doubled
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn preprocessed(args: &[&str]) -> Vec<OsString> {
        with_double_dashes(args.iter().map(OsString::from).collect())
    }

    #[test]
    fn every_spelling_of_a_flag_means_the_same() {
        for args in [["-cluster", "x"], ["--cluster", "x"]] {
            assert_eq!(preprocessed(&args), ["--cluster", "x"]);
        }
        for args in ["-cluster=x", "--cluster=x"] {
            assert_eq!(preprocessed(&[args]), ["--cluster=x"]);
        }
        assert_eq!(preprocessed(&["-foreach", "-help"]), ["--foreach", "--help"]);
    }

    #[test]
    fn short_flags_and_values_stay_what_they_are() {
        let args =
            ["admin", "workers", "-p", "8080", "-n2", "-p=1", "-clusters", "-", "", "cluster", "-c=cluster"];
        assert_eq!(preprocessed(&args), args);
    }

    #[test]
    fn nothing_after_two_dashes_is_a_flag() {
        assert_eq!(preprocessed(&["-port", "--", "-port"]), ["--port", "--", "-port"]);
    }

    #[test]
    fn a_path_need_not_be_text() {
        let arg = OsString::from_vec(b"-cluster=\xff".to_vec());
        assert_eq!(with_double_dashes(vec![arg])[0].as_bytes(), b"--cluster=\xff");
    }
}
