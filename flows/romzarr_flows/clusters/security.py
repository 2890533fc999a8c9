"""Encryption between a Dask scheduler, its workers and this process."""

from __future__ import annotations

import ssl
from pathlib import Path

from distributed.security import Security

from romzarr.config import ClusterConfig
from romzarr.errors import ConfigError


def security_of(settings: ClusterConfig) -> Security | None:
    """TLS as ``settings.tls`` has it, with one certificate for all; None without.

    Raises
    ------
    ConfigError
        If a file is missing, cannot be read, or is not what it is to be: nothing is started then.
    """
    if isinstance(settings.tls, str):
        return None
    paths = {key: _readable(key, path) for key, path in settings.tls.items()}
    try:
        context = ssl.create_default_context(cafile=paths["ca_file"])
        context.load_cert_chain(paths["cert"], paths["key"])
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"cluster.tls: found {dict(settings.tls)}, which OpenSSL refuses ({error}); give the "
            "certificate of an authority, one that it has signed, and the key of this one, as PEM"
        ) from error
    ends = {
        f"tls_{role}_{part}": paths[part]
        for role in ("scheduler", "worker", "client")
        for part in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=paths["ca_file"], **ends)


def _readable(key: str, path: str) -> str:
    """The absolute path of a file that can be read."""
    place = Path(path).expanduser().absolute()
    try:
        with place.open("rb"):
            return str(place)
    except OSError as error:
        raise ConfigError(
            f"cluster.tls.{key}: found {path!r}, which cannot be read ({error.strerror}); correct "
            "the path"
        ) from error
