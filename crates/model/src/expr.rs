// SPDX-License-Identifier: Apache-2.0
//! Expressions in the Common Expression Language (CEL, <https://cel.dev>), as definitions hold them, and
//! texts that hold them in braces. The only door to the crate that reads and evaluates them.
//!
//! What an expression may cost is bounded before it is kept: it is short and flat, and goes through no list
//! (`map`, `filter`, `all`, `exists`), so that evaluating it is linear in what it's given. It has no clock
//! and no dice: the same values give the same result, after a crash as well.

use cel::common::ast::operators::{CONDITIONAL, EQUALS, IN, INDEX, NOT_EQUALS, OPT_INDEX, OPT_SELECT};
use cel::common::ast::{EntryExpr, Expr, LiteralValue};
use cel::objects::Opaque;
use cel::{Context, Env, IdedExpr, Program};
use serde_json::{Map, Number, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1024;
/// Signs in an expression that may nest it: brackets, negations and conditions. The parser descends by them.
pub const NESTING_MAX: usize = 64;
/// Longest text with expressions in it, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 4096;

/// Operators by which one thing is taken out of another.
const TAKES: [&str; 3] = [INDEX, OPT_INDEX, OPT_SELECT];
/// Functions that look at what holds others, and hand none of them on.
const LOOKS: [&str; 3] = ["size", "type", "hasValue"];

/// The functions that expressions have: made once, as that takes longer than most expressions.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// Why an expression is none, or has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// An error of these words.
    pub const fn new(said: String) -> Self {
        Self(said)
    }
}

/// The names that an expression refers to.
///
/// # Errors
/// If it isn't one, or one that could cost too much.
pub fn names(text: &str) -> Result<BTreeSet<String>, Error> {
    let program = compile(text)?;
    refuse_loops(program.expression())?;
    Ok(program.references().variables().into_iter().map(str::to_owned).collect())
}

/// The value of an expression, where these names have these values. A number that CEL's types can't hold as it is written goes
/// through unchanged, and nothing is computed with it.
///
/// # Errors
/// If it has none, such as for a member that isn't there, or where such a number is computed with or compared.
pub fn evaluate(text: &str, values: &Map<String, Value>) -> Result<Value, Error> {
    let program = compile(text)?;
    refuse_loops(program.expression())?;
    if let Some(value) = plain(program.expression(), values) {
        return Ok(sorted(value.clone()));
    }
    refuse_inexact(program.expression(), values)?;
    let mut context = Context::with_env(Arc::clone(&STANDARD));
    for name in program.references().variables() {
        if let Some(value) = values.get(name) {
            context.add_variable_from_value(name, from_json(value));
        }
    }
    let failed = |error: &dyn std::fmt::Display| {
        let references = program.references();
        let number = references.variables().into_iter().filter_map(|name| values.get(name)).find_map(inexact);
        let hint = number.map_or_else(String::new, |number| format!("; {}", Exact::refusal(number)));
        Error(format!("{text:?} has no value here: {error}{hint}"))
    };
    let value = program.execute(&context).map_err(|error| failed(&error))?;
    value.json().map(sorted).map_err(|_| failed(&"it is nothing that JSON can say"))
}

/// With the members of maps in the order of their names, whatever order they were held in: a repeated call
/// has to say the same byte by byte, as an idempotency key stands for one request; and two requests that differ
/// in that alone are one.
pub fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(members) => {
            let members: BTreeMap<String, Value> =
                members.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            members.into_iter().collect::<Map<_, _>>().into()
        }
        plain => plain,
    }
}

