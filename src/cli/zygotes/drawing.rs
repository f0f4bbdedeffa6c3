//! A tree as lines of text, with columns beside it.

/// A line of the drawing: its place in the tree, what stands in it, and what stands beside.
pub(super) struct Branch {
    /// The place of the one above in the list; before its own.
    pub(super) parent: Option<usize>,
    pub(super) label: String,
    pub(super) columns: Vec<String>,
}

/// Names that a label lists; more are counted.
const NAMES_MAX: usize = 4;

/// `numpy==2.2.1, pandas==2.2.3 and 3 more`.
pub(super) fn label(packages: &[String]) -> String {
    let names: Vec<&str> = packages.iter().take(NAMES_MAX).map(String::as_str).collect();
    match packages.len() - names.len() {
        0 => names.join(", "),
        n => format!("{} and {n} more", names.join(", ")),
    }
}

/// Draws them below a root of this name, with the heads of the columns.
pub(super) fn draw(root: &str, heads: &[&str], branches: &[Branch]) -> String {
    let mut lines = vec![(root.to_owned(), heads.iter().map(|&head| head.to_owned()).collect())];
    below(None, "", branches, &mut lines);
    let widest = lines.iter().map(|(tree, _)| tree.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len())
        .map(|at| {
            lines.iter().filter_map(|(_, columns)| Some(columns.get(at)?.chars().count())).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (tree, columns) in lines {
        let mut line = format!("{tree:<widest$}");
        for (column, width) in columns.iter().zip(&widths) {
            line += &format!("  {column:>width$}");
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}

fn below(parent: Option<usize>, indent: &str, branches: &[Branch], lines: &mut Vec<(String, Vec<String>)>) {
    let children: Vec<usize> = (0..branches.len()).filter(|at| branches[*at].parent == parent).collect();
    for (n, &at) in children.iter().enumerate() {
        let is_last = n + 1 == children.len();
        let (corner, beside) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        lines.push((format!("{indent}{corner}{}", branches[at].label), branches[at].columns.clone()));
        below(Some(at), &format!("{indent}{beside}"), branches, lines);
    }
}

/// Megabytes, as people read them.
pub(super) fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / f64::from(1 << 20))
}

/// Milliseconds, and seconds from ten of them.
pub(super) fn time(ms: f64) -> String {
    if ms < 10_000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_drawn_with_its_columns_under_each_other() {
        let branch =
            |parent, label: &str, n: &str| Branch { parent, label: label.into(), columns: vec![n.into()] };
        let branches =
            [branch(None, "numpy", "10"), branch(Some(0), "pandas", "7"), branch(None, "flask", "8000")];
        let drawn = "root          hits\n├─ numpy        10\n│  └─ pandas     7\n└─ flask      8000\n";
        assert_eq!(draw("root", &["hits"], &branches), drawn);
    }

    #[test]
    fn long_lists_are_cut_and_numbers_have_units() {
        let names: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(str::to_owned).to_vec();
        assert_eq!((label(&names[..2]), label(&names)), ("a, b".into(), "a, b, c, d and 2 more".into()));
        assert_eq!(
            (mb(3 << 20), time(99.6), time(12_340.0)),
            ("3.0 MB".into(), "100 ms".into(), "12.3 s".into())
        );
    }
}
