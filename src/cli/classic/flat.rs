//! The command line of `ol` from 2019 to 2022, when its verbs were not in groups yet: put into today's words before it is parsed.
//!
//! ```text
//! ol new -p=DIR                      ol worker init -p=DIR
//! ol worker -p=DIR -d -o k=v         ol worker up -p=DIR -d -o k=v
//! ol status -p=DIR                   ol worker status -p=DIR
//! ol kill -p=DIR                     ol worker down -p=DIR
//! ol force-cleanup -p=DIR            ol worker force-cleanup -p=DIR
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::argv::doubled_where;

/// Verbs of then, and what of `ol worker` they are today.
const VERBS: [(&str, &str); 4] =
    [("new", "init"), ("status", "status"), ("kill", "down"), ("force-cleanup", "force-cleanup")];

/// Long names that were taken with one dash as well, as Go programs do.
const LONG_NAMES: [&str; 4] = ["path", "options", "detach", "help"];

/// The same arguments as they are written today. What is of today stays what it is.
pub(in crate::cli) fn todays(mut args: Vec<OsString>) -> Vec<OsString> {
    let Some(verb) = args.get(1).and_then(|arg| arg.to_str()) else { return args };
    if let Some((_, today)) = VERBS.iter().find(|(old, _)| *old == verb) {
        args.splice(1..2, [OsString::from("worker"), OsString::from(today)]);
    } else if verb == "worker" && args.get(2).is_some_and(|arg| is_of_up(arg)) {
        args.insert(2, "up".into());
    } else {
        return args;
    }
    doubled_where(args, &LONG_NAMES)
}

/// Whether what follows `worker` is an option of the one verb that it was, and not one of the group.
fn is_of_up(arg: &OsStr) -> bool {
    arg.as_bytes().starts_with(b"-")
        && !["-h", "-help", "--help", "-V", "--version"].iter().any(|of_all| arg == *of_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn today(line: &str) -> String {
        let args = line.split(' ').map(OsString::from).collect();
        let args: Vec<_> = todays(args).into_iter().map(|arg| arg.into_string().unwrap()).collect();
        args.join(" ")
    }

    #[test]
    fn the_verbs_of_2019_to_2022_are_those_of_a_worker() {
        for (then, now) in [
            ("ol new -p=test-dir", "ol worker init -p=test-dir"),
            ("ol new", "ol worker init"),
            ("ol worker -p=test-dir --detach", "ol worker up -p=test-dir --detach"),
            ("ol worker --path=x -o a=1,b.c=2", "ol worker up --path=x -o a=1,b.c=2"),
            ("ol worker -d", "ol worker up -d"),
            ("ol status --path=x", "ol worker status --path=x"),
            ("ol kill -p x", "ol worker down -p x"),
            ("ol force-cleanup -p=x", "ol worker force-cleanup -p=x"),
            ("ol new --help", "ol worker init --help"),
        ] {
            assert_eq!(today(then), now);
        }
    }

    #[test]
    fn long_names_with_one_dash_are_long_names() {
        assert_eq!(
            today("ol worker -detach -path=x -options a=1"),
            "ol worker up --detach --path=x --options a=1"
        );
        assert_eq!(today("ol kill -path x"), "ol worker down --path x");
    }

    #[test]
    fn what_is_of_today_stays_what_it_is() {
        for line in [
            "ol",
            "ol --help",
            "ol worker",
            "ol worker --help",
            "ol worker -h",
            "ol worker up -p x -d",
            "ol worker status",
            "ol worker nonsense",
            "ol workers -p=x",
            "ol admin list -path=x",
        ] {
            assert_eq!(today(line), line);
        }
    }
}
