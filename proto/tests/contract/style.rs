//! Style of a contract: buf's categories `STANDARD` and `COMMENTS`.

use std::collections::{HashMap, HashSet};

use prost_types::field_descriptor_proto::Label;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet, FileOptions,
    ServiceDescriptorProto,
};

/// Everything that is written otherwise than the rules say.
pub(crate) fn faults(set: &FileDescriptorSet) -> Vec<String> {
    let mut faults = Faults::default();
    let mut packages = HashSet::new();
    for file in &set.file {
        faults.start(file);
        faults.file(file);
        packages.insert((file.package(), format!("{:?}", options_of_package(file))));
    }
    faults.java_classes(set);
    let names: HashSet<_> = packages.iter().map(|(package, _)| package).collect();
    if names.len() < packages.len() {
        faults.list.push("files of one package have different options".to_owned());
    }
    faults.messages_of_calls(set);
    faults.list
}

/// Options that every file of a package has alike.
fn options_of_package(file: &FileDescriptorProto) -> Option<FileOptions> {
    let options = file.options.clone();
    options.map(|options| FileOptions { java_outer_classname: None, ..options })
}

#[derive(Default)]
struct Faults {
    list: Vec<String>,
    file: String,
    /// Paths that have a comment; none if the file came without source information.
    commented: Option<HashSet<Vec<i32>>>,
}

impl Faults {
    fn start(&mut self, file: &FileDescriptorProto) {
        self.file = file.name().to_owned();
        self.commented = file.source_code_info.as_ref().map(|info| {
            let has_comment =
                |text: &Option<String>| text.as_deref().is_some_and(|t| !t.trim().is_empty());
            let locations = info.location.iter();
            let locations = locations.filter(|location| has_comment(&location.leading_comments));
            locations.map(|location| location.path.clone()).collect()
        });
    }

    fn expect(&mut self, is_so: bool, name: &str, rule: &str) {
        if !is_so {
            self.list.push(format!("{}: {name}: {rule}", self.file));
        }
    }

    fn comment(&mut self, path: &[i32], name: &str) {
        let has = self.commented.as_ref().is_none_or(|commented| commented.contains(path));
        self.expect(has, name, "has no comment before it");
    }

    fn file(&mut self, file: &FileDescriptorProto) {
        let package = file.package();
        let folder = file.name().rsplit_once('/').map_or("", |(folder, _)| folder);
        let stem = file.name().rsplit('/').next().and_then(|name| name.strip_suffix(".proto"));
        self.expect(
            stem.is_some_and(is_lower_snake),
            file.name(),
            "file names are lower_snake_case",
        );
        self.expect(
            package.split('.').all(is_lower_snake),
            package,
            "packages are lower_snake_case",
        );
        self.expect(package.replace('.', "/") == folder, package, "the folder is the package");
        let version = package.rsplit('.').next().and_then(|last| last.strip_prefix('v'));
        let version =
            version.map(|version| version.trim_start_matches(|c: char| c.is_ascii_digit()));
        let is_version =
            version.is_some_and(|rest| rest.is_empty() || rest.starts_with(['a', 'b', 't']));
        self.expect(
            is_version && !package.ends_with('v'),
            package,
            "a package ends with a version",
        );
        self.expect(file.syntax() == "proto3", file.name(), "the syntax is proto3");
        self.expect(file.public_dependency.is_empty(), file.name(), "imports are not public");
        self.expect(file.weak_dependency.is_empty(), file.name(), "imports are not weak");
        for (index, message) in (0..).zip(&file.message_type) {
            self.message(&[4, index], message);
        }
        for (index, item) in (0..).zip(&file.enum_type) {
            self.enumeration(&[5, index], item);
        }
        for (index, service) in (0..).zip(&file.service) {
            self.service(&[6, index], service);
        }
    }

