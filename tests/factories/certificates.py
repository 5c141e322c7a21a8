"""Certificates by the openssl command: authorities, and who is signed by them; elliptic keys, made in milliseconds."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = shutil.which("openssl") is not None
WHY_NOT = "needs openssl"


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM files of somebody."""

    certificate: Path
    key: Path


def make_authority(folder: Path, name: str) -> Identity:
    """Make an authority that signs itself."""
    made = Identity(folder / f"{name}.pem", folder / f"{name}-key.pem")
    _openssl(
        "req", "-x509", *_NEW_KEY, "-keyout", made.key, "-out", made.certificate, "-days", "2", "-subj", f"/CN={name}"
    )
    return made


def sign(folder: Path, name: str, authority: Identity) -> Identity:
    """Make a key for somebody at 127.0.0.1, whose certificate the authority signs."""
    made = Identity(folder / f"{name}.pem", folder / f"{name}-key.pem")
    request, extension = folder / f"{name}.csr", folder / f"{name}.ext"
    extension.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    _openssl("req", *_NEW_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}")
    _openssl(
        "x509", "-req", "-in", request, "-CA", authority.certificate, "-CAkey", authority.key, "-CAcreateserial",
        "-out", made.certificate, "-days", "2", "-extfile", extension,
    )  # fmt: skip
    return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
