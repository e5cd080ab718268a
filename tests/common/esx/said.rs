//! What the host was told, against the list in `docs/esx.md`.

/// Fails on a command that the list does not have.
pub fn only_what_is_listed(journal: &[String]) {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/esx.md")).unwrap();
    let listed: Vec<_> = docs.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(listed.len() >= 20 && !listed.iter().any(|line| line.contains("removeall")), "{listed:?}");
    for said in journal {
        assert!(listed.iter().any(|pattern| fits(pattern, said)), "not in docs/esx.md: {said}");
    }
}

/// A command as the shell sees it: words, quotes taken away.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => (quoted, any) = (!quoted, true),
            '\\' if !quoted => word.extend(chars.next()),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

/// Is this what the documentation lists? A word in capitals stands for one that fits its kind.
pub fn fits(pattern: &str, said: &str) -> bool {
    let (pattern, said) = (words(pattern), words(said));
    let names = pattern.last().is_some_and(|last| last == "NAMES");
    let number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let one = |(pattern, said): (&String, &String)| match pattern.as_str() {
        "VMID" | "ID" | "LEVEL" | "INDEX" => number(said),
        "MEMORY" => said == "0" || said == "1",
        "PATH" | "FOLDER" => said.starts_with('/'),
        "TASK" => said.starts_with("haTask-"),
        "TEXT" | "NAMES" => true,
        "impound-RUN" => said.strip_prefix("impound-").is_some_and(|run| run.len() == 8),
        "if=PATH" => said.starts_with("if=/"),
        "skip=N" | "count=N" => {
            said.split_once('=').is_some_and(|(key, value)| pattern.starts_with(key) && number(value))
        }
        script if script.contains('…') => {
            let (head, tail) = script.split_once('…').unwrap();
            said.starts_with(head.trim_end()) && said.trim_end().ends_with(tail.trim_start_matches("; "))
        }
        word => word == said,
    };
    (pattern.len() == said.len() || (names && said.len() >= pattern.len())) && pattern.iter().zip(&said).all(one)
}
