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
from launcher.gateway.body_types import body_types
from launcher.gateway.errors import (
    ERRORS,
    SHOWN_AS,
    UNAVAILABLE,
    UNKNOWN_MODEL,
    UNKNOWN_PATH,
    error_page,
    unreadable_form,
    upstream_directives,
    write_error,
)
from launcher.gateway.keys import check_keys, write_private
from launcher.gateway.settings import Settings, as_host
from launcher.gateway.upstream import Upstream
from launcher.ports import read_properties

NGINX = ROOT / "deploy" / "nginx"
WEB = ROOT / "web"


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
        write_error(errors, f"{code}.json", code, kind, message)
    write_error(errors, "unknown_path.json", 404, *UNKNOWN_PATH)
    write_error(errors, "unknown_model.json", 404, "UnknownModel", UNKNOWN_MODEL.format(settings.model), param="model")
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
        "body_types": body_types(),
        "known_hosts": " ".join(f'"{host}" 1;' for host in dict.fromkeys(map(as_host, settings.names))),
        "unavailable": UNAVAILABLE,
        **upstream.directives(settings.server_requests),
        **upstream_directives(),
        "unreadable_form": unreadable_form(),
        "error_file": f'root "{folder}"; ssi on; ssi_types application/json;',
        "drafts_token": upstream.drafts_token,
        **_shadow(settings),
        "tls": _tls(settings),
        "listen": settings.listen + (" ssl" if settings.tls else ""),
        "listen_grpc": settings.listen_grpc + (" ssl http2" if settings.tls else " http2"),
        "error_pages": "\n        ".join(error_page(code) for code in (*ERRORS, *SHOWN_AS)),
        "routes": "\n        ".join(f'include "{path}";' for path in settings.routes),
        "static_checks": " ".join(
            (
                'set $route page; set $allowed "GET, HEAD";',
                "if ($is_host = 0) { return 400; }",
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


def _shadow(settings: Settings) -> dict[str, str]:
    """What copies requests, and where to; empty if nothing is tried out."""
    shadow = settings.shadow
    if shadow is None:
        return {"shadow": "", "mirror": "", "shadow_location": ""}
    # A share of 100 % leaves nothing that a second line could be about.
    share = "* 1;" if shadow.share == 100 else f"{shadow.share:.2f}% 1; * 0;"
    lines = (
        f"upstream shadow {{ server {shadow.address}; }}",
        f'split_clients "$id" $is_copied {{ {share} }}',
        'map $request_uri $shadow_path { default "";',
        f'"~^/predictions/{re.escape(settings.model)}(/[0-9][0-9.]*)?$" /predictions/{shadow.model};',
        "/v1/chat/completions /v1/chat/completions; }",
    )
    location = _fill("shadow.conf.template", {"host": shadow.address.rpartition(":")[0]})
    return {"shadow": "\n    ".join(lines), "mirror": "mirror /_shadow;", "shadow_location": location}


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
