"""Who asks: API tokens, tickets and the CSRF token that guards writes made with a ticket.

Source: pve-http-server, PVE/APIServer/AnyEvent.pm and Formatter.pm; pve-access-control, PVE/AccessControl.pm.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
import urllib.parse
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from vi_ops.lab.acl import Acl
from vi_ops.lab.route import Refusal, User
from vi_ops.lab.store import write_text

TICKET_LIFETIME_S = 2 * 3600
CLOCK_TOLERANCE_S = 300


def unauthorized(reason: str = "Authentication failed!") -> Refusal:
    """401 with an empty body: both releases answer so since the end of 2025, whatever was wrong."""
    return Refusal(401, reason, body=False)


def hash_secret(secret: str, salt: str | None = None) -> str:
    """`<salt>$<scrypt hash>`: the lab keeps no secret in clear text but the one that it hands out."""
    salt = salt or secrets.token_hex(8)
    digest = hashlib.scrypt(secret.encode(), salt=salt.encode(), n=2**12, r=8, p=1)
    return f"{salt}${digest.hex()}"


def is_secret(secret: str, hashed: str) -> bool:
    """Whether `hashed` came from this secret."""
    return hmac.compare_digest(hash_secret(secret, hashed.partition("$")[0]), hashed)


class Login:
    """Checks what a request brings, and gives out tickets."""

    def __init__(self, key_file: Path, acl: Acl, now: Callable[[], float] = time.time) -> None:
        if not key_file.exists():
            write_text(key_file, secrets.token_hex(32))
        self.key = bytes.fromhex(key_file.read_text())
        self.acl = acl
        self.now = now
        self._proven: set[tuple[str, str]] = set()  # scrypt is slow on purpose; once a secret is enough

    def user_of(
        self, headers: Mapping[str, str], needs_csrf: bool, is_expired: Callable[[], bool] = lambda: False
    ) -> User:
        """The user behind a request; 401 when there is none. `is_expired` is asked for tickets only."""
        kind, value = credentials(headers)
        if kind == "token":
            return self._token_user(value)
        if kind == "":
            raise unauthorized("No ticket")
        user = None if is_expired() else self.ticket_user(value)
        if user is None:
            raise unauthorized()
        if needs_csrf and not self._is_csrf(headers.get("CSRFPreventionToken", ""), user):
            raise unauthorized("Permission denied - invalid csrf token")
        return user

    def password_user(self, userid: str, password: str) -> User:
        """The user of that name and password; a ticket that is still valid serves as password."""
        entry = self.acl.state["users"].get(userid)
        if self._is_enabled(userid) and password.startswith("PVE:"):
            if self.ticket_user(password) == User(userid):
                return User(userid)
        elif self._is_enabled(userid) and entry.get("password") and is_secret(password, entry["password"]):
            return User(userid)
        raise Refusal(401, "authentication failure")

    def ticket(self, user: User) -> str:
        text = f"PVE:{user.userid}:{int(self.now()):08X}"
        return f"{text}::{self._sign(text)}"

    def csrf_token(self, user: User) -> str:
        stamp = f"{int(self.now()):08X}"
        return f"{stamp}:{self._sign(f'{stamp}:{user.userid}')}"

    def ticket_user(self, ticket: str) -> User | None:
        """The user that a ticket names, when it is ours and not too old."""
        text, _, signature = ticket.partition("::")
        prefix, _, rest = text.partition(":")
        userid, _, stamp = rest.rpartition(":")
        if prefix != "PVE" or not self._is_fresh(stamp) or not self._is_enabled(userid):
            return None
        return User(userid) if hmac.compare_digest(signature, self._sign(text)) else None

    def _token_user(self, value: str) -> User:
        authid, _, secret = value.rpartition("=")
        token = self.acl.token(authid)
        if token is None or not self._is_enabled(authid.partition("!")[0]):
            raise unauthorized()
        if token.get("expire", 0) and token["expire"] < self.now():
            raise unauthorized()
        if (secret, token["secret"]) not in self._proven:
            if not is_secret(secret, token["secret"]):
                raise unauthorized()
            self._proven.add((secret, token["secret"]))
        return User(authid)

    def _is_enabled(self, userid: str) -> bool:
        entry = self.acl.state["users"].get(userid)
        return bool(entry and entry["enable"] and not 0 < entry.get("expire", 0) < self.now())

    def _is_csrf(self, token: str, user: User) -> bool:
        stamp, _, signature = token.partition(":")
        genuine = hmac.compare_digest(signature, self._sign(f"{stamp}:{user.userid}"))
        return genuine and self._is_fresh(stamp)

    def _is_fresh(self, stamp: str) -> bool:
        try:
            age_s = self.now() - int(stamp, 16)
        except ValueError:
            return False
        return -CLOCK_TOLERANCE_S < age_s < TICKET_LIFETIME_S

    def _sign(self, text: str) -> str:
        return base64.b64encode(hmac.digest(self.key, text.encode(), "sha256")).decode().rstrip("=")


def credentials(headers: Mapping[str, str]) -> tuple[str, str]:
    """`("ticket", text)`, `("token", text)` or `("", "")`; a cookie wins over a token, even a stale one."""
    try:
        cookies = SimpleCookie(headers.get("Cookie", ""))
    except CookieError:
        cookies = SimpleCookie()
    if "PVEAuthCookie" in cookies:
        return "ticket", urllib.parse.unquote(cookies["PVEAuthCookie"].value)
    header = headers.get("Authorization", "")
    for name, kind in (("PVEAuthCookie", "ticket"), ("PVEAPIToken", "token")):
        if header.startswith((f"{name}=", f"{name} ")):
            return kind, urllib.parse.unquote(header[len(name) + 1 :].partition(";")[0].strip())
    return "", ""
