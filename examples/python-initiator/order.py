"""Orders pieces of an item, as a transaction of one branch.

    PYTHONPATH=stubs python order.py submit order-1 --item lamp --pieces 2
    PYTHONPATH=stubs python order.py outcome order-1
    PYTHONPATH=stubs python order.py rollback order-1

The exit code is 0 for committed, 4 for aborted, 5 if neither is known, 1 for a refusal, and 6 if it is decided and
a branch has ended otherwise, or cannot tell: a person must look.
"""

import argparse
import json
import sys

from unanimo.v1 import coordinator_pb2 as wire
from unanimo.v1 import transaction_pb2

import secure
from initiator import ABORTED, COMMITTED, Initiator, NotKnown, Refused

EXIT_COMMITTED, EXIT_REFUSED, EXIT_ABORTED, EXIT_NOT_KNOWN, EXIT_HEURISTIC = 0, 1, 4, 5, 6


def order(args):
    payload = json.dumps({"item": args.item, "pieces": args.pieces}, sort_keys=True).encode()
    branch = transaction_pb2.BranchSpec(
        branch_id="order",
        participant=args.participant,
        action=args.action,
        payload=transaction_pb2.Payload(data=payload, media_type="application/json"),
    )
    # A list of any number of branches, at as many participants: all of them, or none.
    return wire.SubmitTransactionRequest(
        gid=args.gid,
        mode=transaction_pb2.MODE_TCC,
        branches=[branch],
        include_outputs=True,
        # Only then it is known whether each participant has done as was decided.
        wait_for=transaction_pb2.WAIT_FOR_ENDED,
    )


def is_ended(result):
    """Whether every branch has done as was decided, or is known not to do so."""
    return result.ended if isinstance(result, wire.TransactionResult) else result.HasField("ended_at")


def tell(result):
    """Prints a result or a transaction, and answers the exit code."""
    if result is None:
        print("not known to the coordinator")
        return EXIT_NOT_KNOWN
    # A value that is not known yet is a hazard, too.
    is_followed = result.heuristic == transaction_pb2.HEURISTIC_NONE
    if result.outcome == COMMITTED:
        print("committed", *(branch.output.data.decode(errors="replace") for branch in result.branches))
        exit_code = EXIT_COMMITTED
    elif result.outcome == ABORTED:
        # The number of a cause of a later version.
        known = result.abort_cause in transaction_pb2.AbortCause.values()
        cause = transaction_pb2.AbortCause.Name(result.abort_cause) if known else result.abort_cause
        refusals = (b.refusal for b in result.branches if b.HasField("refusal"))
        print("aborted", cause, *(f"{refusal.reason}: {refusal.message}" for refusal in refusals))
        exit_code = EXIT_ABORTED
    else:
        print("not decided")
        return EXIT_NOT_KNOWN
    if not is_followed:
        print("and a branch has ended otherwise, or cannot tell: a person must look", file=sys.stderr)
        return EXIT_HEURISTIC
    if not is_ended(result):
        print("and a branch has not done its part yet: it will", file=sys.stderr)
    return exit_code


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("do", choices=["submit", "outcome", "rollback"])
    parser.add_argument("gid", help="your own name for the order: the same order, the same gid")
    parser.add_argument("--coordinator", default="127.0.0.1:7610", metavar="[https://]HOST:PORT")
    parser.add_argument("--participant", default="py-shop")
    parser.add_argument("--action", default="reserve")
    parser.add_argument("--item", default="lamp")
    parser.add_argument("--pieces", type=int, default=1)
    secure.add_arguments(parser)
    parser.add_argument("--patience", type=float, default=60, metavar="SECONDS")
    return parser.parse_args()


def exit_code(ask):
    """Asks the coordinator, prints what it says, and answers the exit code."""
    try:
        return tell(ask())
    except NotKnown as error:
        # Not an ABORT: ask for the outcome later, or make it one by a rollback.
        print(f"not known: {error}")
        return EXIT_NOT_KNOWN
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return EXIT_REFUSED


def main():
    args = arguments()
    coordinator = Initiator(args.coordinator, secure.files(args))
    if args.do == "submit":
        return exit_code(lambda: coordinator.submit(order(args), args.patience))
    if args.do == "rollback":
        return exit_code(lambda: coordinator.rollback(args.gid, args.patience))
    return exit_code(lambda: coordinator.outcome(args.gid, args.patience))


if __name__ == "__main__":
    sys.exit(main())
