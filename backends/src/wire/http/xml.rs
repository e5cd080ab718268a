//! XML answers as a small tree: names without prefixes, text, children. Bounded, since servers are not ours.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 64;
/// Most elements that are read.
const ELEMENTS_MAX: usize = 1 << 20;

/// An element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name, without prefix.
    pub name: String,
    /// Its own text, without that of its children.
    pub text: String,
    /// Its children.
    pub children: Vec<Element>,
}

impl Element {
    /// Reads a document. Attributes and comments are left out; entities other than XML's own five are refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let mut reader = Reader::from_str(text);
        let mut stack = vec![Self::default()];
        let mut count = 0_usize;
        loop {
            let event = reader.read_event().map_err(|error| format!("byte {}: {error}", reader.error_position()))?;
            match event {
                Event::Start(start) => {
                    count += 1;
                    if stack.len() > DEPTH_MAX || count > ELEMENTS_MAX {
                        return Err("it is nested too deeply or has too many elements".to_owned());
                    }
                    stack.push(Self { name: start.local_name().as_ref().to_owned(), ..Self::default() });
                }
                Event::Empty(start) => {
                    count += 1;
                    add(&mut stack, Self { name: start.local_name().as_ref().to_owned(), ..Self::default() });
                }
                Event::End(_) => {
                    let done = stack.pop().unwrap_or_default();
                    add(&mut stack, done);
                }
                Event::Text(text) => push(&mut stack, &text.xml10_content()),
                Event::CData(data) => push(&mut stack, &data.xml10_content()),
                Event::GeneralRef(entity) => {
                    let whole = format!("&{};", entity.into_inner());
                    push(&mut stack, &quick_xml::escape::unescape(&whole).map_err(|error| error.to_string())?);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let root = stack.pop().and_then(|mut document| document.children.pop());
        root.filter(|_| stack.is_empty()).ok_or_else(|| "there is no element".to_owned())
    }

    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text at the end of a path of names, trimmed; nothing if it is not there or empty.
    pub fn get(&self, path: &str) -> Option<&str> {
        let found = path.split('/').try_fold(self, |element, name| element.child(name))?;
        Some(found.text.trim()).filter(|text| !text.is_empty())
    }

    /// The items of a list: the children of the element at `path`.
    pub fn items(&self, path: &str) -> impl Iterator<Item = &Self> {
        let found = path.split('/').try_fold(self, |element, name| element.child(name));
        found.into_iter().flat_map(|list| &list.children)
    }

    /// The same as JSON: what has children called `item` is a list, what has others an object, what has none a text.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        if self.children.is_empty() {
            return Value::String(self.text.trim().to_owned());
        }
        if self.children.iter().all(|child| matches!(child.name.as_str(), "item" | "member")) {
            return Value::Array(self.children.iter().map(Self::to_json).collect());
        }
        let pairs = self.children.iter().map(|child| (child.name.clone(), child.to_json()));
        Value::Object(pairs.collect())
    }
}

fn add(stack: &mut [Element], done: Element) {
    if let Some(parent) = stack.last_mut() {
        parent.children.push(done);
    }
}

fn push(stack: &mut [Element], text: &str) {
    if let Some(element) = stack.last_mut() {
        element.text.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_becomes_a_tree() {
        let text = r#"<?xml version="1.0"?><a:R xmlns="x"><s><item><id> v&amp;1 </id></item><item><id>2</id><e/></item></s></a:R>"#;
        let root = Element::parse(text.as_bytes()).unwrap();
        let ids: Vec<_> = root.items("s").filter_map(|item| item.get("id")).collect();
        assert_eq!((root.name.as_str(), ids), ("R", vec!["v&1", "2"]));
        assert_eq!(root.to_json().to_string(), r#"{"s":[{"id":"v&1"},{"e":"","id":"2"}]}"#);
        assert_eq!((root.get("s/none"), root.items("none").count()), (None, 0));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let deep = "<a>".repeat(100);
        let bomb = r#"<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>"#;
        for bad in ["", "text", "<a>", "<a></b>", "</a>", "<a><b></a>", deep.as_str(), bomb] {
            assert!(Element::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Element::parse(&[0xff, 0xfe]).is_err());
    }
}
