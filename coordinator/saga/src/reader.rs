//! Reading of a definition: from the tree to the core's types, with every mistake on the way.

mod forms;
mod parts;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use unanimo_core::{BranchNumber, Definition, Drive, Gid, Limits, Mode, Parent, Start, TxId, ids};

use crate::fields::{MODES, Object};
use crate::fill::{Values, is_input_name};
use crate::inputs::{Declaration, Type};
use crate::nearest::hint;
use crate::places::{At, Places};
use crate::problem::{PROBLEMS_MAX, Place, Problem};
use crate::tree::{Entries, Node, Path, Value};

/// Key of the metadata that holds the name of the saga.
const NAME_KEY: &str = "saga";

/// Most steps beside each other that are read. The time for the rules about their order grows with the cube of their
/// number, and whoever has several times as many as are allowed needs no other message.
pub(crate) const STEPS_READ_MAX: usize = 256;

/// Identifier that stands for the one of a run.
const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// A definition that was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) name: String,
    /// The definition, with a gid that stands for the one of a run.
    pub(crate) definition: Definition,
    pub(crate) places: Places,
    pub(crate) problems: Vec<Problem>,
    /// Inputs that it declares, or uses without declaring any.
    pub(crate) inputs: BTreeMap<String, Declaration>,
}

/// Reads a definition. `known` are the values of its inputs; without them samples stand for them.
pub(crate) fn read(file: &str, root: &Node, known: Option<BTreeMap<String, Node>>) -> Read {
    let mut reader = Reader {
        file,
        values: Values::new(known),
        problems: Vec::new(),
        places: Places::default(),
        used: BTreeMap::new(),
    };
    let (name, definition) = reader.saga(root);
    let inputs = reader.values.declared.take().unwrap_or(reader.used);
    Read { name, definition, places: reader.places, problems: reader.problems, inputs }
}

struct Reader<'a> {
    file: &'a str,
    values: Values,
    problems: Vec<Problem>,
    places: Places,
    /// Inputs that are used and not declared.
    used: BTreeMap<String, Declaration>,
}

/// An object, and the path to it.
struct Fields<'n> {
    at: At,
    entries: &'n Entries,
}

impl<'n> Fields<'n> {
    /// Returns a field that has the same name in the request.
    fn get(&self, name: &str) -> Option<(At, &'n Node)> {
        self.get_as(name, name)
    }

    /// Returns a field, and its path, in which the request calls it `wire`.
    fn get_as(&self, name: &str, wire: &str) -> Option<(At, &'n Node)> {
        let (_, node) = self.entries.get(name)?;
        Some((self.at.field(name, wire), node))
    }
}

