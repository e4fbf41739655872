"""A server that hears nobody but its coordinators: whoever can send Commit confirms payments. Take this file along: it
knows nothing of shops."""

import hashlib
import hmac
import logging
import pathlib

import grpc

log = logging.getLogger("accept")


def credentials(cert, key, client_ca):
    """TLS of the server. The files are read again for each new connection, so that they can be replaced; while they
    cannot be read, the former ones are used."""

    def read():
        pair = (pathlib.Path(key).read_bytes(), pathlib.Path(cert).read_bytes())
        ca = pathlib.Path(client_ca).read_bytes() if client_ca else None
        return grpc.ssl_server_certificate_configuration([pair], ca)

    def again():
        try:
            return read()
        except OSError as error:
            log.error("alarm=files_not_used %s", error)
            return None

    return grpc.dynamic_ssl_server_credentials(read(), again, require_client_authentication=bool(client_ca))


def refuse(requests, call):
    call.abort(grpc.StatusCode.UNIMPLEMENTED, "only methods with one message in each direction are served")


class Accept(grpc.ServerInterceptor):
    """Accepts those with one of these names in their certificate, and those with a token of which the file has the
    hash, in lines ID:HASH as `unanimo token coordinator` prints them. The file is read for each call."""

    def __init__(self, subjects, token_hashes):
        self.subjects = {subject.encode() for subject in subjects}
        self.token_hashes = token_hashes and pathlib.Path(token_hashes)

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None:
            return None
        if handler.unary_unary is None:
            # Nobody would be judged.
            return grpc.stream_stream_rpc_method_handler(refuse)

        def judged(request, call):
            self.judge(call)
            return handler.unary_unary(request, call)

        return grpc.unary_unary_rpc_method_handler(
            judged, handler.request_deserializer, handler.response_serializer
        )

    def judge(self, call):
        """Ends a call of anybody else. One with a token is the token's, whatever certificate it comes with."""
        header = dict(call.invocation_metadata()).get("authorization")
        if self.token_hashes and header is not None:
            if not self._knows(header):
                call.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not known")
            return
        of = call.auth_context()
        # A URI has a colon, and a DNS name has none: what is one's name is never taken for the other's.
        names = {name for name in of.get("peer_uri", ()) if b":" in name}
        names |= {name for name in of.get("peer_dns", ()) if b":" not in name}
        if not names & self.subjects:
            call.abort(grpc.StatusCode.PERMISSION_DENIED, "the call is of no coordinator that is accepted")

    def _knows(self, header):
        scheme, _, token = header.partition(" ")
        digest = hashlib.sha256(token.strip().encode()).hexdigest()
        lines = (line.strip() for line in self.token_hashes.read_text().splitlines())
        hashes = [line.partition(":")[2] for line in lines if line and not line.startswith("#")]
        # All of them, in a time that does not tell where they differ.
        found = [hmac.compare_digest(digest, known) for known in hashes]
        return scheme.lower() == "bearer" and any(found)
