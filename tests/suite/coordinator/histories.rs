//! Recorded histories, page by page.

use tonic::{Code, Status};
use unanimo_core::history::{self, Document};
use unanimo_proto::v1::{
    ExportTransactionRequest, ExportTransactionResponse, export_transaction_request,
};

use super::sagas::{saga, step};
use super::{World, describe};

async fn page(
    world: &World,
    page_size: u32,
    page_token: &str,
) -> Result<ExportTransactionResponse, Status> {
    let request = ExportTransactionRequest {
        key: Some(export_transaction_request::Key::Gid("g".into())),
        requires: vec!["history_pages".into()],
        page_size,
        page_token: page_token.into(),
    };
    world.client().export_transaction(request).await.map(tonic::Response::into_inner)
}

fn read(page: &ExportTransactionResponse) -> Document {
    serde_json::from_str(&page.history_json).unwrap()
}

#[tokio::test]
async fn a_history_of_pages_is_the_whole_one() {
    for world in [World::sqlite().await, World::postgres().await] {
        let steps = vec![
            step("a", "ok", &[]),
            step("b", "ok", &["a"]),
            step("c", "ok", &["b"]),
            step("d", "refuse", &["c"]),
        ];
        world.submit(saga("g", steps)).await.unwrap();
        let told = page(&world, 0, "").await.unwrap();
        let whole = read(&told);
        assert_eq!((told.next_page_token.as_str(), whole.cut), ("", None));
        assert!(whole.entries.len() >= 3, "{}", whole.entries.len());
        let (mut entries, mut token) = (Vec::new(), String::new());
        let last = loop {
            let told = page(&world, 1, &token).await.unwrap();
            let mut read = read(&told);
            assert_eq!(read.entries.len(), 1);
            entries.append(&mut read.entries);
            let left = whole.entries.len() - entries.len();
            assert_eq!(read.cut.map_or(0, |cut| cut.entries), left);
            token = told.next_page_token;
            assert_eq!(token.is_empty(), left == 0);
            if token.is_empty() {
                break read;
            }
        };
        let end = last.end.expect("the last page has the end");
        assert_eq!((Some(end.version), end.entries), (whole.end.map(|end| end.version), None));
        let joined = Document { entries, ..last };
        assert_eq!(Document { end: whole.end, ..joined.clone() }, whole);
        history::replay(&joined).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test]
async fn a_token_that_no_page_had_is_refused() {
    let world = World::sqlite().await;
    world.submit(saga("g", vec![step("a", "ok", &[])])).await.unwrap();
    for token in ["x", "0", "-1", "+1", "01", "1x", "9999999999999999999"] {
        let status = page(&world, 0, token).await.unwrap_err();
        let (code, _, fields) = describe(&status);
        assert_eq!(
            (code, fields),
            (Code::InvalidArgument, vec!["page_token".to_owned()]),
            "{token}"
        );
    }
    let beyond = page(&world, 0, "9999").await.unwrap();
    assert_eq!((read(&beyond).entries.len(), beyond.next_page_token.as_str()), (0, ""));
}
