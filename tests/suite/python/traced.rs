//! The trace of a transaction in the example in Python.

use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{BranchSpec, Mode, SubmitTransactionRequest};
use unanimo_tests::wait::until;

use super::{World, python, root};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The caller's trace is told in the lines of Prepare and Commit.
#[tokio::test]
async fn a_shop_in_python_tells_the_trace_of_its_caller() {
    let world = World::start().await;
    let mut client = CoordinatorServiceClient::connect(world.coordinator.endpoint()).await.unwrap();
    let lamps = br#"{"item": "lamp", "pieces": 1}"#.to_vec();
    let mut request = tonic::Request::new(SubmitTransactionRequest {
        gid: "traced".to_owned(),
        mode: Mode::Tcc.into(),
        branches: vec![BranchSpec {
            branch_id: "lamps".to_owned(),
            participant: "py-shop".to_owned(),
            action: "reserve".to_owned(),
            payload: unanimo_tests::payload(lamps),
            ..Default::default()
        }],
        ..Default::default()
    });
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let result = client.submit_transaction(request).await.unwrap().into_inner().result.unwrap();
    for (operation, end) in [("prepare", "prepared"), ("commit", "done")] {
        let line = format!("{operation} lamps of {}: {end} trace={TRACE_ID}", result.tx_id);
        until(&line, async || world.python.log().contains(&line).then_some(())).await;
    }
    // A call without a trace has none.
    assert!(world.python.log().contains(" trace=-\n"), "{}", world.python.log());
    world.stop().await;
}

/// Handlers have the parent of their spans, in the thread in which they run alone; what is no `traceparent` is not passed on.
#[test]
fn a_handler_in_python_has_the_parent_of_its_spans() {
    const CASES: &str = "
import threading
import tracing

class Call:
    def __init__(self, **metadata):
        self.metadata = metadata
    def invocation_metadata(self):
        return tuple(self.metadata.items())

good = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
assert tracing.of_call(Call(traceparent=good)) == good
assert tracing.id_of(good) == good[3:35]
for bad in (good[:-1], 'ff' + good[2:], good.upper(), good + '\\nx', good.replace('4bf92f3577b34da6a3ce929d0e0e4736', '0' * 32), b'x'):
    assert tracing.of_call(Call(traceparent=bad)) is None, bad
assert tracing.of_call(Call()) is None and tracing.id_of(None) == '-'

def elsewhere():
    found = []
    other = threading.Thread(target=lambda: found.append(tracing.current()))
    other.start()
    other.join()
    return tracing.current(), found

assert tracing.within(good, elsewhere) == (good, [None])
assert tracing.current() is None
try:
    tracing.within(good, lambda: 1 / 0)
except ZeroDivisionError:
    assert tracing.current() is None
print('passed')
";
    let mut command = python();
    command.env("PYTHONPATH", root().join("examples/python-participant"));
    let ran = command.args(["-c", CASES]).output().unwrap();
    let (out, errors) = (
        String::from_utf8_lossy(&ran.stdout).into_owned(),
        String::from_utf8_lossy(&ran.stderr).into_owned(),
    );
    assert_eq!((out.trim(), ran.status.success()), ("passed", true), "{errors}");
}
