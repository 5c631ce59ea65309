"""A real nginx with the configuration of deploy/, on free ports and in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.faults.kit import free_port
from tests.served import eventually

CONFIG = Path(__file__).resolve().parent.parent / "deploy" / "nginx" / "nginx.conf"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def program() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None and os.environ.get("PREFS_NO_SKIP"):
        pytest.fail("no nginx found")
    if found is None:
        pytest.skip("no nginx found: apt-get install nginx-light")
    return found


def configured(folder: Path, upstreams: Sequence[int], port: int) -> Path:
    """The file in deploy/ with nothing changed but ports and places."""
    certify(folder)
    text = CONFIG.read_text()
    places = {
        "/run/nginx.pid": f"{folder}/nginx.pid",
        "/var/log/nginx/": f"{folder}/nginx-",
        "/etc/ssl/prefs/": f"{folder}/",
        "listen 80 ": f"listen 127.0.0.1:{free_port()} ",
        "listen 443 ": f"listen 127.0.0.1:{port} ",
    }
    served = (CONFIG.parent / "upstreams.conf").read_text()
    for old, number in zip(("127.0.0.1:8081", "127.0.0.1:8082"), upstreams, strict=True):
        assert old in served
        served = served.replace(old, f"127.0.0.1:{number}")
    (folder / "upstreams.conf").write_text(served)
    for old, new in places.items():
        assert old in text
        text = text.replace(old, new)
    own = "".join(f"\n    {name}_temp_path {folder}/{name};" for name in TEMPORARY)
    made = folder / "nginx.conf"
    made.write_text(text.replace("\nhttp {", f"\nhttp {{{own}", 1))
    return made


def certify(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prefs.example.co.uk")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "fullchain.pem").write_bytes(made.public_bytes(pem))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@contextmanager
def running(folder: Path, upstreams: Sequence[int]) -> Iterator[str]:
    """Its URL, once it answers. `folder` can be read by whom its workers run as."""
    port = free_port()
    made = configured(folder, upstreams, port)
    command = [program(), "-p", str(folder), "-c", str(made), "-g", "daemon off;"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"https://127.0.0.1:{port}"
    try:
        until_answered(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def until_answered(url: str) -> None:
    def answers() -> bool:
        with suppress(httpx.HTTPError):
            httpx.get(f"{url}/healthz", verify=False)
            return True
        return False

    eventually(answers)
