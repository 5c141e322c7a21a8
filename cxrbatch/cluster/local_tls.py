"""A certificate for the cluster of one machine: who may speak to its scheduler may run anything as its user.

A port of 127.0.0.1 is open to everybody who has an account. So scheduler, nodes and driver show each other a
certificate that was made for this run, lies in a folder that only its user can read, and goes with it.
"""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import Any

from cxrbatch.system.logbook import log_event

_ROLES = ("client", "scheduler", "worker")
_DAYS = 365


def local_security(folder: Path) -> dict[str, Any]:
    """Return what makes a local cluster speak TLS with a certificate made in `folder`; nothing without openssl."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", str(_DAYS), "-subj", "/CN=cxrbatch"]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        log_event("a local cluster without TLS", level=logging.WARNING, error=type(error).__name__)
        return {}
    from distributed.security import Security

    files = {f"tls_{role}_{kind}": str(path) for role in _ROLES for kind, path in (("cert", certificate), ("key", key))}
    files["tls_ca_file"] = str(certificate)
    security = Security(require_encryption=True, **files)  # type: ignore[no-untyped-call]
    return {"security": security, "protocol": "tls"}