fn compile(text: &str) -> Result<Program, Error> {
    if text.trim().is_empty() {
        return Err(Error("the expression is empty".to_owned()));
    }
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(Error(format!("the expression has {} bytes; {EXPRESSION_BYTES_MAX} is the most", text.len())));
    }
    let nesting = text.bytes().filter(|b| matches!(b, b'(' | b'[' | b'{' | b'!' | b'-' | b'?')).count();
    if nesting > NESTING_MAX {
        return Err(Error(format!("the expression has {nesting} brackets and signs; {NESTING_MAX} is the most")));
    }
    STANDARD.compile(text).map_err(|error| {
        let said = error.to_string();
        let first = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it can not be read");
        Error(format!("{text:?} is no expression: {first}"))
    })
}

fn refuse_loops(at: &IdedExpr) -> Result<(), Error> {
    match &at.expr {
        Expr::Comprehension(_) => {
            Err(Error("an expression goes through no list: map, filter, all and exists are not served".to_owned()))
        }
        Expr::Struct(_) => Err(Error("an expression makes no messages; a map is {\"name\": value}".to_owned())),
        _ => inner(at).into_iter().try_for_each(refuse_loops),
    }
}

/// What an expression is made of.
fn inner(at: &IdedExpr) -> Vec<&IdedExpr> {
    match &at.expr {
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).collect(),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(map) => map.entries.iter().flat_map(|entry| parts(&entry.expr)).collect(),
        Expr::Comprehension(_) | Expr::Struct(_) | Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

/// Refuses comparisons that would be wrong rather than fail: a number as it is written equals no other.
fn refuse_inexact(at: &IdedExpr, values: &Map<String, Value>) -> Result<(), Error> {
    if let Expr::Call(call) = &at.expr
        && [EQUALS, NOT_EQUALS, IN].contains(&&*call.func_name)
        && let Some(number) = call.args.iter().find_map(|operand| carried(operand, values))
    {
        return Err(Error(Exact::refusal(number)));
    }
    inner(at).into_iter().try_for_each(|part| refuse_inexact(part, values))
}

/// What a name, or a member by its name, stands for: as it was written, as nothing is computed.
fn plain<'v>(at: &IdedExpr, values: &'v Map<String, Value>) -> Option<&'v Value> {
    match &at.expr {
        Expr::Ident(name) => values.get(name.as_str()),
        Expr::Select(select) if !select.test => plain(&select.operand, values)?.get(select.field.as_str()),
        _ => None,
    }
}

/// A number that CEL's types can't hold, where it may be in what an expression comes to: by its name, or handed on in a list, a map
/// or a condition, by `dyn` and the like.
fn carried<'v>(at: &IdedExpr, values: &'v Map<String, Value>) -> Option<&'v Number> {
    if let Some(value) = member(at, values) {
        return inexact(value);
    }
    // What isn't among the members of something known is nowhere else in it.
    let out_of = |whole: &IdedExpr| if member(whole, values).is_some() { None } else { carried(whole, values) };
    match &at.expr {
        Expr::Select(select) if select.test => None,
        Expr::Select(select) => out_of(&select.operand),
        Expr::Call(call) if TAKES.contains(&&*call.func_name) => out_of(call.args.first()?),
        Expr::Call(call) if LOOKS.contains(&&*call.func_name) => None,
        Expr::Call(call) if call.func_name == CONDITIONAL => {
            call.args.iter().skip(1).find_map(|part| carried(part, values))
        }
        _ => inner(at).into_iter().find_map(|part| carried(part, values)),
    }
}

/// What a name, or a member of it, stands for: at least what holds it.
fn member<'v>(at: &IdedExpr, values: &'v Map<String, Value>) -> Option<&'v Value> {
    match &at.expr {
        Expr::Ident(name) => values.get(name.as_str()),
        Expr::Select(select) if !select.test => member(&select.operand, values)?.get(select.field.as_str()),
        Expr::Call(call) if TAKES.contains(&&*call.func_name) => {
            let of = member(call.args.first()?, values)?;
            match &call.args.get(1)?.expr {
                Expr::Literal(LiteralValue::String(name)) => of.get(name.inner()),
                // Any of them.
                _ => Some(of),
            }
        }
        _ => None,
    }
}

