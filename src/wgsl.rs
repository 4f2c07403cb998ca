//! The shader preprocessor: readable WGSL files in, plain WGSL out. Text for structure, nothing else.
//!
//! | directive | effect |
//! |---|---|
//! | `#import name` | inserts `shaders/shared/name.wgsl`, once per shader |
//! | `#define NAME expr` | names an integer, unless the host has defined it already |
//! | `#if expr` `#elif expr` `#else` `#endif` | keeps or drops lines; an unknown name counts as 0 |
//! | `#for i in a..b` `#endfor` | repeats the lines, with `i` defined: unrolling (naga emits no `for`) |
//! | `#{expr}` | the value of an integer expression, inside a line |
//!
//! Expressions have `+ - * / %`, comparisons, `&& || !` and parentheses over `i64`.

use crate::error::{Result, bail};
use std::collections::HashMap;

/// The files that `#import` finds, by stem.
const SHARED: &[(&str, &str)] = &[
    ("activate", include_str!("../shaders/shared/activate.wgsl")),
    ("activation", include_str!("../shaders/shared/activation.wgsl")),
    ("element", include_str!("../shaders/shared/element.wgsl")),
    ("epilogue", include_str!("../shaders/shared/epilogue.wgsl")),
    ("implicit_gemm", include_str!("../shaders/shared/implicit_gemm.wgsl")),
    ("implicit_gemm_tile", include_str!("../shaders/shared/implicit_gemm_tile.wgsl")),
    ("matmul_coop", include_str!("../shaders/shared/matmul_coop.wgsl")),
    ("matmul_dot4", include_str!("../shaders/shared/matmul_dot4.wgsl")),
    ("matmul_lanes", include_str!("../shaders/shared/matmul_lanes.wgsl")),
    ("matmul_rows", include_str!("../shaders/shared/matmul_rows.wgsl")),
    ("matmul_tile", include_str!("../shaders/shared/matmul_tile.wgsl")),
    ("reduce", include_str!("../shaders/shared/reduce.wgsl")),
    ("tile", include_str!("../shaders/shared/tile.wgsl")),
    ("tile_lane", include_str!("../shaders/shared/tile_lane.wgsl")),
    ("tile_step", include_str!("../shaders/shared/tile_step.wgsl")),
    ("weights", include_str!("../shaders/shared/weights.wgsl")),
    ("wide", include_str!("../shaders/shared/wide.wgsl")),
];

/// Expands `source` with the host's `defines`. `name` is for messages.
///
/// # Errors
/// `Gpu` for an unknown directive or import, an unbalanced block or a malformed expression, with the line.
pub fn expand(name: &str, source: &str, defines: &[(&str, i64)]) -> Result<String> {
    let mut e = Expander { names: HashMap::new(), imported: Vec::new(), out: String::with_capacity(source.len() * 2) };
    e.names.extend(defines.iter().map(|(k, v)| (k.to_string(), *v)));
    let lines: Vec<&str> = source.lines().collect();
    e.block(name, &lines, 0)?;
    Ok(e.out)
}

struct Expander {
    names: HashMap<String, i64>,
    imported: Vec<String>,
    out: String,
}

