//! [`Names`]: a table that translates impasto's tensor names to a file's, both ways, by name and never by order.

/// One line of a [`Names`] table: the pattern of our names, and that of the file's names.
///
/// `*` stands for one run of digits, the same on both sides, in order. A pattern that ends in `.` or is empty is a
/// prefix, whose rest is kept; any other must match the whole name. A file pattern may end in `[*]`: ours is then
/// row `*` of the file's tensor, with the first axis kept at size 1.
pub type Rule = (&'static str, &'static str);

/// A table of [`Rule`]s, tried in order. A name that none matches is the same on both sides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Names(pub &'static [Rule]);

/// Where a file holds one of our tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The file's name.
    pub name: String,
    /// Only this row of it.
    pub row: Option<usize>,
}

impl Names {
    /// The places where a file may hold our tensor `ours`, the preferred one first: one for each rule that matches
    /// it. Only the first is meant, unless a file lacks it (a table can list a tensor that some files hold twice).
    pub fn to_file(&self, ours: &str) -> Vec<Alias> {
        let mut found: Vec<Alias> = Vec::new();
        for (pattern, file) in self.0 {
            let Some((captures, rest)) = matches(pattern, ours) else { continue };
            let (file, row) = match file.strip_suffix("[*]") {
                Some(file) => match captures.last().map(|c| c.parse()) {
                    Some(Ok(row)) => (file, Some(row)),
                    _ => continue,
                },
                None => (*file, None),
            };
            let alias = Alias { name: fill(file, &captures, rest), row };
            if !found.contains(&alias) {
                found.push(alias);
            }
            // A prefix rule is the general case behind the particular ones: it adds nothing to them.
            if is_prefix(pattern) {
                break;
            }
        }
        if found.is_empty() {
            found.push(Alias { name: ours.to_owned(), row: None });
        }
        found
    }

    /// Our names for the tensor that a file calls `file`: one, or one for each of its `rows`.
    pub fn to_ours(&self, file: &str, rows: usize) -> Vec<String> {
        for (ours, pattern) in self.0 {
            if let Some(whole) = pattern.strip_suffix("[*]") {
                if matches(whole, file).is_some() {
                    // A bound for hostile files: no table splits a large tensor into rows.
                    return (0..rows.min(64)).map(|row| fill(ours, &[&row.to_string()], "")).collect();
                }
            } else if let Some((captures, rest)) = matches(pattern, file) {
                return vec![fill(ours, &captures, rest)];
            }
        }
        vec![file.to_owned()]
    }
}

fn is_prefix(pattern: &str) -> bool {
    pattern.is_empty() || pattern.ends_with('.')
}

/// What the `*` of `pattern` stand for in `name`, and what follows a prefix pattern.
fn matches<'n>(pattern: &str, name: &'n str) -> Option<(Vec<&'n str>, &'n str)> {
    let (mut captures, mut rest) = (Vec::new(), name);
    for (i, literal) in pattern.split('*').enumerate() {
        if i > 0 {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return None;
            }
            captures.push(&rest[..digits]);
            rest = &rest[digits..];
        }
        rest = rest.strip_prefix(literal)?;
    }
    (is_prefix(pattern) || rest.is_empty()).then_some((captures, rest))
}

/// `pattern` with its `*` replaced, and `rest` behind it.
fn fill(pattern: &str, captures: &[&str], rest: &str) -> String {
    let mut captures = captures.iter();
    let mut out = String::with_capacity(pattern.len() + rest.len() + 4);
    for (i, literal) in pattern.split('*').enumerate() {
        if i > 0 {
            out.push_str(captures.next().copied().unwrap_or("*"));
        }
        out.push_str(literal);
    }
    out.push_str(rest);
    out
}