/// A number within a value that CEL's types can't hold.
fn inexact(value: &Value) -> Option<&Number> {
    match value {
        Value::Number(number) => held(number).is_none().then_some(number),
        Value::Array(items) => items.iter().find_map(inexact),
        Value::Object(members) => members.values().find_map(inexact),
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

/// A number as CEL has it, if that is the number that was written. Whole numbers are `int`, so that `input.n + 1` has a meaning.
fn held(number: &Number) -> Option<cel::Value> {
    if let Some(int) = number.as_i64() {
        return Some(int.into());
    }
    if let Some(uint) = number.as_u64() {
        return Some(uint.into());
    }
    let float = number.as_f64()?;
    (decimal(number.as_str()) == decimal(&float.to_string())).then(|| float.into())
}

/// The digits of a number without zeros at either end, and the power of ten behind them: two texts with the same are one number.
fn decimal(text: &str) -> Option<(String, i64)> {
    let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    let power = power.parse::<i64>().ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let power = power.checked_add(i64::try_from(digits.len() - kept.len()).ok()?)?;
    let kept = kept.trim_start_matches('0');
    Some(if kept.is_empty() { (String::new(), 0) } else { (kept.to_owned(), power) })
}

/// A number that CEL's types can't hold, on its way through an expression.
#[derive(Debug, PartialEq, Eq)]
struct Exact(Number);

impl Exact {
    fn refusal(number: &Number) -> String {
        format!("nothing is computed with {number}, as it can't be held exactly; as a text it can be compared")
    }
}

impl Opaque for Exact {
    fn runtime_type_name(&self) -> &str {
        "byrnie.Number"
    }

    fn json(&self) -> Option<Value> {
        Some(Value::Number(self.0.clone()))
    }
}

fn parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

fn from_json(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => held(number).unwrap_or_else(|| cel::Value::Opaque(Arc::new(Exact(number.clone())))),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(from_json).collect::<Vec<_>>().into(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), from_json(value)))
            .collect::<std::collections::HashMap<_, _>>()
            .into(),
    }
}

