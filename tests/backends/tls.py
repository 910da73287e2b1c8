"""Certificates made for one test run, and what trusts them."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_openssl = pytest.mark.usefixtures("openssl")  # the command, which makes the keys


@dataclass(frozen=True)
class Certificate:
    """Signed by its own key: whoever trusts it trusts just this one."""

    key: Path
    file: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.file, self.key)
        return context

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.file)


def make_certificate(folder: Path, name: str, *, days: int = 1) -> Certificate:
    """For one host name; -1 day: it expired yesterday."""
    made = Certificate(folder / f"{name}.key", folder / f"{name}{days}.pem")
    request, extensions = folder / "request.pem", folder / "extensions"
    extensions.write_text(f"subjectAltName=DNS:{name}\n")
    _openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        f" -subj /CN={name} -keyout {made.key} -out {request}"
    )
    _openssl(
        f"x509 -req -in {request} -signkey {made.key} -days {days}"
        f" -extfile {extensions} -out {made.file}"
    )
    return made


def _openssl(arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], check=True, capture_output=True)