impl Expander {
    /// Expands whole lines; `first` is the number of the first one, for messages.
    fn block(&mut self, file: &str, lines: &[&str], first: usize) -> Result<()> {
        let mut i = 0;
        while i < lines.len() {
            let line = lines[i];
            let at = || format!("{file}.wgsl line {}", first + i + 1);
            let (word, rest) = directive(line);
            match word {
                "" => self.line(line, &at())?,
                "import" => {
                    if !self.imported.iter().any(|n| n == rest) {
                        let Some((_, text)) = SHARED.iter().find(|(n, _)| *n == rest) else {
                            bail!(Gpu, "{}: no shared shader `{rest}`", at());
                        };
                        self.imported.push(rest.to_string());
                        self.block(rest, &text.lines().collect::<Vec<_>>(), 0)?;
                    }
                }
                "define" => {
                    let (name, expr) = rest.split_once(' ').unwrap_or((rest, "1"));
                    if !self.names.contains_key(name) {
                        let value = self.eval(expr, &at())?;
                        self.names.insert(name.to_string(), value);
                    }
                }
                "if" => {
                    let end = matching(lines, i, "if", "endif").ok_or_else(|| unbalanced(&at(), "#endif"))?;
                    let mut start = i + 1;
                    let mut keep = self.eval(rest, &at())? != 0;
                    for cut in branches(lines, i, end) {
                        if keep {
                            self.block(file, &lines[start..cut], first + start)?;
                            break;
                        }
                        let (word, rest) = directive(lines[cut]);
                        keep = match word {
                            "elif" => self.eval(rest, &at())? != 0,
                            _ => word == "else",
                        };
                        start = cut + 1;
                    }
                    i = end;
                }
                "for" => {
                    let end = matching(lines, i, "for", "endfor").ok_or_else(|| unbalanced(&at(), "#endfor"))?;
                    let parts = rest.split_once(" in ").and_then(|(v, r)| Some((v.trim(), r.split_once("..")?)));
                    let Some((var, (from, to))) = parts else {
                        bail!(Gpu, "{}: expected `#for NAME in A..B`", at());
                    };
                    let (from, to) = (self.eval(from, &at())?, self.eval(to, &at())?);
                    let shadowed = self.names.remove(var);
                    for value in from..to {
                        self.names.insert(var.to_string(), value);
                        self.block(file, &lines[i + 1..end], first + i + 1)?;
                    }
                    self.names.remove(var);
                    self.names.extend(shadowed.map(|v| (var.to_string(), v)));
                    i = end;
                }
                other => bail!(Gpu, "{}: unexpected directive `#{other}`", at()),
            }
            i += 1;
        }
        Ok(())
    }

    /// One line of WGSL, its `#{..}` replaced. Comments are dropped: drivers and browser caches see stable text.
    fn line(&mut self, line: &str, at: &str) -> Result<()> {
        let line = line.split("//").next().unwrap_or_default().trim_end();
        if line.is_empty() {
            return Ok(());
        }
        let mut rest = line;
        while let Some(start) = rest.find("#{") {
            self.out.push_str(&rest[..start]);
            let Some(len) = rest[start..].find('}') else { bail!(Gpu, "{at}: `#{{` without `}}`") };
            let value = self.eval(&rest[start + 2..start + len], at)?;
            self.out.push_str(&value.to_string());
            rest = &rest[start + len + 1..];
        }
        self.out.push_str(rest);
        self.out.push('\n');
        Ok(())
    }

    fn eval(&self, text: &str, at: &str) -> Result<i64> {
        let mut p = Parser { rest: text.trim(), names: &self.names };
        let value = p.binary(0);
        match value {
            Some(value) if p.rest.is_empty() => Ok(value),
            _ => bail!(Gpu, "{at}: malformed expression `{text}`"),
        }
    }
}

fn unbalanced(at: &str, end: &str) -> crate::Error {
    crate::Error::new(crate::ErrorKind::Gpu, format!("{at}: no `{end}`"))
}

/// The directive on a line and what follows it; an empty word for a line of WGSL.
fn directive(line: &str) -> (&str, &str) {
    match line.trim_start().strip_prefix('#') {
        Some(d) if !d.starts_with('{') => {
            let d = d.split("//").next().unwrap_or_default();
            let (word, rest) = d.split_once(' ').unwrap_or((d, ""));
            (word.trim(), rest.trim())
        }
        _ => ("", ""),
    }
}

/// The line that closes the block opened at `start`.
fn matching(lines: &[&str], start: usize, open: &str, close: &str) -> Option<usize> {
    let mut depth = 0;
    for (i, line) in lines.iter().enumerate().skip(start) {
        let (word, _) = directive(line);
        if word == open {
            depth += 1;
        } else if word == close {
            depth -= 1;
            if depth == 0 {
                return Some(i);
            }
        }
    }
    None
}

/// The lines of the `#elif`, `#else` and `#endif` that belong to the `#if` at `start`.
fn branches(lines: &[&str], start: usize, end: usize) -> Vec<usize> {
    let mut depth = 0;
    let mut cuts = Vec::new();
    for (i, line) in lines.iter().enumerate().take(end).skip(start + 1) {
        match directive(line).0 {
            "if" => depth += 1,
            "endif" => depth -= 1,
            "elif" | "else" if depth == 0 => cuts.push(i),
            _ => {}
        }
    }
    cuts.push(end);
    cuts
}

struct Parser<'a> {
    rest: &'a str,
    names: &'a HashMap<String, i64>,
}

