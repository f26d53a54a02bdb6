"""HTTPS to a node as proxmoxer wants it: a requests session with our deadlines, trust and login."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPSConnectionPool

from vi_ops.errors import FactError, Unreachable
from vi_ops.execute.trust import CONNECT_DEADLINE_S, Trust

# The node gives up after 30 s (596) and delays a 401 by 3 s (pve-http-server, APIServer/AnyEvent.pm).
READ_DEADLINE_S: Final = 35.0
# The server closes after 5 s without a request (pve-manager, PVE/Service/pveproxy.pm).
IDLE_LIMIT_S: Final = 4.0
POOL_SIZE: Final = 8
_UNSENT: Final = "nothing was sent"
# A ticket lives for two hours (pve-access-control, get_ticket_age_range).
TICKET_RENEW_S: Final = 3600.0

# proxmoxer logs what it sends, secrets included, as soon as somebody turns logging on.
logging.getLogger("proxmoxer.core").disabled = True


class NoAnswer(Exception):
    """A request without a usable answer.

    `sent`: the node may have begun to work on it. `again`: another try may succeed. `slow`: the time ran out
    first, so that the node may still be at it.
    """

    def __init__(self, words: str, *, sent: bool, again: bool = True, slow: bool = False) -> None:
        super().__init__(words)
        self.words = words
        self.sent = sent
        self.again = again
        self.slow = slow


@dataclass(frozen=True)
class Token:
    """An API token: `user@realm!name` and its secret."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"Token({self.id!r}, ***)"


@dataclass(frozen=True)
class Password:
    """A user's password, for a ticket: `user@realm`."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"Password({self.id!r}, ***)"


class _FreshPool(HTTPSConnectionPool):
    """Hands out no connection that the server may be about to close, and marks failures to connect."""

    def _validate_conn(self, conn: Any) -> None:
        try:
            super()._validate_conn(conn)  # connects, and shakes hands
        except Exception as error:
            error.add_note(_UNSENT)
            raise

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since_s = time.monotonic()
        super()._put_conn(conn)

    def _get_conn(self, timeout: float | None = None) -> Any:
        conn = super()._get_conn(timeout)
        if time.monotonic() - getattr(conn, "idle_since_s", time.monotonic()) > IDLE_LIMIT_S:
            conn.close()  # urllib3 opens it again for the next request
        return conn


class _Adapter(HTTPAdapter):
    """Checks a pinned fingerprint before anything is sent; urllib3 compares the whole certificate."""

    def __init__(self, fingerprint: str | None) -> None:
        self._fingerprint = fingerprint
        super().__init__(pool_maxsize=POOL_SIZE)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, assert_fingerprint=self._fingerprint, **options)
        self.poolmanager.pool_classes_by_scheme = {"https": _FreshPool}

    def close(self) -> None:
        """Close the connections now: urllib3 leaves that to the collector, and an error may hold the pool."""
        pools = self.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118  not a dict
            pools[key].close()
        super().close()


class PveSession(requests.Session):
    """What proxmoxer sends through. Thread-safe: a pool of connections, and one login at a time."""

    def __init__(self, base_url: str, trust: Trust, login: Token | Password) -> None:
        super().__init__()
        self.base_url = base_url
        self.trust_env = False  # no proxy, and no ~/.netrc: it would replace the token
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # a stale cookie beats a good token
        self.headers.update({"Accept": "application/json", "User-Agent": "vi-ops"})
        self.mount("https://", _Adapter(trust.fingerprint))
        self.verify = False if trust.fingerprint else str(trust.ca_file)
        self._trust = trust
        self._login = login
        self._lock = threading.Lock()
        self._ticket: tuple[float, dict[str, str]] | None = None
        self.clock_offset_s: float | None = None

    @property
    def authid(self) -> str:
        """`user@realm!token`, or `user@realm`."""
        return self._login.id

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        """Send one request. A 401 for an expired ticket is answered by one new login.

        Raises NoAnswer where no answer came, Unreachable where the certificate is not the one we trust.
        """
        given = options.pop("headers", None) or {}
        stale: dict[str, str] | None = None
        while True:
            auth = self._auth(stale)
            answer = self._send(method, url, *args, headers={**given, **auth}, **options)
            is_final = (
                isinstance(self._login, Token) or stale is not None or hasattr(options.get("data"), "read")
            )
            if answer.status_code != 401 or is_final:
                return answer
            stale = auth

    def _send(self, method: str | bytes, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", (CONNECT_DEADLINE_S, READ_DEADLINE_S))
        options.update(allow_redirects=False)
        try:
            answer = super().request(method, url, *args, **options)
        except requests.RequestException as error:
            raise self._failure(error) from error
        self._note_clock(answer)
        if 300 <= answer.status_code < 400:
            where = answer.headers.get("Location", "elsewhere")
            raise Unreachable(
                "pve-redirect",
                f"{self.base_url} sends us to {where}: this is not the API of a node",
                hint="api.url in the inventory must be the node's own address, such as https://pve1:8006",
            )
        return answer

    def _failure(self, error: requests.RequestException) -> Exception:
        causes = list(_causes(error))
        words = _words_of(causes[-1])
        if any(_is_certificate(cause) for cause in causes):
            return untrusted(self.base_url, self._trust, words)
        unsent = any(_UNSENT in getattr(cause, "__notes__", ()) for cause in causes)
        # A server that restarts refuses and resets; a wrong address does neither, and will not get better.
        passing = any(isinstance(cause, ConnectionError | ssl.SSLEOFError) for cause in causes)
        slow = isinstance(error, requests.ReadTimeout) and not unsent
        return NoAnswer(words, sent=not unsent, again=not unsent or passing, slow=slow)

    def _note_clock(self, answer: requests.Response) -> None:
        try:
            then = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (KeyError, ValueError):
            return
        self.clock_offset_s = then - time.time()

    def _auth(self, stale: Mapping[str, str] | None) -> dict[str, str]:
        if isinstance(self._login, Token):
            return {"Authorization": f"PVEAPIToken={self._login.id}={self._login.secret}"}
        with self._lock:
            if self._ticket:
                since_s, auth = self._ticket
                if auth != stale and time.monotonic() - since_s < TICKET_RENEW_S:
                    return auth
            auth = self._new_ticket(self._login)
            self._ticket = (time.monotonic(), auth)
            return auth

    def _new_ticket(self, login: Password) -> dict[str, str]:
        form = {"username": login.id, "password": login.secret}
        try:
            answer = self._send("POST", f"{self.base_url}/access/ticket", data=form)
        except NoAnswer as failure:  # what the ticket was for has not been sent
            raise NoAnswer(failure.words, sent=False, again=failure.again) from failure
        if answer.status_code >= 500:
            raise NoAnswer(f"{answer.status_code} {read_words(answer)[0]}", sent=False)
        data = read_data(answer) if answer.status_code == 200 else None
        if not isinstance(data, Mapping) or not data.get("ticket"):
            words = read_words(answer)[0]
            raise Unreachable(
                "pve-login",
                f"{self.base_url}: no ticket for {login.id}: {answer.status_code} {words}",
                hint="check api.user (with its realm, such as root@pam) and the secret",
            )
        if data.get("NeedTFA"):
            raise Unreachable(
                "pve-second-factor",
                f"{self.base_url}: {login.id} needs a second factor to log in",
                hint="use an API token instead: it needs none",
            )
        return {
            "Cookie": f"PVEAuthCookie={quote(str(data['ticket']), safe='')}",
            "CSRFPreventionToken": str(data.get("CSRFPreventionToken", "")),
        }


def _words_of(cause: BaseException) -> str:
    """What the system says, without Python's numbers and source lines around it."""
    if isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_message:
        return cause.verify_message
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


