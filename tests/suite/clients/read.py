"""Reads what is large with a client that has default settings, and prints what came as JSON."""

import json
import sys

import grpc
from unanimo.v1 import coordinator_pb2 as wire
from unanimo.v1 import coordinator_pb2_grpc, transaction_pb2


def largest(coordinator, gid):
    request = wire.GetTransactionRequest(
        gid=gid,
        wait_for=transaction_pb2.WAIT_FOR_ENDED,
        include_outputs=True,
        include_payloads=True,
        include_timeline=True,
    )
    answer = coordinator.GetTransaction(request, timeout=60)
    tx = answer.transaction
    errors = [
        error
        for branch in tx.branches
        for attempts in (branch.prepare_attempts, branch.phase_two_attempts)
        for error in (attempts.first_error, attempts.last_error)
    ]
    return {
        "bytes": answer.ByteSize(),
        "branches": len(tx.branches),
        "payloads": sum(len(branch.payload.data) for branch in tx.branches),
        "outputs": sum(len(branch.output.data) for branch in tx.branches),
        "outputs_dropped": sum(branch.output_dropped for branch in tx.branches),
        "errors": sum(len(error.encode()) for error in errors),
        "notes": sum(len(branch.heuristic_note.encode()) for branch in tx.branches),
        "refusals": sum(len(branch.refusal.message.encode()) for branch in tx.branches),
        "metadata": sum(len(key) + len(value) for key, value in tx.metadata.items()),
        "timeline": sum(line.ByteSize() for line in tx.timeline),
        "timeline_dropped": tx.timeline_dropped,
    }


def pages(coordinator, gid_prefix):
    token, sizes, gids = "", [], set()
    while True:
        request = wire.ListTransactionsRequest(
            gid_prefix=gid_prefix, page_size=500, page_token=token, include_metadata=True
        )
        answer = coordinator.ListTransactions(request, timeout=60)
        sizes.append(answer.ByteSize())
        gids.update(tx.gid for tx in answer.transactions if tx.metadata)
        token = answer.next_page_token
        if not token:
            return {"pages": len(sizes), "bytes": sum(sizes), "transactions": len(gids)}


def main():
    address, what, name = sys.argv[1:]
    coordinator = coordinator_pb2_grpc.CoordinatorServiceStub(grpc.insecure_channel(address))
    print(json.dumps({"largest": largest, "pages": pages}[what](coordinator, name)))


main()