impl Reader<'_> {
    fn problem(&mut self, at: &At, place: Place, rule: impl Into<String>) {
        self.problem_at(&at.path, place, rule.into());
    }

    /// Tells whether as many mistakes are noted as are told.
    fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    fn problem_at(&mut self, path: &str, place: Place, rule: String) {
        if !self.is_full() {
            let (file, path) = (self.file.to_owned(), path.to_owned());
            self.problems.push(Problem { file, place: Some(place), path, rule });
        }
    }

    /// Notes that a value is not of the kind that it must be.
    fn not_a(&mut self, at: &At, node: &Node, kind: &str) {
        let found = match &node.value {
            Value::Unread => return,
            Value::Text(text) if text.contains("${input.") => {
                "a placeholder, and none is replaced here"
            }
            other => other.kind(),
        };
        self.problem(at, node.place, format!("must be {kind}, is {found}"));
    }

    /// Reads an object, and compares its fields with those that are known.
    fn object<'n>(&mut self, at: &At, node: &'n Node, object: Object) -> Option<Fields<'n>> {
        self.places.note(at, node.place);
        let Value::Map(entries) = &node.value else {
            self.not_a(at, node, "an object");
            return None;
        };
        let known = || object.fields().iter().map(|field| field.name);
        for (key, _) in entries.iter() {
            if !self.is_full() && !known().any(|name| name == key.name) {
                let near = hint(&key.name, known());
                let rule = match near.as_str() {
                    "" => {
                        let all: Vec<_> = known().filter(|name| !name.starts_with('$')).collect();
                        format!(
                            "is no field of a {}; the fields are {}",
                            object.name(),
                            all.join(", ")
                        )
                    }
                    near => format!("is no field of a {}{near}", object.name()),
                };
                self.problem(&at.field(&key.name, &key.name), key.place, rule);
            }
        }
        for name in object.required() {
            if entries.get(name).is_none() {
                self.problem(&at.field(name, name), node.place, "must be given");
            }
        }
        Some(Fields { at: at.clone(), entries })
    }

    fn saga(&mut self, root: &Node) -> (String, Definition) {
        let at = At::default();
        let mut definition = empty(Mode::Saga);
        let Some(fields) = self.object(&at, root, Object::Saga) else {
            return (String::new(), definition);
        };
        if let Some((at, node)) = fields.get("input") {
            self.values.declared = Some(self.declarations(&at, node));
        }
        let name = fields.get("saga").and_then(|(at, node)| {
            let name = self.text(&at, node)?;
            let broken = ids::check_name(&name, ids::NAME_BYTES_MAX).err();
            if let Some(rule) = broken {
                self.problem(&at, node.place, rule.to_string());
            }
            Some(name)
        });
        let name = name.unwrap_or_default();
        definition.timeout = fields.get("timeout").and_then(|(at, node)| self.timeout(&at, node));
        if let Some((at, node)) = fields.get("metadata") {
            definition.metadata = self.metadata(&at, node);
        }
        definition.metadata.insert(NAME_KEY.to_owned(), name.clone());
        if let Some((at, node)) = fields.get("locks") {
            definition.locks = self.locks(&at, node);
        }
        definition.start = self.start(&fields);
        self.steps(&fields, &mut definition);
        (name, definition)
    }

    fn start(&mut self, fields: &Fields<'_>) -> Start {
        let at = fields.get("start_at");
        let after = fields.get("start_delay");
        if let (Some(_), Some((path, node))) = (&at, &after) {
            self.problem(path, node.place, "must not be given together with start_at");
        }
        let is_given = at.is_some() || after.is_some();
        let at = at.and_then(|(at, node)| self.time(&at, node)).map(Start::At);
        let after = after.and_then(|(at, node)| self.duration(&at, node)).map(Start::After);
        // One that is not known yet is the latest, which breaks no other rule.
        let latest = Start::After(Limits::default().start_delay_max);
        at.or(after).unwrap_or(if is_given { latest } else { Start::AtOnce })
    }

    /// Reads the steps of a saga or of a child.
    fn steps(&mut self, fields: &Fields<'_>, into: &mut Definition) {
        let Some((at, node)) = fields.get_as("steps", "branches") else { return };
        let Value::Map(entries) = &node.value else {
            self.not_a(&at, node, "an object of steps");
            return;
        };
        let count = entries.len();
        if count > STEPS_READ_MAX {
            let most = Limits::default().branches_max;
            let rule = format!("must have at most {most} branches, has {count}");
            self.problem(&at, node.place, rule);
            return;
        }
        self.places.note(&at, node.place);
        let names: BTreeSet<&str> = entries.iter().map(|(key, _)| key.name.as_str()).collect();
        for (index, (key, node)) in entries.iter().enumerate() {
            let at = at.named(&key.name, index);
            let (branch, child) = self.step(&at, key, node, into.mode, &names);
            into.children.extend(child.map(|child| (index, child)));
            into.branches.push(branch);
        }
    }

    /// Reads the transaction that a step is.
    fn child(&mut self, at: &At, node: &Node) -> Definition {
        let mut definition = empty(Mode::Saga);
        // Rules for children differ. Their parent begins with a run.
        let (tx_id, number) = (TxId::parse(NIL).expect("a UUID"), BranchNumber::from_index(0));
        definition.parent = Some(Parent { tx_id, number, root: tx_id });
        let Some(fields) = self.object(at, node, Object::Child) else { return definition };
        if let Some((at, node)) = fields.get("mode") {
            definition.mode = self.mode(&at, node).unwrap_or(Mode::Saga);
        }
        definition.timeout = fields.get("timeout").and_then(|(at, node)| self.timeout(&at, node));
        if let Some((at, node)) = fields.get("locks") {
            definition.locks = self.locks(&at, node);
        }
        self.steps(&fields, &mut definition);
        definition
    }

    fn mode(&mut self, at: &At, node: &Node) -> Option<Mode> {
        self.choice(at, node, MODES)?.parse().ok()
    }

    fn metadata(&mut self, at: &At, node: &Node) -> BTreeMap<String, String> {
        self.places.note(at, node.place);
        let Value::Map(entries) = &node.value else {
            self.not_a(at, node, "an object of texts");
            return BTreeMap::new();
        };
        let mut metadata = BTreeMap::new();
        for (key, node) in entries.iter() {
            let at = at.entry(&key.name);
            self.places.note(&at, node.place);
            self.plain(&at.path, key.place, &key.name);
            if key.name == NAME_KEY {
                self.problem(&at, key.place, "must not be given: it is the name of the saga");
            }
            match self.filled(&at, node) {
                Some((Value::Text(value), _)) => drop(metadata.insert(key.name.clone(), value)),
                Some(found) => self.not_a_text(&at, node, found, "a text"),
                None => {}
            }
        }
        metadata
    }

    fn declarations(&mut self, at: &At, node: &Node) -> BTreeMap<String, Declaration> {
        let Value::Map(entries) = &node.value else {
            self.not_a(at, node, "an object with the type of each input");
            return BTreeMap::new();
        };
        let mut declared = BTreeMap::new();
        for (key, node) in entries.iter() {
            let at = at.field(&key.name, &key.name);
            if !is_input_name(&key.name) {
                self.problem(&at, key.place, "must have a name of A-Z a-z 0-9 _ - only");
            }
            let (kind, default) = match &node.value {
                Value::Map(_) => {
                    let Some(fields) = self.object(&at, node, Object::Input) else { continue };
                    let kind = fields.get("type").and_then(|(at, node)| self.type_of(&at, node));
                    (kind.unwrap_or(Type::Any), fields.get("default"))
                }
                _ => (self.type_of(&at, node).unwrap_or(Type::Any), None),
            };
            if let Some((at, default)) = &default
                && let Some(rule) = kind.rule(&default.value)
            {
                self.problem(at, default.place, rule);
            }
            let default = default.map(|(at, node)| Node {
                place: node.place,
                value: self.plain_through(Path::Text(&at.path), node),
            });
            let declaration = Declaration { kind, default, place: key.place, path: at.path };
            declared.entry(key.name.clone()).or_insert(declaration);
        }
        declared
    }

    fn type_of(&mut self, at: &At, node: &Node) -> Option<Type> {
        Type::of(&self.choice(at, node, crate::fields::TYPES)?)
    }
}

/// Returns a definition without branches.
fn empty(mode: Mode) -> Definition {
    Definition {
        // A run has a gid of its own; the rules look at the shape only.
        gid: Gid::new("gid").expect("an identifier"),
        mode,
        drive: Drive::Declarative,
        branches: Vec::new(),
        timeout: None,
        start: Start::AtOnce,
        locks: Vec::new(),
        parent: None,
        children: Vec::new(),
        metadata: BTreeMap::new(),
        trace: Default::default(),
        initiator: String::new(),
    }
}
