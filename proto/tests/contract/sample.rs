//! A small contract in which the rules' tests plant faults.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::source_code_info::Location;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, FileOptions, MethodDescriptorProto,
    OneofDescriptorProto, ServiceDescriptorProto, SourceCodeInfo, descriptor_proto,
    enum_descriptor_proto,
};

/// One file with one of everything.
pub(crate) fn sample() -> FileDescriptorSet {
    let get = MethodDescriptorProto {
        name: text("Get"),
        input_type: text(".unanimo.v1.GetRequest"),
        output_type: text(".unanimo.v1.GetResponse"),
        ..Default::default()
    };
    let mut file = FileDescriptorProto {
        name: text("unanimo/v1/sample.proto"),
        package: text("unanimo.v1"),
        syntax: text("proto3"),
        message_type: vec![request(), message("GetResponse")],
        enum_type: vec![mode()],
        service: vec![ServiceDescriptorProto {
            name: text("SampleService"),
            method: vec![get],
            ..Default::default()
        }],
        options: Some(FileOptions { go_package: text("unanimo/v1"), ..Default::default() }),
        ..Default::default()
    };
    let commented: [&[i32]; 12] = [
        &[4, 0],
        &[4, 0, 2, 0],
        &[4, 0, 2, 1],
        &[4, 0, 2, 2],
        &[4, 0, 3, 0],
        &[4, 0, 8, 0],
        &[4, 1],
        &[5, 0],
        &[5, 0, 2, 0],
        &[5, 0, 2, 1],
        &[6, 0],
        &[6, 0, 2, 0],
    ];
    let location = commented.map(|path| Location {
        path: path.to_vec(),
        leading_comments: text(" Says something."),
        ..Default::default()
    });
    file.source_code_info = Some(SourceCodeInfo { location: location.into() });
    FileDescriptorSet { file: vec![file] }
}

fn request() -> DescriptorProto {
    let mut request = message("GetRequest");
    let mut choice = field("by_name", 3, Type::String);
    choice.oneof_index = Some(0);
    request.field = vec![field("tx_id", 1, Type::String), field("mode", 2, Type::Enum), choice];
    request.field[1].type_name = text(".unanimo.v1.Mode");
    request.nested_type = vec![message("Inner")];
    request.oneof_decl = vec![OneofDescriptorProto { name: text("key"), options: None }];
    request.reserved_range =
        vec![descriptor_proto::ReservedRange { start: Some(7), end: Some(10) }];
    request.reserved_name = vec!["old".to_owned()];
    request
}

fn mode() -> EnumDescriptorProto {
    let value = |name, number| EnumValueDescriptorProto {
        name: text(name),
        number: Some(number),
        options: None,
    };
    EnumDescriptorProto {
        name: text("Mode"),
        value: vec![value("MODE_UNSPECIFIED", 0), value("MODE_TCC", 1)],
        reserved_range: vec![enum_descriptor_proto::EnumReservedRange {
            start: Some(5),
            end: Some(5),
        }],
        ..Default::default()
    }
}

pub(crate) fn message(name: &str) -> DescriptorProto {
    DescriptorProto { name: text(name), ..Default::default() }
}

pub(crate) fn field(name: &str, number: i32, kind: Type) -> FieldDescriptorProto {
    let mut field =
        FieldDescriptorProto { name: text(name), number: Some(number), ..Default::default() };
    field.set_type(kind);
    field.set_label(Label::Optional);
    field
}

pub(crate) fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}
