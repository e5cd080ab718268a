//! The formats on disk are what `docs/` says: a produced `exhibit.json` follows `docs/exhibit.schema.json` to the letter,
//! the sample of each version there ever was is still read, and `docs/formats.md` has a word on every file.

use std::fs;
use std::path::{Path, PathBuf};

use impound::case::record;
use serde_json::Value;

use crate::kit;

fn docs(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// As much of JSON Schema 2020-12 as our schema uses; another keyword stops the test.
struct Schema(Value);

impl Schema {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        for (keyword, rule) in schema.as_object().unwrap() {
            let good = match keyword.as_str() {
                "$schema" | "title" | "description" | "$defs" | "additionalProperties" => true,
                "$ref" => {
                    return self.check(&self.0["$defs"][rule.as_str().unwrap().rsplit('/').next().unwrap()], value, at);
                }
                "const" => value == rule,
                "enum" => rule.as_array().unwrap().contains(value),
                "type" => rule.as_array().map_or_else(|| is(rule, value), |types| types.iter().any(|t| is(t, value))),
                "minimum" => value.is_null() || value.as_u64().is_some(),
                "pattern" => {
                    let digits = rule.as_str().unwrap().trim_start_matches("^[0-9a-f]{").trim_end_matches("}$");
                    let text = value.as_str().unwrap_or_default();
                    text.len() == digits.parse::<usize>().unwrap()
                        && text.bytes().all(|b| b"0123456789abcdef".contains(&b))
                }
                "oneOf" => {
                    let fits = |schema: &&Value| self.check(schema, value, at).is_ok();
                    rule.as_array().unwrap().iter().filter(fits).count() == 1
                }
                "required" => rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
                "items" => {
                    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{n}]"))?;
                    }
                    true
                }
                "properties" => {
                    for (name, value) in value.as_object().into_iter().flatten() {
                        let schema = rule.get(name).ok_or_else(|| format!("{at}.{name} is not in the schema"))?;
                        self.check(schema, value, &format!("{at}.{name}"))?;
                    }
                    true
                }
                other => panic!("this test does not know the keyword {other}"),
            };
            if !good {
                return Err(format!("{at} = {value} breaks {keyword}: {rule}"));
            }
        }
        Ok(())
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("this test does not know the type {other}"),
    }
}

#[test]
fn exhibit_json_follows_its_schema_and_the_schema_is_strict() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case");
    let case = kit::build(&path, None);
    let partial = impound::case::Outcome::Partial { why: "read errors".to_owned(), missing: 1 };
    kit::seal(&case, "vdb", b"x", false, partial, &path.join("journal/r1.wire.jsonl"));
    let schema = Schema(serde_json::from_str(&docs("exhibit.schema.json")).unwrap());
    let mut seen = 0;
    for entry in fs::read_dir(path.join("exhibits")).unwrap() {
        let text = fs::read(entry.unwrap().path().join("exhibit.json")).unwrap();
        let good: Value = serde_json::from_slice(&text).unwrap();
        schema.check(&schema.0, &good, "exhibit").unwrap();
        for name in good.as_object().unwrap().keys() {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(name);
            assert!(schema.check(&schema.0, &bad, "exhibit").is_err(), "{name} may be absent");
        }
        let mut bad = good.clone();
        bad["custody"]["hash"] = Value::from("ABC");
        assert!(schema.check(&schema.0, &bad, "exhibit").is_err());
        bad = good.clone();
        bad["item"]["unknown"] = Value::Null;
        assert!(schema.check(&schema.0, &bad, "exhibit").is_err());
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn the_sample_of_every_version_is_still_read() {
    let text = docs("exhibit.sample.json");
    let record = record::read(text.as_bytes()).unwrap();
    let schema = Schema(serde_json::from_str(&docs("exhibit.schema.json")).unwrap());
    schema.check(&schema.0, &serde_json::from_str(&text).unwrap(), "sample").unwrap();
    assert_eq!(
        serde_json::to_value(&record).unwrap(),
        serde_json::from_str::<Value>(&text).unwrap(),
        "nothing is lost"
    );
}

#[test]
fn formats_md_has_a_word_on_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case");
    kit::build(&path, Some(&kit::key(dir.path(), "key")));
    let text = docs("formats.md");
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        for entry in fs::read_dir(path.join(&below)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(below.join(name));
            } else if !below.ends_with("data") {
                let name = name.replace("r1.", "RUN.");
                assert!(text.contains(&format!("`{name}`")), "docs/formats.md says nothing of {name}");
            }
        }
    }
}
