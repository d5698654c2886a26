"""How a caller gets to a server and says who it is: encryption, a token, a tenant. Nothing for a server on this machine."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import RequestError
from runtime.wire import TENANT

TOKEN_VARIABLE = "CLIPFACEFUSION_TOKEN"  # the name of an environment variable: a flag would show the token to everybody


@dataclass(frozen=True)
class Access:
    """What a gateway in front of a server asks for; checked on construction.

    tls        encrypt, and check the server's certificate
    authority  PEM file of who signed that certificate (default: those that gRPC trusts); needs tls
    token      sent as `authorization: Bearer …`; needs tls, because whoever reads it has it
    tenant     on whose behalf, sent as `x-tenant`; a gateway may overwrite it

    Raises ValueError.
    """

    tls: bool = False
    authority: Path | None = None
    token: str | None = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        for name in ("authority", "token"):
            if getattr(self, name) is not None and not self.tls:
                raise ValueError(f"{name} is given without tls; give tls=True, or leave it out")
        if self.authority is not None and not self.authority.is_file():
            raise ValueError(f"authority is {self.authority}; it must be a PEM file")
        for name in ("token", "tenant"):
            value = getattr(self, name)
            if value is not None and not (value and value.isascii() and value.isprintable() and value.strip() == value):
                shown = repr(value) if name == "tenant" else "no such text"
                raise ValueError(f"{name} is {shown}; it must be printable ASCII, since a header carries it")

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every call, by names in lower case."""
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        return headers if self.tenant is None else {**headers, TENANT: self.tenant}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of whoever calls a server."""
    group = command.add_argument_group(
        f"access to a server behind a gateway (token: environment variable {TOKEN_VARIABLE})"
    )
    group.add_argument("--tls", action="store_true", help="encrypt, and check the server's certificate")
    group.add_argument(
        "--authority", type=Path, metavar="PEM", help="file of who signed it (default: those that gRPC trusts)"
    )
    group.add_argument("--tenant", help="on whose behalf; a gateway may overwrite it")


def from_arguments(arguments: argparse.Namespace, token: str | None) -> Access:
    """The access that flags of `add_arguments` ask for. Raises RequestError."""
    try:
        return Access(arguments.tls, arguments.authority, token or None, arguments.tenant)
    except ValueError as error:
        raise RequestError("access", str(error)) from None