/// A piece of a text with expressions in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'t> {
    /// As it stands.
    Literal(&'t str),
    /// An expression.
    Expression(&'t str),
}

/// The pieces of a text such as `/refunds/{charge.id}`. An expression in it has no braces of its own.
///
/// # Errors
/// If braces don't match, or there is too much of it.
pub fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Error> {
    if text.len() > TEMPLATE_BYTES_MAX {
        return Err(Error(format!("{} bytes; {TEMPLATE_BYTES_MAX} is the most", text.len())));
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(open) = rest.find(['{', '}']) else {
            pieces.push(Piece::Literal(rest));
            break;
        };
        let close = rest[open..].find('}').map(|close| open + close);
        let (Some(close), true) = (close, rest.as_bytes()[open] == b'{') else {
            return Err(Error(format!("{text:?} has a brace without its partner")));
        };
        if open > 0 {
            pieces.push(Piece::Literal(&rest[..open]));
        }
        pieces.push(Piece::Expression(&rest[open + 1..close]));
        rest = &rest[close + 1..];
    }
    Ok(pieces)
}

/// The path that a text with expressions comes to. A value stands in one segment or query value: what isn't
/// an unreserved character (RFC 3986, 2.3) is percent-encoded.
///
/// # Errors
/// If an expression has no value, or one that can't stand in a path: empty, `.`, `..`, with a slash or a
/// control character in it, a list or a map.
pub fn path(text: &str, values: &Map<String, Value>) -> Result<String, Error> {
    let mut path = String::new();
    for piece in pieces(text)? {
        match piece {
            Piece::Literal(literal) => path.push_str(literal),
            Piece::Expression(expression) => {
                let word = match evaluate(expression, values)? {
                    Value::String(text) => text,
                    Value::Number(number) => number.to_string(),
                    Value::Bool(flag) => flag.to_string(),
                    other => return Err(Error(format!("{expression:?} is {other}, which can't stand in a path"))),
                };
                // What a proxy refuses, as it can be read in more than one way.
                let ambiguous = word.contains(['/', '\\']) && !path.contains('?');
                if matches!(word.as_str(), "" | "." | "..") || ambiguous || word.contains(char::is_control) {
                    return Err(Error(format!("{expression:?} is {word:?}, which can't stand in a path")));
                }
                for byte in word.bytes() {
                    match byte {
                        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                            path.push(char::from(byte))
                        }
                        _ => path.push_str(&format!("%{byte:02X}")),
                    }
                }
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values() -> Map<String, Value> {
        let values = json!({
            "input": {"id": 7, "items": [{"sku": "a1", "n": 2}], "big": 18_446_744_073_709_551_615_u64, "vip": true},
            "charge": {"id": "ch-1 ä", "dots": "..", "empty": "", "slash": "a/b", "line": "a\n"},
        });
        values.as_object().unwrap().clone()
    }

    #[test]
    fn expressions_have_the_values_of_json() {
        for (text, value) in [
            ("input", values()["input"].clone()),
            ("input.items", json!([{"sku": "a1", "n": 2}])),
            ("input.items[0].n + 1", json!(3)),
            ("{'order': input.id, 'rush': input.vip ? 'yes' : 'no'}", json!({"order": 7, "rush": "yes"})),
            ("input.big", json!(18_446_744_073_709_551_615_u64)),
            ("has(input.none) ? input.none : 'x'", json!("x")),
            ("'no. ' + string(input.id)", json!("no. 7")),
            ("size(input.items) == 1 && charge.id.startsWith('ch')", json!(true)),
        ] {
            assert_eq!(evaluate(text, &values()).unwrap(), value, "{text}");
        }
    }

    #[test]
    fn numbers_stay_as_written_and_are_never_rounded() {
        let input = r#"{"id":12345678901234567890123,"sum":12345678901234567.89,"far":1e400,"price":1.10,"n":2,"to":[0.1,1E2]}"#;
        let input: Value = serde_json::from_str(input).unwrap();
        let values: Map<String, Value> = [("input".to_owned(), input)].into_iter().collect();
        let made = |text: &str| evaluate(text, &values).map(|value| value.to_string());
        assert_eq!(
            made("{'a': input.id, 'b': [input.sum], 'c': input.far}").unwrap(),
            r#"{"a":12345678901234567890123,"b":[12345678901234567.89],"c":1e+400}"#
        );
        for tiny in ["1e-400", "1.5e-9223372036854775808", "0e99999999999999999999", "1e99999999999999999999"] {
            let number: Number = serde_json::from_str(tiny).unwrap();
            assert!(held(&number).is_none(), "{tiny}");
        }
        assert_eq!(path("/x/{input.id}/{input.n}", &values).unwrap(), "/x/12345678901234567890123/2");
        for (text, value) in [
            ("input.price", "1.10"),
            ("[input.price]", "[1.1]"),
            ("input.price * 2.0", "2.2"),
            ("input.to[0] == 0.1", "true"),
            ("input.to[1] + 1.0", "101.0"),
            ("input.n + 1", "3"),
            ("input.n == 2 ? input.sum : 1.0", "12345678901234567.89"),
            ("(input.n == 2 ? 'a' : 'b') == 'a'", "true"),
            ("size([input.sum]) == 1 && size(input) == 6", "true"),
            ("has(input.none) && input.none == 1", "false"),
            ("has(input.sum) == true", "true"),
            ("[input.n, 1] == [2, 1]", "true"),
        ] {
            assert_eq!(made(text).unwrap(), value, "{text}");
        }
        for text in [
            "input.sum + 1.0",
            "input.sum * 2.0",
            "-input.id",
            "input.sum > 5.0",
            "input.sum < input.far",
            "input.sum == 12345678901234567.89",
            "input.id != 5",
            "input.id in [1, 2]",
            "input['sum'] == 1.0",
            "true ? input.id + 1 : 2",
            "string(input.id)",
            "double(input.sum)",
            "int(input.id)",
            "input == {'id': 1}",
            "[input.sum] == [1.0]",
            "[[2.0], [input.sum]] != [[2.0], [1.0]]",
            "{'a': input.sum} == {'a': 1.0}",
            "(input.n == 2 ? input.sum : 1.0) == 1.0",
            "input.n in [input.sum, 5]",
            "input.n in (input.n == 2 ? [input.sum] : [])",
            "[input.sum][0] == 1.0",
            "{'a': input.sum}.a == 1.0",
            "[input.sum] + [1.0] == [1.0, 1.0]",
            "dyn(input.sum) == 1.0",
            "optional.of(input.sum).value() == 1.0",
            "optional.of(input.sum).orValue(1.0) == 1.0",
        ] {
            let said = made(text).unwrap_err().to_string();
            assert!(said.contains("nothing is computed with 1"), "{text}: {said}");
        }
    }

    #[test]
    fn a_value_is_written_the_same_every_time() {
        let made = r#"{"z": 1, "a": {"y": [{"d": 1, "b": 2}], "c": input.id}}"#;
        for _ in 0..20 {
            let text = evaluate(made, &values()).unwrap().to_string();
            assert_eq!(text, r#"{"a":{"c":7,"y":[{"b":2,"d":1}]},"z":1}"#);
        }
    }

    #[test]
    fn what_has_no_value_says_why() {
        for text in ["input.none", "other", "input.id + 'x'", "input.items[9]", "1 / 0"] {
            let said = evaluate(text, &values()).unwrap_err().to_string();
            assert!(said.contains("has no value here"), "{text}: {said}");
        }
    }

    #[test]
    fn what_could_cost_too_much_is_refused_before_it_is_kept() {
        let deep = format!("{}1{}", "(".repeat(65), ")".repeat(65));
        let long = "a".repeat(EXPRESSION_BYTES_MAX + 1);
        for text in
            ["[1, 2].map(x, x * 2)", "input.items.all(i, i.n > 0)", "", " ", "1 +", "a b", &deep, &long, "T{x: 1}"]
        {
            assert!(names(text).is_err(), "{text}");
        }
        let at_most = format!("{}1{}", "(".repeat(NESTING_MAX), ")".repeat(NESTING_MAX));
        assert_eq!(names(&at_most).unwrap(), BTreeSet::new());
        assert!(names(&format!("{}true", "!".repeat(NESTING_MAX))).is_ok());
    }

    #[test]
    fn values_stand_in_one_segment_of_a_path() {
        assert_eq!(path("/refunds/{charge.id}?n={input.id}", &values()).unwrap(), "/refunds/ch-1%20%C3%A4?n=7");
        assert_eq!(path("/x?of={charge.slash}", &values()).unwrap(), "/x?of=a%2Fb");
        for text in [
            "/x/{charge.dots}",
            "/x/{charge.empty}",
            "/x/{input}",
            "/x/{input.items}",
            "/x/{charge.none}",
            "/x/{charge.slash}",
            "/x?{charge.line}",
        ] {
            assert!(path(text, &values()).is_err(), "{text}");
        }
        for text in ["/x/{", "/x/}", "/x/{a}}", "{a"] {
            assert!(pieces(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        /// Whatever is written: it's read or refused, never a panic.
        #[test]
        fn no_text_panics(text in "[a-z.0-9()\\[\\]{}'\"?:+*/!<>=&| \\\\-]{0,60}|.{0,40}") {
            let _ = names(&text);
            let _ = evaluate(&text, &values());
            let _ = path(&text, &values());
        }
    }
}
