//! The paths in a Rust source text: those of `use`, with their groups taken apart, and those in line.
//!
//! A reader of tokens, not of the grammar: enough to see who imports whom.

/// A path of at least two segments, or one after `use`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    /// Within a `#[cfg(test)] mod`.
    pub(crate) in_tests: bool,
}

/// All paths of `text`, in their order.
pub(crate) fn imports(text: &str) -> Vec<Import> {
    let tokens = tokens(text);
    let tests = test_modules(&tokens);
    let mut imports = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let after_use = at > 0 && tokens[at - 1].text == "use";
        let starts = tokens[at].is_name() && !follows_a_dot(&tokens, at) && !is_tail(&tokens, at);
        let first = imports.len();
        let end = if starts || after_use {
            read_tree(&tokens, at, &mut Vec::new(), &mut imports)
        } else {
            at + 1
        };
        if !after_use {
            imports.truncate(if end > at + 1 { imports.len() } else { first });
        }
        for import in &mut imports[first..] {
            import.in_tests = tests.iter().any(|module| module.contains(&at));
        }
        at = end.max(at + 1);
    }
    imports
}

/// Whether the name at `at` is a field or a method.
fn follows_a_dot(tokens: &[Token], at: usize) -> bool {
    at > 0 && tokens[at - 1].text == "."
}

/// Whether the name at `at` goes on a path whose start is no name, such as `<T as Trait>::X`.
fn is_tail(tokens: &[Token], at: usize) -> bool {
    at > 1 && tokens[at - 1].text == "::" && matches!(&*tokens[at - 2].text, ">" | ")" | "]")
}

/// Reads `a::b`, `a::*` or `a::{b, c::d}` from `at` on; gives where it ends.
fn read_tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    imports: &mut Vec<Import>,
) -> usize {
    let depth = prefix.len();
    let text = |at: usize| tokens.get(at).map_or("", |token| &*token.text);
    if text(at) == "::" {
        at += 1;
    }
    let mut ends_in_group = false;
    while let Some(token) = tokens.get(at) {
        if token.text == "{" {
            at = read_group(tokens, at, prefix, imports);
            ends_in_group = true;
            break;
        }
        if !token.is_name() && token.text != "*" {
            break;
        }
        prefix.push(token.text.clone());
        at += 1;
        if text(at) != "::" || !continues(text(at + 1)) {
            break;
        }
        at += 1;
    }
    if !ends_in_group && prefix.len() > depth {
        let line = tokens[at - 1].line;
        imports.push(Import { path: prefix.clone(), line, in_tests: false });
    }
    prefix.truncate(depth);
    at
}

/// Reads `{ tree, tree as name, }` from its brace on; gives where it ends.
fn read_group(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    imports: &mut Vec<Import>,
) -> usize {
    at += 1;
    while let Some(token) = tokens.get(at) {
        match &*token.text {
            "}" => return at + 1,
            "," => at += 1,
            "as" => at += 2,
            _ => at = read_tree(tokens, at, prefix, imports).max(at + 1),
        }
    }
    at
}

/// Whether a path goes on with this token after `::`; `<` opens generic arguments instead.
fn continues(text: &str) -> bool {
    text == "{" || text == "*" || text.starts_with(is_name_start)
}

/// Where the `#[cfg(test)] mod x { .. }` are, in tokens.
fn test_modules(tokens: &[Token]) -> Vec<std::ops::Range<usize>> {
    const HEAD: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let is_head = |at: usize| tokens[at..].iter().map(|token| &*token.text).take(8).eq(HEAD);
    (0..tokens.len())
        .filter(|at| is_head(*at))
        .filter(|at| tokens.get(at + 9).is_some_and(|token| token.text == "{"))
        .map(|at| at..closing_brace(tokens, at + 9))
        .collect()
}

fn closing_brace(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match &*token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

impl Token {
    fn is_name(&self) -> bool {
        self.text.starts_with(is_name_start)
    }
}

fn is_name_start(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn is_name_part(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Names, `::` and single other characters; no comments, literals, lifetimes or white space.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(c) = rest.chars().next() {
        let (length, is_token) = measure(rest, c);
        let (token, after) = rest.split_at(length);
        if is_token {
            tokens.push(Token { text: token.to_owned(), line });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    tokens
}

/// How long the thing is with which `rest` begins, and whether it is a token.
fn measure(rest: &str, first: char) -> (usize, bool) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if let Some(length) = string(rest) {
        return (length, false);
    }
    match first {
        '\'' => (character_or_lifetime(rest), false),
        ':' if rest.starts_with("::") => (2, true),
        c if is_name_part(c) => {
            let length = rest.find(|c| !is_name_part(c)).unwrap_or(rest.len());
            (length, is_name_start(c))
        }
        c => (c.len_utf8(), !c.is_whitespace()),
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a string literal of any kind, if there is one here.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        rest.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = rest[prefix.len()..].find('"')?;
    let start = prefix.len() + hashes + 1;
    if prefix.ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(rest[start..].find(&end).map_or(rest.len(), |i| start + i + end.len()));
    }
    if hashes > 0 {
        return None;
    }
    Some(quoted(rest, start, '"'))
}

/// Where the literal ends whose text starts at `start`; a backslash escapes.
fn quoted(rest: &str, start: usize, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in rest[start..].char_indices() {
        if c == quote && !escaped {
            return start + i + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

fn character_or_lifetime(rest: &str) -> usize {
    let mut after = rest[1..].chars();
    match (after.next(), after.next()) {
        (Some('\\'), _) => quoted(rest, 1, '\''),
        (Some(c), Some('\'')) => 1 + c.len_utf8() + 1,
        // A lifetime: its name is no name of a path.
        _ => 1 + rest[1..].find(|c| !is_name_part(c)).unwrap_or(rest.len() - 1),
    }
}
