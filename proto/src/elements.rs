//! Elements of an encoded message, counted without decoding it.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{Message, Name};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

/// Most elements of a message: fields that are set, elements of lists and entries of maps, in it and in
/// all messages within. The largest request has a thousand branches with some dozens each; this many
/// take some 25 MiB when they are decoded.
pub const ELEMENTS_MAX: usize = 1 << 16;

/// Deepest nesting that is followed. Decoding refuses deeper ones.
const DEPTH_MAX: usize = 100;

/// Fields whose content is counted, by message and number.
type Fields = HashMap<String, HashMap<u32, Field>>;

#[derive(Debug)]
struct Field {
    name: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// A message of this name.
    Message(String),
    /// Numbers one after the other, of at least a byte each.
    Packed,
    /// One element.
    Single,
}

/// Checks that a message of this name in the package has at most [`ELEMENTS_MAX`].
///
/// # Errors
/// It has more: returns its field that has most of them. What is no message of that name is left to
/// whoever decodes it.
pub(crate) fn check(name: &str, bytes: &[u8]) -> Result<(), String> {
    let mut counting = Counting { left: ELEMENTS_MAX, of_fields: HashMap::new() };
    let name = format!(".unanimo.v1.{name}");
    if counting.count(&name, bytes, 0).is_some() || counting.left > 0 {
        return Ok(());
    }
    let most = counting.of_fields.into_iter().max_by_key(|(_, count)| *count);
    Err(most.map_or_else(String::new, |(field, _)| field.to_owned()))
}

/// Counts the elements of a message of the contract, as whoever receives it does before it decodes it.
#[must_use]
pub fn elements<T: Message + Name>(message: &T) -> usize {
    let mut counting = Counting { left: usize::MAX, of_fields: HashMap::new() };
    // What was encoded here can be read.
    let _ = counting.count(&format!(".unanimo.v1.{}", T::NAME), &message.encode_to_vec(), 0);
    usize::MAX - counting.left
}

struct Counting {
    left: usize,
    /// Elements in each field of the message itself.
    of_fields: HashMap<&'static str, usize>,
}

impl Counting {
    /// Counts the elements of one message. `None` if there are too many, or it cannot be read.
    fn count(&mut self, name: &str, mut bytes: &[u8], depth: usize) -> Option<()> {
        let fields = fields().get(name);
        while !bytes.is_empty() {
            let (number, wire) = decode_key(&mut bytes).ok()?;
            let field = fields.and_then(|fields| fields.get(&number));
            let before = self.left;
            self.take(1)?;
            if wire == WireType::LengthDelimited {
                let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                let (content, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                let counted = match field.map(|field| &field.content) {
                    Some(Content::Message(name)) if depth < DEPTH_MAX => {
                        self.count(name, content, depth + 1)
                    }
                    Some(Content::Packed) => self.take(length),
                    _ => Some(()),
                };
                self.note(field, depth, before);
                counted?;
            } else {
                skip_field(wire, number, &mut bytes, DecodeContext::default()).ok()?;
                self.note(field, depth, before);
            }
        }
        Some(())
    }

    fn take(&mut self, elements: usize) -> Option<()> {
        let left = self.left.checked_sub(elements);
        self.left = left.unwrap_or(0);
        // The last one that may be there is one too many for whoever comes next.
        left.filter(|left| *left > 0).map(|_| ())
    }

    fn note(&mut self, field: Option<&'static Field>, depth: usize, before: usize) {
        if depth == 0 {
            let name = field.map_or("an unknown field", |field| field.name.as_str());
            *self.of_fields.entry(name).or_default() += before - self.left;
        }
    }
}

fn fields() -> &'static Fields {
    static FIELDS: OnceLock<Fields> = OnceLock::new();
    FIELDS.get_or_init(|| {
        let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET);
        let set = set.expect("the descriptors are generated with the code");
        let mut fields = Fields::new();
        for file in &set.file {
            for message in &file.message_type {
                add(&format!(".{}", file.package()), message, &mut fields);
            }
        }
        fields
    })
}

fn add(prefix: &str, message: &DescriptorProto, fields: &mut Fields) {
    let name = format!("{prefix}.{}", message.name());
    for nested in &message.nested_type {
        add(&name, nested, fields);
    }
    let of_message = message.field.iter().filter_map(|field| {
        let repeated = field.label() == Label::Repeated;
        let content = match field.r#type() {
            Type::Message => Content::Message(field.type_name().to_owned()),
            Type::String | Type::Bytes | Type::Group => Content::Single,
            _ if repeated => Content::Packed,
            _ => Content::Single,
        };
        let number = u32::try_from(field.number()).ok()?;
        Some((number, Field { name: field.name().to_owned(), content }))
    });
    let of_message = of_message.collect();
    fields.insert(name, of_message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{
        BranchSpec, ChildTransaction, ListTransactionsRequest, Payload, SubmitTransactionRequest,
    };

    fn submit(branches: Vec<BranchSpec>) -> Vec<u8> {
        SubmitTransactionRequest { branches, ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn elements_are_counted_wherever_they_are() {
        let name = "SubmitTransactionRequest";
        let many = ELEMENTS_MAX;
        assert_eq!(check(name, &submit(vec![BranchSpec::default(); many / 2])), Ok(()));
        let bad = Err("branches".to_owned());
        assert_eq!(check(name, &submit(vec![BranchSpec::default(); many])), bad);
        let of_strings = BranchSpec { depends_on: vec![String::new(); many], ..Default::default() };
        assert_eq!(check(name, &submit(vec![of_strings])), bad);
        let child =
            ChildTransaction { branches: vec![BranchSpec::default(); many], ..Default::default() };
        let deep = BranchSpec { child: Some(child), ..Default::default() };
        assert_eq!(check(name, &submit(vec![deep])), bad);
        let metadata = (0..many).map(|n| (n.to_string(), String::new())).collect();
        let mapped = SubmitTransactionRequest { metadata, ..Default::default() };
        assert_eq!(check(name, &mapped.encode_to_vec()), Err("metadata".to_owned()));
        let states = ListTransactionsRequest { states: vec![1; many], ..Default::default() };
        let states = check("ListTransactionsRequest", &states.encode_to_vec());
        assert_eq!(states, Err("states".to_owned()));
    }

    #[test]
    fn bytes_are_one_element_and_garbage_is_left_to_decoding() {
        let name = "SubmitTransactionRequest";
        let payload = Payload { data: vec![8; 1 << 20].into(), ..Default::default() };
        let large = BranchSpec { payload: Some(payload), ..Default::default() };
        assert_eq!(check(name, &submit(vec![large; 4])), Ok(()));
        for garbage in [&[0xff_u8; 100][..], &[0x22, 0x7f, 1], &[0]] {
            assert_eq!(check(name, garbage), Ok(()));
        }
    }
}
