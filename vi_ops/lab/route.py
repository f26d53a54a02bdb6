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
    """One API request after authentication and schema check. `path` holds the path variables as text."""

    method: str
    template: str
    path: dict[str, str]
    params: dict[str, Any] = field(default_factory=dict)
    user: User = field(default=User("root@pam"))


Handler = Callable[[Request, "Node"], Awaitable[Any]]

ROUTES: dict[tuple[str, str], Handler] = {}


def route(method: str, template: str) -> Callable[[Handler], Handler]:
    """Register a handler for `GET /nodes/{node}/qemu` and the like; spelled as in the published schema."""

    def register(handler: Handler) -> Handler:
        ROUTES[method, template] = handler
        return handler

    return register
