//! YAML as far as settings need it: maps, lists and text, with anchors and merge keys.
//!
//! A scalar is kept as it is written: a password of digits is no number, and what `yes` means is decided by who asks for it. That
//! is why only the parser of saphyr is used (maintained, no unsafe, two small crates), and no deserializer. Every text may be a
//! secret, so it is held as one, and no error repeats what stands in the file.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::Secret;

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 32;
/// Most nodes, those counted again that an alias repeats.
const NODES_MAX: usize = 20_000;
/// The key whose maps are taken into the one that it stands in.
const MERGE: &str = "<<";

/// A map of a document.
pub(super) type Map = BTreeMap<String, Node>;

/// A part of a document.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// `~`, `null`, or nothing at all.
    Nothing,
    /// A scalar, as it is written.
    Text(Secret),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping whose keys are scalars.
    Map(Map),
}

impl Node {
    /// A text, as a setting is.
    pub(super) fn text(text: &str) -> Self {
        Self::Text(Secret::new(text.to_owned()))
    }

    /// Its text, if it is one and not empty.
    pub(super) fn as_text(&self) -> Option<&Secret> {
        match self {
            Self::Text(text) if !text.reveal().is_empty() => Some(text),
            _ => None,
        }
    }

    /// Its map, if it is one.
    pub(super) fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Nothing | Self::Text(_) => 1,
            Self::List(list) => list.iter().map(Self::count).sum::<usize>().saturating_add(1),
            Self::Map(map) => map.values().map(Self::count).sum::<usize>().saturating_add(1),
        }
    }
}

/// What is not finished yet.
struct Open {
    node: Node,
    key: Option<String>,
    anchor: usize,
}

/// A document on its way.
#[derive(Default)]
struct Reading {
    stack: Vec<Open>,
    root: Option<Node>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

/// Reads the first document of a text; an empty one is an empty map. The error says where, and not what stands there.
pub(super) fn parse(text: &str) -> Result<Map, String> {
    let mut reading = Reading::default();
    let mut line = 1;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| format!("line {}: it is no YAML", error.marker().line()))?;
        line = span.start.line();
        if reading.take(event).map_err(|why| format!("line {line}: {why}"))? {
            break;
        }
    }
    match reading.root {
        None | Some(Node::Nothing) => Ok(Map::new()),
        Some(Node::Map(map)) => Ok(map),
        Some(_) => Err(format!("line {line}: there is no map")),
    }
}

impl Reading {
    /// Answers whether the document is at its end.
    fn take(&mut self, event: Event<'_>) -> Result<bool, &'static str> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let node = if nothing { Node::Nothing } else { Node::text(&text) };
                self.ended(node, anchor)?;
            }
            Event::SequenceStart(anchor, _) => self.open(Node::List(Vec::new()), anchor)?,
            Event::MappingStart(anchor, _) => self.open(Node::Map(Map::new()), anchor)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.stack.pop() {
                    self.ended(open.node, open.anchor)?;
                }
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or("an alias of something that is not finished")?;
                self.ended(node, 0)?;
            }
            Event::DocumentEnd => return Ok(true),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {}
        }
        Ok(false)
    }

    fn open(&mut self, node: Node, anchor: usize) -> Result<(), &'static str> {
        if self.stack.len() >= DEPTH_MAX {
            return Err("it is nested too deeply");
        }
        self.stack.push(Open { node, key: None, anchor });
        Ok(())
    }

    /// A node is whole and goes where it belongs.
    fn ended(&mut self, node: Node, anchor: usize) -> Result<(), &'static str> {
        self.nodes = self.nodes.saturating_add(node.count());
        if self.nodes > NODES_MAX {
            return Err("it is too large for settings");
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node, open.key.take()) {
            (Node::List(list), _) => list.push(node),
            (Node::Map(map), Some(key)) if key == MERGE => merge(map, &node),
            (Node::Map(map), Some(key)) => drop(map.insert(key, node)),
            (_, _) => match node {
                Node::Text(text) => open.key = Some(text.reveal().to_owned()),
                _ => return Err("a key that is no text"),
            },
        }
        Ok(())
    }
}

/// What the map says itself goes before what is taken into it.
fn merge(map: &mut Map, from: &Node) {
    match from {
        Node::Map(other) => {
            for (key, node) in other {
                map.entry(key.clone()).or_insert_with(|| node.clone());
            }
        }
        Node::List(list) => list.iter().for_each(|node| merge(map, node)),
        Node::Nothing | Node::Text(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'a>(map: &'a Map, path: &str) -> Option<&'a str> {
        let (last, way) = path.rsplit_once('/').map_or((path, ""), |(way, last)| (last, way));
        let map = way.split('/').filter(|name| !name.is_empty()).try_fold(map, |map, name| map.get(name)?.as_map())?;
        map.get(last)?.as_text().map(Secret::reveal)
    }

    #[test]
    fn scalars_stay_as_they_are_written_and_merges_give_way() {
        let text = "base: &base {user: a, pass: 0123}\nlab:\n  <<: *base\n  user: b # c\n  n: yes\n  'q': \"x: #y\"\n  e: ~\n  l: [1, 2]\nlate:\n  user: own\n  <<: [*base]\n";
        let map = parse(text).unwrap();
        for (path, value) in [
            ("lab/user", Some("b")),
            ("lab/pass", Some("0123")),
            ("lab/n", Some("yes")),
            ("lab/q", Some("x: #y")),
            ("lab/e", None),
            ("lab/l", None),
            ("late/user", Some("own")),
            ("late/pass", Some("0123")),
        ] {
            assert_eq!(get(&map, path), value, "{path}");
        }
        assert!(parse("").unwrap().is_empty() && parse("# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_settings_is_refused_and_not_repeated() {
        let deep = "[".repeat(100);
        let tenfold = |n: u32| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
        let laughs = (1..9).fold("a0: &a0 [x]\n".to_owned(), |text, n| text + &tenfold(n));
        for bad in ["- hunter2", "hunter2: [", "a: *hunter2", "? [hunter2]\n: x", "hunter2", &deep, &laughs] {
            let error = parse(bad).unwrap_err();
            assert!(!error.contains("hunter") && error.contains("line"), "{error}");
        }
    }
}