    /// The class that protoc makes of a Java file itself is named after the file. It does not see that a
    /// message in another file has that name, and then no Java code can be made.
    fn java_classes(&mut self, set: &FileDescriptorSet) {
        let messages = set.file.iter().flat_map(|file| &file.message_type);
        let messages: HashSet<_> = messages.map(DescriptorProto::name).collect();
        for file in &set.file {
            let stem = file.name().rsplit('/').next().and_then(|name| name.strip_suffix(".proto"));
            let by_name: String = stem.unwrap_or_default().split('_').map(capitalized).collect();
            let options = file.options.as_ref();
            let class = options.and_then(|options| options.java_outer_classname.as_ref());
            let class = class.unwrap_or(&by_name);
            self.file = file.name().to_owned();
            let rule = "no message has the name of the file's Java class";
            self.expect(!messages.contains(class.as_str()), class, rule);
        }
    }

    fn message(&mut self, path: &[i32], message: &DescriptorProto) {
        // What the compiler makes for a map has no name of ours.
        if message.options.as_ref().is_some_and(|options| options.map_entry()) {
            return;
        }
        let name = message.name();
        self.comment(path, name);
        self.expect(is_pascal(name), name, "messages are PascalCase");
        for (index, field) in (0..).zip(&message.field) {
            let name = format!("{name}.{}", field.name());
            self.comment(&at(path, 2, index), &name);
            self.expect(is_lower_snake(field.name()), &name, "fields are lower_snake_case");
            self.expect(field.label() != Label::Required, &name, "nothing is required");
        }
        for (index, oneof) in (0..).zip(&message.oneof_decl) {
            let is_optional = |field: &prost_types::FieldDescriptorProto| {
                field.oneof_index == Some(index) && field.proto3_optional()
            };
            if !message.field.iter().any(is_optional) {
                let name = format!("{name}.{}", oneof.name());
                self.comment(&at(path, 8, index), &name);
                self.expect(is_lower_snake(oneof.name()), &name, "oneofs are lower_snake_case");
            }
        }
        for (index, nested) in (0..).zip(&message.nested_type) {
            self.message(&at(path, 3, index), nested);
        }
        for (index, nested) in (0..).zip(&message.enum_type) {
            self.enumeration(&at(path, 4, index), nested);
        }
    }

    fn enumeration(&mut self, path: &[i32], item: &EnumDescriptorProto) {
        let name = item.name();
        self.comment(path, name);
        self.expect(is_pascal(name), name, "enums are PascalCase");
        let has_alias = item.options.as_ref().is_some_and(|options| options.allow_alias());
        self.expect(!has_alias, name, "an enum has no aliases");
        let prefix = format!("{}_", upper_snake(name));
        for (index, value) in (0..).zip(&item.value) {
            let name = value.name();
            self.comment(&at(path, 2, index), name);
            self.expect(is_upper_snake(name), name, "values are UPPER_SNAKE_CASE");
            self.expect(name.starts_with(&prefix), name, &format!("values begin with {prefix}"));
            if index == 0 {
                self.expect(value.number() == 0, name, "the first value is zero");
                let is_unspecified = name == format!("{prefix}UNSPECIFIED");
                self.expect(is_unspecified, name, "the value zero ends with _UNSPECIFIED");
            }
        }
    }

    fn service(&mut self, path: &[i32], service: &ServiceDescriptorProto) {
        let name = service.name();
        self.comment(path, name);
        self.expect(is_pascal(name), name, "services are PascalCase");
        self.expect(name.ends_with("Service"), name, "a service's name ends with Service");
        for (index, method) in (0..).zip(&service.method) {
            let call = method.name();
            let place = format!("{name}.{call}");
            self.comment(&at(path, 2, index), &place);
            self.expect(is_pascal(call), &place, "calls are PascalCase");
            let types = [(method.input_type(), "Request"), (method.output_type(), "Response")];
            for (message, end) in types {
                let message = message.rsplit('.').next().unwrap_or_default();
                let is_standard =
                    message == format!("{call}{end}") || message == format!("{name}{call}{end}");
                self.expect(
                    is_standard,
                    &place,
                    &format!("takes or gives {message}, not {call}{end}"),
                );
            }
        }
    }

