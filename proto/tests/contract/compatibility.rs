//! Changes that break a peer: those of buf's category `FILE`.

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};

/// Everything of `old` that `new` no longer has, or has otherwise.
pub(crate) fn breaks(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let mut breaks = Breaks::default();
    for old in &old.file {
        let new = new.file.iter().find(|new| new.name == old.name);
        if let Some(new) = breaks.kept(new, "file", old.name()) {
            breaks.file(old, new);
        }
    }
    breaks.0
}

#[derive(Default)]
struct Breaks(Vec<String>);

impl Breaks {
    /// Notes what is gone.
    fn kept<T>(&mut self, new: Option<T>, kind: &str, name: &str) -> Option<T> {
        if new.is_none() {
            self.0.push(format!("{kind} {name} is gone"));
        }
        new
    }

    /// Notes what is another one.
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, place: &str, what: &str, old: &T, new: &T) {
        if old != new {
            self.0.push(format!("{place}: {what} was {old:?}, is {new:?}"));
        }
    }

    fn file(&mut self, old: &FileDescriptorProto, new: &FileDescriptorProto) {
        self.same(old.name(), "package", &old.package, &new.package);
        self.same(old.name(), "syntax", &old.syntax, &new.syntax);
        // Namespaces of generated code, `go_package` and `java_package` among them.
        let options = |file: &FileDescriptorProto| file.options.clone().unwrap_or_default();
        self.same(old.name(), "options", &options(old), &options(new));
        let scope = old.package();
        self.messages(scope, &old.message_type, &new.message_type);
        self.enums(scope, &old.enum_type, &new.enum_type);
        for old in &old.service {
            let name = format!("{scope}.{}", old.name());
            let new = new.service.iter().find(|new| new.name == old.name);
            if let Some(new) = self.kept(new, "service", &name) {
                self.service(&name, old, new);
            }
        }
    }

    fn messages(&mut self, scope: &str, old: &[DescriptorProto], new: &[DescriptorProto]) {
        for old in old {
            let name = format!("{scope}.{}", old.name());
            let new = new.iter().find(|new| new.name == old.name);
            if let Some(new) = self.kept(new, "message", &name) {
                self.message(&name, old, new);
            }
        }
    }

    fn message(&mut self, name: &str, old: &DescriptorProto, new: &DescriptorProto) {
        self.messages(name, &old.nested_type, &new.nested_type);
        self.enums(name, &old.enum_type, &new.enum_type);
        for field in &old.field {
            let place = format!("{name}.{}", field.name());
            let found = new.field.iter().find(|new| new.number == field.number);
            let kind = format!("field {}", field.number());
            if let Some(found) = self.kept(found, &kind, &place) {
                self.field(&place, field, found);
                self.same(&place, "oneof", &oneof(old, field), &oneof(new, found));
            }
        }
        for oneof in &old.oneof_decl {
            let found = new.oneof_decl.iter().find(|new| new.name == oneof.name);
            self.kept(found, "oneof", &format!("{name}.{}", oneof.name()));
        }
        // The end is exclusive.
        let ranges = new.reserved_range.iter().map(|range| (range.start(), range.end() - 1));
        let ranges: Vec<_> = ranges.collect();
        for range in &old.reserved_range {
            self.reserved(name, (range.start(), range.end() - 1), &ranges);
        }
        self.reserved_names(name, &old.reserved_name, &new.reserved_name);
    }

    fn field(&mut self, place: &str, old: &FieldDescriptorProto, new: &FieldDescriptorProto) {
        self.same(place, "name", &old.name, &new.name);
        self.same(place, "type", &old.r#type(), &new.r#type());
        self.same(place, "type", &old.type_name, &new.type_name);
        self.same(place, "label", &old.label(), &new.label());
        self.same(place, "presence", &old.proto3_optional(), &new.proto3_optional());
        self.same(place, "JSON name", &old.json_name, &new.json_name);
        self.same(place, "default", &old.default_value, &new.default_value);
        let encoding = |field: &FieldDescriptorProto| {
            let options = field.options.clone().unwrap_or_default();
            (options.packed, options.jstype, options.ctype)
        };
        self.same(place, "encoding", &encoding(old), &encoding(new));
    }

    fn enums(&mut self, scope: &str, old: &[EnumDescriptorProto], new: &[EnumDescriptorProto]) {
        for old in old {
            let name = format!("{scope}.{}", old.name());
            let new = new.iter().find(|new| new.name == old.name);
            let Some(new) = self.kept(new, "enum", &name) else { continue };
            for value in &old.value {
                let place = format!("{name}.{}", value.name());
                let has_number = new.value.iter().any(|new| new.number == value.number);
                let found = has_number.then_some(());
                let kind = format!("value {}", value.number());
                let is_same = |new: &&_| *new == value;
                if self.kept(found, &kind, &place).is_some()
                    && !new.value.iter().any(|v| is_same(&v))
                {
                    self.0.push(format!("{place}: value {} has another name", value.number()));
                }
            }
            let ranges = new.reserved_range.iter().map(|range| (range.start(), range.end()));
            let ranges: Vec<_> = ranges.collect();
            for range in &old.reserved_range {
                self.reserved(&name, (range.start(), range.end()), &ranges);
            }
            self.reserved_names(&name, &old.reserved_name, &new.reserved_name);
        }
    }

    fn service(&mut self, name: &str, old: &ServiceDescriptorProto, new: &ServiceDescriptorProto) {
        for old in &old.method {
            let place = format!("{name}.{}", old.name());
            let new = new.method.iter().find(|new| new.name == old.name);
            if let Some(new) = self.kept(new, "rpc", &place) {
                self.same(&place, "request", &old.input_type, &new.input_type);
                self.same(&place, "response", &old.output_type, &new.output_type);
                self.same(
                    &place,
                    "client streaming",
                    &old.client_streaming(),
                    &new.client_streaming(),
                );
                self.same(
                    &place,
                    "server streaming",
                    &old.server_streaming(),
                    &new.server_streaming(),
                );
                self.same(&place, "idempotency", &idempotency(old), &idempotency(new));
            }
        }
    }

    /// Every number of a range, both ends included, must still be reserved.
    fn reserved(&mut self, name: &str, (start, end): (i32, i32), ranges: &[(i32, i32)]) {
        let mut next = start;
        while let Some((_, last)) =
            ranges.iter().find(|(first, last)| (*first..=*last).contains(&next))
        {
            if *last >= end {
                return;
            }
            next = last + 1;
        }
        self.0.push(format!("{name}: {next} (of {start} to {end}) is no longer reserved"));
    }

    fn reserved_names(&mut self, name: &str, old: &[String], new: &[String]) {
        for gone in old.iter().filter(|old| !new.contains(old)) {
            self.0.push(format!("{name}: the name {gone:?} is no longer reserved"));
        }
    }
}

