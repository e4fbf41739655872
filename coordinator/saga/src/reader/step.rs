//! One step of a definition.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use unanimo_core::{
    ActionName, BranchId, BranchSpec, Compensation, Definition, InputName, Mode, ParticipantName,
    Payload, RetryPolicy, StepInput, StepSpec, ids,
};

use super::{Fields, Reader};
use crate::fields::{COMPENSATIONS, Object};
use crate::nearest::hint;
use crate::places::At;
use crate::tree::{Key, Node, Value};
use crate::wire;

/// Name that stands for a bad one, so that the rest is checked, too.
const STAND_IN: &str = "_";

impl Reader<'_> {
    /// Reads a step. `names` are those of all steps beside it.
    pub(super) fn step(
        &mut self,
        at: &At,
        key: &Key,
        node: &Node,
        of_transaction: Mode,
        names: &BTreeSet<&str>,
    ) -> (BranchSpec, Option<Definition>) {
        let branch_id = match BranchId::new(&key.name) {
            // Others that name it mean the first one.
            _ if key.is_twin => stand_in(&format!("{} {}", key.place.line, key.name)),
            Ok(branch_id) => branch_id,
            Err(rule) => {
                self.problem(at, key.place, rule.to_string());
                stand_in(&key.name)
            }
        };
        let mut branch = BranchSpec {
            branch_id,
            participant: ParticipantName::new(STAND_IN).expect("a name"),
            action: ActionName::new(STAND_IN).expect("a name"),
            payload: Payload::default(),
            mode: of_transaction,
            step: StepSpec::default(),
        };
        let fields = self.object(at, node, Object::Step);
        // A message about the step as a whole names the line of its name.
        self.places.note(at, key.place);
        self.places.note(&at.field("name", "branch_id"), key.place);
        let Some(fields) = fields else { return (branch, None) };
        if let Some((at, node)) = fields.get("mode") {
            branch.mode = self.mode(&at, node).unwrap_or(of_transaction);
        }
        branch.step = self.spec(&fields, names);
        let child = fields.get("child").map(|(at, node)| self.child(&at, node));
        match &child {
            Some(child) => {
                self.belongs_to_no_child(&fields);
                // They are told here; the rules need not tell them once more.
                branch.step.inputs.clear();
                branch.participant = ParticipantName::new(wire::CHILD_PARTICIPANT).expect("a name");
                branch.action = ActionName::new(wire::CHILD_ACTION).expect("a name");
                branch.payload = wire::child_payload(child);
                if let Some((at, node)) = fields.get_as("child", "payload") {
                    self.places.note(&at, node.place);
                }
                // As the coordinator has it: a child is told of the decision, and never stands after it.
                branch.mode = Mode::Tcc;
            }
            None => {
                let participant = self.required(&fields, "participant", ParticipantName::new);
                self.is_no_coordinator(&fields, participant.as_ref());
                branch.participant = participant.unwrap_or(branch.participant);
                let action = self.required(&fields, "action", ActionName::new);
                branch.action = action.unwrap_or(branch.action);
                branch.payload = self.payload(&fields);
            }
        }
        (branch, child)
    }

    fn is_no_coordinator(&mut self, fields: &Fields<'_>, participant: Option<&ParticipantName>) {
        let is_it = participant.is_some_and(|name| name.as_str() == wire::CHILD_PARTICIPANT);
        if let (true, Some((at, node))) = (is_it, fields.get("participant")) {
            let rule = "must not be the coordinator itself; a transaction as a step is a child";
            self.problem(&at, node.place, rule);
        }
    }

    fn belongs_to_no_child(&mut self, fields: &Fields<'_>) {
        for name in wire::NOT_WITH_CHILD {
            if let Some((at, node)) = fields.get(name) {
                self.problem(&at, node.place, "must not be given together with child");
            }
        }
    }

    fn required<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        parse: fn(&str) -> Result<T, ids::Error>,
    ) -> Option<T> {
        match fields.get(name) {
            Some((at, node)) => self.name(&at, node, parse),
            None => {
                let (place, _) = self.places.find(fields.at.wire());
                if let Some(place) = place {
                    self.problem(&fields.at.field(name, name), place, "must be given");
                }
                None
            }
        }
    }

    fn payload(&mut self, fields: &Fields<'_>) -> Payload {
        let media_type = fields.get("media_type").and_then(|(at, node)| {
            let text = self.text(&at, node)?;
            Some(self.plain(&at.path, node.place, &text))
        });
        let json = fields.get("payload");
        let bytes = fields.get_as("payload_base64", "payload");
        if let (Some(_), Some((at, node))) = (&json, &bytes) {
            self.problem(at, node.place, "must not be given together with payload");
        }
        if let Some((at, node)) = json {
            self.places.note(&at, node.place);
            let data = self.filled_through(&at, node).to_json().into();
            let media_type = media_type.unwrap_or_else(|| "application/json".to_owned());
            return Payload { data, media_type };
        }
        let decoded = bytes.and_then(|(at, node)| {
            let text = self.text(&at, node)?;
            match BASE64_STANDARD.decode(text) {
                Ok(data) => Some(data.into()),
                Err(error) => {
                    self.problem(&at, node.place, format!("must be base64: {error}"));
                    None
                }
            }
        });
        Payload { data: decoded.unwrap_or_default(), media_type: media_type.unwrap_or_default() }
    }

    fn spec(&mut self, fields: &Fields<'_>, names: &BTreeSet<&str>) -> StepSpec {
        let mut spec = StepSpec::default();
        if let Some((at, node)) = fields.get_as("after", "depends_on") {
            spec.depends_on = self.after(&at, node, names);
        }
        if let Some((at, node)) = fields.get("inputs") {
            spec.inputs = self.inputs(&at, node, names);
        }
        let pivot = fields.get("pivot").and_then(|(at, node)| self.flag(&at, node));
        spec.pivot = pivot.unwrap_or(false);
        let compensation = fields.get("compensation");
        let compensation =
            compensation.and_then(|(at, node)| self.choice(&at, node, COMPENSATIONS));
        spec.compensation = match compensation.as_deref() {
            Some("none") => Compensation::None,
            Some("kept") => Compensation::Kept,
            _ => Compensation::Compensate,
        };
        spec.retry = fields.get("retry").and_then(|(at, node)| self.retry(&at, node));
        let timeout = fields.get("attempt_timeout");
        spec.attempt_timeout = timeout.and_then(|(at, node)| self.duration(&at, node));
        spec.delay = fields.get("delay").and_then(|(at, node)| self.duration(&at, node));
        spec.start_at = fields.get("start_at").and_then(|(at, node)| self.time(&at, node));
        if let Some((at, node)) = fields.get("locks") {
            spec.locks = self.locks(&at, node);
        }
        spec
    }

    /// Reads the steps that a step waits for: a list of names, or one name.
    fn after(&mut self, at: &At, node: &Node, names: &BTreeSet<&str>) -> Vec<BranchId> {
        self.places.note(at, node.place);
        match &node.value {
            Value::List(items) if self.too_many(at, node, items.len()) => Vec::new(),
            Value::List(items) => {
                let id = |(index, node)| self.reference(&at.item(index), node, names);
                items.iter().enumerate().filter_map(id).collect()
            }
            Value::Text(_) => {
                self.places.note(&at.item(0), node.place);
                self.reference(at, node, names).into_iter().collect()
            }
            _ => {
                self.not_a(at, node, "a list of steps");
                Vec::new()
            }
        }
    }

    fn inputs(&mut self, at: &At, node: &Node, names: &BTreeSet<&str>) -> Vec<StepInput> {
        self.places.note(at, node.place);
        let Value::Map(entries) = &node.value else {
            self.not_a(at, node, "an object: name of each input, and the step whose output it is");
            return Vec::new();
        };
        if self.too_many(at, node, entries.len()) {
            return Vec::new();
        }
        let mut inputs = Vec::new();
        for (key, node) in entries.iter() {
            let index = inputs.len();
            let at = at.named(&key.name, index);
            self.places.note(&at.same("name"), key.place);
            self.places.note(&at.same("branch_id"), node.place);
            let name = InputName::new(&key.name);
            if let Err(rule) = &name {
                self.problem(&at, key.place, rule.to_string());
            }
            let branch_id = self.reference(&at, node, names);
            if let (Ok(name), Some(branch_id), false) = (name, branch_id, key.is_twin) {
                inputs.push(StepInput { name, branch_id });
            }
        }
        inputs
    }

    /// Reads the name of a step that stands beside this one.
    fn reference(&mut self, at: &At, node: &Node, names: &BTreeSet<&str>) -> Option<BranchId> {
        let text = self.text(at, node)?;
        if !names.contains(text.as_str()) {
            let known = names.iter().copied().filter(|_| !self.is_full());
            let near = hint(&text, known);
            self.problem(
                at,
                node.place,
                format!("must be the name of a step, {text:?} is none{near}"),
            );
            return None;
        }
        Some(BranchId::new(&text).unwrap_or_else(|_| stand_in(&text)))
    }

    fn retry(&mut self, at: &At, node: &Node) -> Option<RetryPolicy> {
        let fields = self.object(at, node, Object::Retry)?;
        let attempts = fields.get_as("attempts", "attempts_max");
        let mut duration = |name: &str, wire: &str| {
            let (at, node) = fields.get_as(name, wire)?;
            self.duration(&at, node)
        };
        Some(RetryPolicy {
            backoff_min: duration("backoff", "backoff_min"),
            backoff_max: duration("backoff_max", "backoff_max"),
            give_up_after: duration("give_up_after", "give_up_after"),
            attempts_max: attempts.and_then(|(at, node)| self.count(&at, node)),
        })
    }
}

/// Returns an id that stands for a bad one; the same for the same text.
fn stand_in(text: &str) -> BranchId {
    let letters: String = text.bytes().take(60).map(|byte| format!("{byte:02x}")).collect();
    BranchId::new(&format!("_{letters}")).expect("an identifier")
}
