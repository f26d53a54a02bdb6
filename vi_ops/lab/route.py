"""How the lab's API is put together: a table of handlers, one request value, one refusal.

A handler is `async def f(request: Request, node: Node) -> data`; what it returns becomes `{"data": ...}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vi_ops.lab.node import Node


class Refusal(Exception):
    """An answer that is not 200: `reason` goes to status line and message, `errors` is by parameter."""

    def __init__(
        self, status: int, reason: str, errors: dict[str, str] | None = None, *, body: bool = True
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.errors = errors
        self.body = body


def parameter_error(**errors: str) -> Refusal:
    """400 as Proxmox words it: `Parameter verification failed.` and one text for each parameter."""
    return Refusal(400, "Parameter verification failed.", errors)


@dataclass(frozen=True)
class User:
    """Who asks. `authid` is `ops@pve` for a ticket, `ops@pve!viops` for a token: a token is never root."""

    authid: str

    @property
    def userid(self) -> str:
        return self.authid.partition("!")[0]

    @property
    def tokenid(self) -> str | None:
        return self.authid.partition("!")[2] or None

    @property
    def is_root(self) -> bool:
        return self.authid == "root@pam"


@dataclass(frozen=True)
class Request:
    """One API request after authentication, permission and schema check.

    `path` holds the path variables as text. A value in `params` is a `str`, or a `list[str]` where the key
    was repeated: the node works on text too, so JSON numbers arrive as `"16"`, booleans as `"0"` or `"1"`.
    """

    method: str
    template: str
    path: dict[str, str]
    params: dict[str, Any] = field(default_factory=dict)
    user: User = field(default=User("root@pam"))

    @property
    def vmid(self) -> int:
        return int(self.path["vmid"])

    def text(self, name: str, default: str = "") -> str:
        """The parameter as one string; repeated keys are joined with commas, as for a `-list` format."""
        value = self.params.get(name, default)
        return ",".join(value) if isinstance(value, list) else str(value)

    def number(self, name: str, default: int = 0) -> int:
        """The parameter as an integer; 400 with Proxmox's text when it is none."""
        text = self.text(name, str(default))
        try:
            return int(text)
        except ValueError:
            raise parameter_error(**{name: f"type check ('integer') failed - got '{text}'"}) from None

    def flag(self, name: str, default: bool = False) -> bool:
        """The parameter as a boolean: exactly `0` or `1` (words are refused by the schema check)."""
        return self.text(name, "1" if default else "0").lower() in ("1", "on", "yes", "true")

    def items(self, name: str) -> list[str]:
        """An array parameter: the repeated values, or the single one wrapped; empty when absent."""
        value = self.params.get(name, [])
        return list(value) if isinstance(value, list) else [str(value)]


@dataclass(frozen=True)
class Page:
    """A list of which only a part is shown: `total` stands beside `data` in the answer."""

    data: list[Any]
    total: int


Handler = Callable[[Request, "Node"], Awaitable[Any]]

ROUTES: dict[tuple[str, str], Handler] = {}


def route(method: str, template: str) -> Callable[[Handler], Handler]:
    """Register a handler for `GET /nodes/{node}/qemu` and the like; spelled as in the published schema."""

    def register(handler: Handler) -> Handler:
        ROUTES[method, template] = handler
        return handler

    return register
