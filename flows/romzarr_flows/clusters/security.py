"""TLS between a Dask scheduler, its workers and this process."""

from __future__ import annotations

import ssl
from pathlib import Path

from distributed.security import Security

from romzarr.config import ClusterConfig
from romzarr.errors import ConfigError


def security_of(settings: ClusterConfig) -> Security | None:
    """Make the TLS settings of ``settings.tls``, with one certificate for all; None without.

    Raises
    ------
    ConfigError
        If a file is missing, unreadable or invalid, before anything is started.
    """
    if isinstance(settings.tls, str):
        return None
    paths = {key: _readable(key, path) for key, path in settings.tls.items()}
    try:
        context = ssl.create_default_context(cafile=paths["ca_file"])
        context.load_cert_chain(paths["cert"], paths["key"])
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"cluster.tls: found {dict(settings.tls)}, which OpenSSL refuses ({error}); give PEM "
            "files: the certificate of an authority, a certificate signed by it, and its key"
        ) from error
    ends = {
        f"tls_{role}_{part}": paths[part]
        for role in ("scheduler", "worker", "client")
        for part in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=paths["ca_file"], **ends)


def _readable(key: str, path: str) -> str:
    """Return the absolute path of a readable file."""
    place = Path(path).expanduser().absolute()
    try:
        with place.open("rb"):
            return str(place)
    except OSError as error:
        raise ConfigError(
            f"cluster.tls.{key}: found {path!r}, which cannot be read ({error.strerror}); correct "
            "the path"
        ) from error
