"""Who may see the page: this machine's own people, or whoever has the token.

On loopback the name that a browser asked for is checked, so that no page of elsewhere can read this
one through a name that it made point here (DNS rebinding). On any other address a token is needed.
"""

import hmac
import ipaddress
import re
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Literal

from dflmoe.errors import PageError
from dflmoe.files import replace_file
from dflmoe.security.keys import secret_text

TOKEN, COOKIE = "page.token", "dflmoe-page"
"""The file of the token in a site's folder, and the cookie that stands for it."""

ADDRESS = re.compile(r"^(\[[0-9a-fA-F:]+\]|[^:\[\]\s/]+):(\d{1,5})$")
HERE = ("localhost", "127.0.0.1", "::1")

Answer = Literal["in", "token", "host", "shown"]
"""Whether somebody may come in: yes, only with the token, not by that name; or shows the token."""


@dataclass(frozen=True)
class Address:
    """Where a page is served.

    Attributes:
        host: A name or number of this machine.
        port: 0 for any that is free.
    """

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> "Address":
        """Read ``host:port``.

        Raises:
            PageError: It is none.
        """
        found = ADDRESS.match(text)
        if found is None or int(found[2]) > 65535:  # noqa: PLR2004 - the last port there is
            raise PageError(f"{text!r} is no address; give host:port, for example 127.0.0.1:8470")
        return cls(found[1].strip("[]"), int(found[2]))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host in HERE

    @property
    def url(self) -> str:
        """What a browser is given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"


@dataclass(frozen=True)
class Door:
    """Decides who comes in.

    Attributes:
        address: Where the page is served.
        token: What must be shown; none on loopback.
    """

    address: Address
    token: str | None

    @classmethod
    def at(cls, address: Address, home: Path) -> "Door":
        """Return the door of a page; a token is made when it is first needed.

        Raises:
            KeyFileError: The token cannot be read, or may be read by others.
            OutputError: It cannot be written.
        """
        if address.loopback:
            return cls(address, None)
        path = home / TOKEN
        if not path.exists():
            replace_file(path, secrets.token_urlsafe(32) + "\n", mode=0o600)
        return cls(address, secret_text(path, "delete it, and a new one is made").strip())

    def asks(self, host: str, cookies: str, shown: str | None) -> Answer:
        """Return whether somebody may come in.

        Args:
            host: The name that was asked for, with its port.
            cookies: That came along.
            shown: The token in the address, if there is one.
        """
        if self.token is None:
            name = host.rsplit(":", 1)[0].strip("[]") if ":" in host else host
            return "in" if name in {*HERE, self.address.host} else "host"
        if shown is not None:
            return "shown" if hmac.compare_digest(shown.encode(), self.token.encode()) else "token"
        kept = _cookie(cookies)
        return "in" if hmac.compare_digest(kept.encode(), self.sign.encode()) else "token"

    @property
    def sign(self) -> str:
        """What a browser keeps in the token's place: nobody can make the token of it."""
        return hmac.digest((self.token or "").encode(), COOKIE.encode(), "sha256").hex()


def _cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
