"""The shop in Python, whose handlers make spans and send them to a collector. Run by in_python.rs."""

import json
import os
import secrets
import urllib.request

import participant
import shop
import stock
import tracing

# A proxy of the environment does not know the collector.
collector = urllib.request.build_opener(urllib.request.ProxyHandler({}))
calls = []


def spanned(method, handler):
    """The handler with a span below the span that called it. The first call of all fails."""

    def handle(*args):
        _, trace, parent, _ = (tracing.current() or "---").split("-")
        span = {"trace": trace, "parent": parent, "id": secrets.token_hex(8), "name": f"handler {method}"}
        collector.open(os.environ["COLLECTOR"], json.dumps(span).encode(), timeout=10).close()
        calls.append(method)
        if len(calls) == 1:
            raise RuntimeError("not now")
        return handler(*args)

    return handle


for mode, actions in stock.ACTIONS.items():
    for action in actions.values():
        for method in filter(None, participant.METHODS[mode]):
            setattr(action, method, staticmethod(spanned(method, getattr(action, method))))

shop.main()