def untrusted(url: str, trust: Trust, words: str) -> Unreachable:
    """The certificate is not the one we trust; nothing was sent."""
    url = url.removesuffix("/api2/json")
    if trust.fingerprint:
        message = f"{url} shows another certificate than the pinned one; nothing was sent: {words}"
        hint = (
            "if the node has a new certificate, compare its fingerprint there, then: `vi-ops node trust NODE`"
        )
        return Unreachable("tls-changed", message, hint=hint)
    message = f"the certificate of {url} is not verified by {trust.ca_file}; nothing was sent: {words}"
    hint = (
        "take /etc/pve/pve-root-ca.pem of this node and a name or address that its certificate has, or remove"
        " ca_file and pin the certificate: `vi-ops node trust NODE`"
    )
    return Unreachable("tls-unverified", message, hint=hint)


def read_data(answer: requests.Response) -> Any:
    """`data` of a good answer; an empty body is no data. Raises FactError for what is not Proxmox's JSON."""
    if not answer.content.strip():
        return None
    try:
        body = json.loads(answer.content.decode("utf-8", errors="replace"))
    except ValueError:
        body = None
    if not isinstance(body, dict):
        first = answer.content[:80].decode("utf-8", errors="replace")
        raise FactError(
            "pve-answer",
            f"{answer.url}: expected JSON with data, got {first!r}",
            hint="is this a node's API?",
        )
    return body.get("data")


def read_words(answer: requests.Response) -> tuple[str, dict[str, str]]:
    """What the node says about a refusal: its message, and the texts by parameter.

    The message is in the body since pve-http-server 5.2.0, before only in the status line.
    """
    try:
        body = json.loads(answer.content.decode("utf-8", errors="replace"))
    except ValueError:
        body = None
    fields = body if isinstance(body, dict) else {}
    told, errors = fields.get("message"), fields.get("errors")
    words = str(told).strip() if told else _reason(answer)
    by_name = (
        {str(key): str(text).strip() for key, text in errors.items()} if isinstance(errors, dict) else {}
    )
    return words, by_name


def _reason(answer: requests.Response) -> str:
    reason = answer.reason or ""
    text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")  # http.client reads the status line as Latin-1
    return text.strip() or http.client.responses.get(answer.status_code, "no reason given")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it wraps: requests and urllib3 keep the cause in args or `reason`."""
    chain: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        at = queue.pop(0)
        if at is None or at in chain:
            continue
        chain.append(at)
        queue += [
            getattr(at, "reason", None) if isinstance(getattr(at, "reason", None), BaseException) else None
        ]
        queue += [arg for arg in at.args if isinstance(arg, BaseException)]
        queue += [at.__cause__, at.__context__]
    return chain


def _is_certificate(cause: BaseException) -> bool:
    return isinstance(cause, ssl.SSLCertVerificationError) or "Fingerprints did not match" in str(cause)
