"""A channel to a coordinator with TLS and a token. Take this file along."""

import collections
import ipaddress
import logging
import pathlib
import urllib.parse

import grpc

Files = collections.namedtuple("Files", "ca cert key token insecure", defaults=(None, None, None, None, False))

log = logging.getLogger(__name__)


def add_arguments(parser, prefix="", whom="the coordinator"):
    """Options for `files`."""
    parser.add_argument(f"--{prefix}tls-ca", metavar="FILE", help=f"authorities of {whom}; without: the public ones")
    parser.add_argument(f"--{prefix}tls-cert", metavar="FILE", help="certificate that is shown to it")
    parser.add_argument(f"--{prefix}tls-key", metavar="FILE", help="its private key")
    parser.add_argument("--token-file", metavar="FILE", help="token that is sent to it; read for each call")
    parser.add_argument(
        f"--{prefix}insecure", action="store_true", help=f"{whom} may be on another machine without TLS, where others read all"
    )


def files(args, prefix=""):
    named = vars(args)
    of = [named[f"{prefix}tls_{name}".replace("-", "_")] for name in ("ca", "cert", "key")]
    return Files(*of, named["token_file"], named[f"{prefix}insecure".replace("-", "_")])


def channel(url, of=Files(), options=()):
    """A channel to `http://HOST:PORT`, `https://HOST:PORT`, or HOST:PORT or `unix:PATH` without TLS. The files of TLS are
    read once: start the process again before a certificate expires."""
    parts = split(url)
    scheme, address = parts.scheme, parts.netloc if parts.scheme != "unix" else url
    is_open = scheme != "https" and not of.insecure and not is_here(url)
    if scheme not in ("", "http", "https", "unix"):
        raise ValueError(f"{url} must begin with http:// or https://")
    if bool(of.cert) != bool(of.key):
        raise ValueError("a certificate and its key belong together")
    if scheme == "https":
        read = [pathlib.Path(path).read_bytes() if path else None for path in (of.ca, of.key, of.cert)]
        made = grpc.secure_channel(address, grpc.ssl_channel_credentials(*read), options=options)
    elif of.ca or of.cert:
        raise ValueError(f"files of TLS are for an address that begins with https://, and not for {url}")
    elif of.token and is_open:
        raise ValueError(f"a token would be read on the way to {url}: use https://, or allow it (insecure)")
    else:
        if is_open:
            log.warning("%s is on another machine and without TLS: whoever is on the way can read and change all", url)
        # A proxy of the environment would read the token.
        direct = [("grpc.enable_http_proxy", 0)] if of.token else []
        made = grpc.insecure_channel(address, options=[*options, *direct])
    return grpc.intercept_channel(made, Token(of.token)) if of.token else made


def split(url):
    # HOST:PORT has no scheme.
    return urllib.parse.urlsplit(url if "://" in url or url.startswith("unix:") else f"//{url}")


def is_here(url):
    """Whether nobody on another machine can read what is sent to this address, or reach it."""
    parts = split(url)
    return parts.scheme == "unix" or is_loopback(parts.hostname or "")


def is_loopback(host):
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    # Not every version of Python, and no other language, takes one of IPv4 in IPv6 for one.
    return address.is_loopback and getattr(address, "ipv4_mapped", None) is None


class Details(
    collections.namedtuple("Details", "method timeout metadata credentials wait_for_ready compression"),
    grpc.ClientCallDetails,
):
    pass


class Token(grpc.UnaryUnaryClientInterceptor):
    """Sends the token in a file with each call, as the file is then."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def intercept_unary_unary(self, continuation, details, request):
        header = ("authorization", f"Bearer {self.path.read_text().strip()}")
        names = [getattr(details, name, None) for name in Details._fields]
        signed = Details(*names)._replace(metadata=[*(details.metadata or ()), header])
        return continuation(signed, request)