    /// A message of a call belongs to it alone, so that each can grow.
    fn messages_of_calls(&mut self, set: &FileDescriptorSet) {
        let mut used = HashMap::new();
        let services = set.file.iter().flat_map(|file| &file.service);
        for method in services.flat_map(|service| &service.method) {
            for message in [method.input_type(), method.output_type()] {
                *used.entry(message).or_insert(0) += 1;
            }
        }
        let mut shared: Vec<_> = used.into_iter().filter(|(_, count)| *count > 1).collect();
        shared.sort_unstable();
        self.list.extend(shared.iter().map(|(name, _)| format!("{name} is used by several calls")));
    }
}

fn at(path: &[i32], kind: i32, index: i32) -> Vec<i32> {
    [path, &[kind, index]].concat()
}

fn is_lower_snake(name: &str) -> bool {
    let is_part =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.split('_').all(|part| !part.is_empty() && is_part(part))
}

fn is_upper_snake(name: &str) -> bool {
    is_lower_snake(&name.to_ascii_lowercase()) && name == name.to_ascii_uppercase()
}

/// `some` as `Some`.
fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// `WaitFor` as `WAIT_FOR`.
fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for (index, c) in name.char_indices() {
        if c.is_ascii_uppercase() && index > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{sample, text};

    #[track_caller]
    fn finds(change: impl FnOnce(&mut FileDescriptorProto), part: &str) {
        let mut set = sample();
        change(&mut set.file[0]);
        let found = faults(&set);
        assert!(found.iter().any(|fault| fault.contains(part)), "{found:?} without {part:?}");
    }

    #[test]
    fn good_style_passes() {
        assert_eq!(faults(&sample()), [""; 0]);
    }

    #[test]
    fn bad_files_are_found() {
        finds(|file| file.name = text("unanimo/v1/My.proto"), "file names are");
        finds(|file| file.name = text("sample.proto"), "the folder is the package");
        finds(|file| file.package = text("unanimo"), "ends with a version");
        finds(|file| file.syntax = None, "the syntax is proto3");
        finds(|file| file.public_dependency = vec![0], "imports are not public");
        finds(|file| file.message_type[0].name = text("Sample"), "the file's Java class");
    }

    #[test]
    fn bad_names_are_found() {
        finds(|file| file.message_type[0].name = text("get_request"), "messages are PascalCase");
        finds(
            |file| file.message_type[0].field[0].name = text("txId"),
            "fields are lower_snake_case",
        );
        finds(|file| file.message_type[0].oneof_decl[0].name = text("Key"), "oneofs are");
        finds(|file| file.enum_type[0].name = text("mode"), "enums are PascalCase");
        finds(|file| file.enum_type[0].value[1].name = text("TCC"), "values begin with MODE_");
        finds(|file| file.enum_type[0].value[0].name = text("MODE_NONE"), "ends with _UNSPECIFIED");
        finds(|file| file.enum_type[0].value[0].number = Some(3), "the first value is zero");
        finds(|file| file.service[0].name = text("Sample"), "ends with Service");
    }

    #[test]
    fn bad_calls_are_found() {
        finds(|file| file.service[0].method[0].name = text("Fetch"), "not FetchRequest");
        finds(
            |file| {
                let method = file.service[0].method[0].clone();
                file.service[0].method.push(method);
            },
            ".unanimo.v1.GetRequest is used by several calls",
        );
    }

    #[test]
    fn missing_comments_are_found() {
        let without = |path: &'static [i32]| {
            move |file: &mut FileDescriptorProto| {
                let info = file.source_code_info.as_mut().expect("source information");
                info.location.retain(|location| location.path != path);
            }
        };
        finds(without(&[4, 0]), "GetRequest: has no comment");
        finds(without(&[4, 0, 2, 1]), "GetRequest.mode: has no comment");
        finds(without(&[5, 0, 2, 1]), "MODE_TCC: has no comment");
        finds(without(&[6, 0, 2, 0]), "SampleService.Get: has no comment");
    }
}