/// Name of the oneof that a field is in. One made for `optional` is the field's presence instead.
fn oneof<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> Option<&'a str> {
    let index = field.oneof_index.filter(|_| !field.proto3_optional())?;
    Some(message.oneof_decl.get(usize::try_from(index).ok()?)?.name())
}

fn idempotency(method: &MethodDescriptorProto) -> i32 {
    method.options.as_ref().map_or(0, |options| options.idempotency_level().into())
}

#[cfg(test)]
mod tests {
    use prost_types::field_descriptor_proto::{Label, Type};

    use super::*;
    use crate::sample::{field, message, sample, text};

    /// Changes the sample, and expects one break that says so.
    #[track_caller]
    fn breaks_by(change: impl FnOnce(&mut FileDescriptorProto), part: &str) {
        let found = changed(change);
        assert!(found.len() == 1 && found[0].contains(part), "{found:?} instead of {part:?}");
    }

    fn changed(change: impl FnOnce(&mut FileDescriptorProto)) -> Vec<String> {
        let mut new = sample();
        change(&mut new.file[0]);
        breaks(&sample(), &new)
    }

    #[test]
    fn additions_pass() {
        let found = changed(|file| {
            file.message_type.push(message("New"));
            file.message_type[0].field.push(field("new", 4, Type::Bytes));
            file.message_type[0].reserved_range[0].end = Some(20);
            let mut value = file.enum_type[0].value[1].clone();
            (value.name, value.number) = (text("MODE_NEW"), Some(2));
            file.enum_type[0].value.push(value);
            let mut method = file.service[0].method[0].clone();
            method.name = text("New");
            file.service[0].method.push(method);
        });
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn what_is_gone_is_found() {
        let none = FileDescriptorSet::default();
        assert_eq!(breaks(&sample(), &none), ["file unanimo/v1/sample.proto is gone"]);
        breaks_by(|file| drop(file.message_type.pop()), "message unanimo.v1.GetResponse is gone");
        breaks_by(|file| file.message_type[0].nested_type.clear(), "GetRequest.Inner is gone");
        breaks_by(
            |file| drop(file.message_type[0].field.remove(0)),
            "field 1 unanimo.v1.GetRequest.tx_id",
        );
        breaks_by(|file| file.enum_type.clear(), "enum unanimo.v1.Mode is gone");
        breaks_by(
            |file| drop(file.enum_type[0].value.pop()),
            "value 1 unanimo.v1.Mode.MODE_TCC is gone",
        );
        breaks_by(|file| file.service.clear(), "service unanimo.v1.SampleService is gone");
        breaks_by(
            |file| file.service[0].method.clear(),
            "rpc unanimo.v1.SampleService.Get is gone",
        );
    }

    #[test]
    fn fields_that_changed_are_found() {
        let field = |change: fn(&mut FieldDescriptorProto)| {
            move |file: &mut FileDescriptorProto| change(&mut file.message_type[0].field[0])
        };
        breaks_by(field(|field| field.name = text("id")), "tx_id: name was");
        breaks_by(
            field(|field| field.number = Some(9)),
            "field 1 unanimo.v1.GetRequest.tx_id is gone",
        );
        breaks_by(field(|field| field.set_type(Type::Bytes)), "type was String, is Bytes");
        breaks_by(
            field(|field| field.set_label(Label::Repeated)),
            "label was Optional, is Repeated",
        );
        breaks_by(field(|field| field.json_name = text("other")), "JSON name was");
        breaks_by(field(|field| field.oneof_index = Some(0)), "oneof was None, is Some(\"key\")");
        breaks_by(field(|field| field.proto3_optional = Some(true)), "presence was false");
        breaks_by(
            |file| file.message_type[0].field[2].oneof_index = None,
            "oneof was Some(\"key\")",
        );
        breaks_by(
            |file| file.message_type[0].field[1].type_name = text(".unanimo.v1.Vote"),
            "type was",
        );
    }

    #[test]
    fn names_and_reservations_that_changed_are_found() {
        breaks_by(|file| file.enum_type[0].value[1].name = text("MODE_SAGA"), "has another name");
        breaks_by(|file| file.enum_type[0].reserved_range.clear(), "Mode: 5 (of 5 to 5)");
        breaks_by(|file| file.message_type[0].reserved_range.clear(), "GetRequest: 7 (of 7 to 9)");
        breaks_by(|file| file.message_type[0].reserved_range[0].end = Some(9), "9 (of 7 to 9)");
        breaks_by(
            |file| file.message_type[0].reserved_name.clear(),
            "\"old\" is no longer reserved",
        );
    }

    #[test]
    fn calls_and_files_that_changed_are_found() {
        let call = |change: fn(&mut MethodDescriptorProto)| {
            move |file: &mut FileDescriptorProto| change(&mut file.service[0].method[0])
        };
        breaks_by(call(|call| call.input_type = text(".unanimo.v1.Other")), "Get: request was");
        breaks_by(call(|call| call.output_type = text(".unanimo.v1.Other")), "Get: response was");
        breaks_by(call(|call| call.client_streaming = Some(true)), "client streaming was false");
        breaks_by(call(|call| call.server_streaming = Some(true)), "server streaming was false");
        breaks_by(|file| file.syntax = None, "syntax was");
        breaks_by(|file| file.options = None, "options was");
        breaks_by(|file| file.package = text("unanimo.v2"), "package was");
    }
}