/// Binary operators by rising precedence; within a level the longer spelling comes first.
const LEVELS: [&[&str]; 5] = [&["||"], &["&&"], &["==", "!=", "<=", ">=", "<", ">"], &["+", "-"], &["*", "/", "%"]];

impl Parser<'_> {
    fn binary(&mut self, level: usize) -> Option<i64> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some(op) = operators.iter().find(|op| self.rest.starts_with(**op)) {
            self.skip(op.len());
            let right = self.binary(level + 1)?;
            left = match *op {
                "||" => (left != 0 || right != 0) as i64,
                "&&" => (left != 0 && right != 0) as i64,
                "==" => (left == right) as i64,
                "!=" => (left != right) as i64,
                "<=" => (left <= right) as i64,
                ">=" => (left >= right) as i64,
                "<" => (left < right) as i64,
                ">" => (left > right) as i64,
                "+" => left.checked_add(right)?,
                "-" => left.checked_sub(right)?,
                "*" => left.checked_mul(right)?,
                "/" => left.checked_div(right)?,
                _ => left.checked_rem(right)?,
            };
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<i64> {
        if let Some(sign) = self.rest.chars().next().filter(|c| "!-(".contains(*c)) {
            self.skip(1);
            return match sign {
                '!' => Some((self.unary()? == 0) as i64),
                '-' => self.unary()?.checked_neg(),
                _ => {
                    let value = self.binary(0)?;
                    self.rest.starts_with(')').then(|| self.skip(1))?;
                    Some(value)
                }
            };
        }
        let len = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let word = &self.rest[..len];
        self.skip(len);
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            word.parse().ok()
        } else if word.is_empty() {
            None
        } else {
            Some(self.names.get(word).copied().unwrap_or(0))
        }
    }

    fn skip(&mut self, len: usize) {
        self.rest = self.rest[len..].trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(source: &str, defines: &[(&str, i64)]) -> String {
        expand("test", source, defines).unwrap()
    }

    #[test]
    fn substitutes_expressions() {
        assert_eq!(ok("let a = #{N * 2 + 1}u;", &[("N", 3)]), "let a = 7u;\n");
        assert_eq!(ok("#define N 4\n#{N}", &[]), "4\n");
        // The host's define wins over the file's default.
        assert_eq!(ok("#define N 4\n#{N}", &[("N", 8)]), "8\n");
        assert_eq!(ok("#{(1 + 2) * 3 - -1} #{7 / 2} #{7 % 2} #{!0} #{1 < 2 && 2 != 2}", &[]), "10 3 1 1 0\n");
    }

    #[test]
    fn keeps_one_branch() {
        let source = "#if A == 1\none\n#elif A == 2\n#if B\nboth\n#else\ntwo\n#endif\n#else\nother\n#endif\nend";
        assert_eq!(ok(source, &[("A", 1)]), "one\nend\n");
        assert_eq!(ok(source, &[("A", 2)]), "two\nend\n");
        assert_eq!(ok(source, &[("A", 2), ("B", 1)]), "both\nend\n");
        assert_eq!(ok(source, &[]), "other\nend\n");
    }

    #[test]
    fn unrolls() {
        assert_eq!(ok("#for i in 0..2\n#for j in i..2\na#{i}_#{j}\n#endfor\n#endfor", &[]), "a0_0\na0_1\na1_1\n");
    }

    #[test]
    fn imports_once_and_drops_comments() {
        let twice = ok("#import reduce\n#import reduce // again\nx // comment", &[("THREADS", 64)]);
        assert_eq!(twice, ok("#import reduce\nx", &[("THREADS", 64)]));
    }

    #[test]
    fn names_the_line_of_a_mistake() {
        for (source, message) in [
            ("a\n#nonsense", "line 2"),
            ("#if 1\na", "#endif"),
            ("#{1 +}", "malformed"),
            ("#{1 / 0}", "malformed"),
            ("#import nowhere", "nowhere"),
            ("#for i 0..3\n#endfor", "#for NAME"),
            ("#endif", "unexpected"),
            ("#{9223372036854775807 + 1}", "malformed"),
        ] {
            let error = expand("test", source, &[]).unwrap_err().to_string();
            assert!(error.contains(message), "{source:?}: {error}");
        }
    }
}
