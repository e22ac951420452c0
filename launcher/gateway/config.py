"""The files that nginx reads, written into its folder: configuration, bodies of errors, keys."""

import getpass
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.environment import ROOT
from launcher.errors import LaunchError
from launcher.gateway.keys import check_keys, write_private
from launcher.gateway.settings import Settings
from launcher.gateway.upstream import Upstream
from launcher.ports import read_properties

NGINX = ROOT / "deploy" / "nginx"
WEB = ROOT / "web"

OVERLOADED = "the server is overloaded, with more requests than it can answer in time, or down: try again later"
UNAVAILABLE = "the server is overloaded or down: try again later"

ERRORS = {
    400: ("BadRequest", "the request is malformed, or has a query string: send options as fields"),
    401: ("Unauthorized", "the API key is missing or wrong: send it as `Authorization: Bearer KEY`"),
    403: ("Forbidden", "requests from pages of other sites are refused"),
    404: ("NotFound", "unknown path, model or version: POST to /predictions/MODEL or /v1/chat/completions"),
    405: ("MethodNotAllowed", "the header Allow names the methods of this path"),
    408: ("Timeout", "the request did not arrive in time"),
    411: ("LengthRequired", "the request has no Content-Length; chunked bodies are not read"),
    413: ("TooLarge", "the body is larger than max_request_size in config.properties"),
    414: ("TooLarge", "the path is too long"),
    421: ("Misdirected", "this host name is not in `names` of the gateway's settings"),
    429: ("TooManyRequests", "this client sends more requests than its limit: wait as Retry-After says"),
    431: ("TooLarge", "the headers are too large"),
    500: ("InternalError", "the model or the server failed on this request"),
    501: ("NotImplemented", "this transfer encoding is not supported: send a Content-Length"),
    503: ("Overloaded", OVERLOADED),
    504: ("Timeout", "there was no report in time"),
}
"""Bodies that the gateway answers with, in the shape of the server's own errors: status -> type, message."""

SHOWN_AS = {494: 431, 495: 400, 496: 400, 497: 400, 502: 503, 505: 400}
"""nginx's own codes, and codes with the meaning of another."""


def write_folder(
    folder: Path, settings: Settings, upstream: Upstream, *, key: str, page: dict[str, Any], log: Path
) -> Path:
    """Write all that nginx reads; returns its configuration file.

    folder : private, made if missing
    key    : TorchServe's inference key, or that of the serving hosts
    page   : contents of /config.json
    log    : access log
    """
    if re.search(r'["$\\\n]', f"{folder}{log}{ROOT}{settings.keys}{settings.tls}{settings.routes}{settings.hosts}"):
        raise LaunchError('a path of the gateway has ", $ or \\, which nginx would interpret: use another folder')
    if not re.fullmatch(r"[A-Za-z0-9_=+/.-]*", upstream.drafts_token):
        raise LaunchError(
            "drafts_token has characters that a token must not have; allowed: letters, digits, _ = + / . -"
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    write_client_keys(folder, settings)
    errors = folder / "_errors"
    errors.mkdir(exist_ok=True)
    for code, (kind, message) in ERRORS.items():
        body = {"error": {"code": code, "type": kind, "message": message}}
        (errors / f"{code}.json").write_text(json.dumps(body) + "\n", encoding="utf-8")
    ready = {"model": upstream.chat.removeprefix("/predictions/"), "ready": True}
    (errors / "ready.json").write_text(json.dumps(ready) + "\n", encoding="utf-8")
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(page) + "\n", encoding="utf-8")
    write_key(folder, key)
    config = folder / "nginx.conf"
    write_private(config, render(folder, settings, upstream, log))
    return config


def write_key(folder: Path, key: str) -> None:
    """Write the server's key for nginx, which reads it when it reloads. Raises LaunchError for another text."""
    if not re.fullmatch(r"[A-Za-z0-9_=+/.-]*", key):
        raise LaunchError("the server's key has characters that a key does not have")
    write_private(folder / "torchserve_key.conf", f'map "" $torchserve_key {{ default "{key}"; }}\n')


def write_client_keys(folder: Path, settings: Settings) -> None:
    """Write the clients' keys for nginx, which reads them when it reloads.

    It reads this copy, because the site's file may be changed, and broken, at any time. Raises LaunchError for a file
    of keys that cannot be used; the copy stays as it was.
    """
    lines = check_keys(settings.keys) if settings.keys is not None else []
    write_private(folder / "client_keys.conf", "".join(f"{line}\n" for line in lines))


def render(folder: Path, settings: Settings, upstream: Upstream, log: Path) -> str:
    """Fill in the template."""
    values = {
        # As root nginx would give its workers to another user, who cannot read this folder.
        "user": f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
        "prefix": folder,
        "nginx": NGINX,
        "web": WEB,
        "log": log,
        "max_body_bytes": read_properties(ROOT / "config.properties")["max_request_size"],
        "requests_per_second": settings.requests_per_second,
        "burst": settings.burst,
        "open_requests": settings.open_requests,
        "open": "" if settings.keys else 1,
        "known_hosts": " ".join(f'"{name.lower()}" 1;' for name in settings.names),
        "unavailable": UNAVAILABLE,
        **upstream.directives(settings.server_requests),
        "drafts_token": upstream.drafts_token,
        "tls": _tls(settings),
        "listen": settings.listen + (" ssl" if settings.tls else ""),
        "listen_grpc": settings.listen_grpc + (" ssl http2" if settings.tls else " http2"),
        "error_pages": "\n        ".join(_error_page(code) for code in (*ERRORS, *SHOWN_AS)),
        "routes": "\n        ".join(f'include "{path}";' for path in settings.routes),
        "static_checks": " ".join(
            (
                'set $route page; set $allowed "GET, HEAD";',
                "if ($known_host = 0) { return 421; }",
                "if ($request_method !~ ^(GET|HEAD)$) { return 405; }",
            )
        ),
    }
    values["drafts"] = _fill("drafts.conf.template", values | {"drafts": upstream.drafts}) if upstream.drafts else ""
    return _fill("nginx.conf.template", values)


def _fill(name: str, values: Mapping[str, Any]) -> str:
    template = (NGINX / name).read_text(encoding="utf-8")
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: str(values[found[1]]), template)


def find_nginx() -> str:
    """The nginx program. Raises LaunchError if it is missing."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise LaunchError("nginx is not installed: apt-get install nginx-light")
    return found


def _tls(settings: Settings) -> str:
    if settings.tls is None:
        return "# no TLS: loopback only"
    lines = (
        f'ssl_certificate "{settings.tls.certificate}";',
        f'ssl_certificate_key "{settings.tls.key}";',
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;",
        "ssl_session_tickets off;",
        "ssl_session_cache shared:tls:2m;",
        'add_header Strict-Transport-Security "max-age=31536000" always;',
    )
    return "\n    ".join(lines)


def _error_page(code: int) -> str:
    shown = SHOWN_AS.get(code, code)
    return f"error_page {code} {'' if shown == code else f'={shown} '}/_errors/{shown}.json;"
