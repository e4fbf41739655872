"""Sells pieces of an item to a customer, as a saga of two steps: the second one reads what the first one
returned.

    PYTHONPATH=stubs python sale.py sale-1 --item lamp --pieces 2

The exit code is that of order.py.
"""

import argparse
import json
import sys

from unanimo.v1 import coordinator_pb2 as wire
from unanimo.v1 import transaction_pb2

import secure
from initiator import Initiator
from order import exit_code


def as_json(value):
    # The same bytes each time: they are part of what makes two requests the same.
    data = json.dumps(value, sort_keys=True).encode()
    return transaction_pb2.Payload(data=data, media_type="application/json")


def sale(args):
    customer = transaction_pb2.BranchSpec(
        branch_id="customer",
        participant=args.customers,
        action=args.register,
        payload=as_json({"name": args.name}),
        # An attempt that hangs or fails comes again; after five the saga is aborted.
        retry=transaction_pb2.RetryPolicy(attempts_max=5),
    )
    sold = transaction_pb2.BranchSpec(
        branch_id="sale",
        participant=args.shop,
        action=args.sell,
        payload=as_json({"item": args.item, "pieces": args.pieces}),
        # Sent once the customer is there, and undone before the customer is.
        depends_on=["customer"],
        # The shop reads the output of the step `customer` as its input `customer`.
        inputs=[transaction_pb2.StepInput(name="customer", branch_id="customer")],
    )
    return wire.SubmitTransactionRequest(
        gid=args.gid,
        mode=transaction_pb2.MODE_SAGA,
        branches=[customer, sold],
        requires=["saga"],
        include_outputs=True,
        # Only then it is known whether each participant has done as was decided.
        wait_for=transaction_pb2.WAIT_FOR_ENDED,
    )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("gid", help="your own name for the sale: the same sale, the same gid")
    parser.add_argument("--coordinator", default="127.0.0.1:7610", metavar="[https://]HOST:PORT")
    parser.add_argument("--customers", default="py-shop", help="the participant of the first step")
    parser.add_argument("--register", default="register", help="its action; returns the customer")
    parser.add_argument("--shop", default="py-shop", help="the participant of the second step")
    parser.add_argument("--sell", default="sell", help="its action; reads the input `customer`")
    parser.add_argument("--name", default="customer-7")
    parser.add_argument("--item", default="lamp")
    parser.add_argument("--pieces", type=int, default=1)
    secure.add_arguments(parser)
    parser.add_argument("--patience", type=float, default=60, metavar="SECONDS")
    return parser.parse_args()


def main():
    args = arguments()
    return exit_code(lambda: Initiator(args.coordinator, secure.files(args)).submit(sale(args), args.patience))


if __name__ == "__main__":
    sys.exit(main())
