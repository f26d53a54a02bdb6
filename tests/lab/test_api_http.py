"""The manners of the node's HTTP server: what it refuses, how it closes, how it reads parameters."""

from __future__ import annotations

import json
import socket
import ssl
import time
import urllib.parse
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.lab import Answer, RunningLab, read_answer
from vi_ops.lab.form import decode_form
from vi_ops.lab.server import KEEP_ALIVE_REQUESTS, KEEP_ALIVE_S


def raw(lab: RunningLab, method: str, target: str, body: str | None = None, **headers: str) -> Answer:
    connection = lab.connect()
    sent = {"Authorization": f"PVEAPIToken=ops@pve!viops={lab.token}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, f"/api2/json{target}", body=body, headers=sent)
        return read_answer(connection.getresponse())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "reason"),
    [
        ("PATCH", "/version", None, {}, "method 'PATCH' not available"),
        ("DELETE", "/pools/x", "a=1", {}, "Unexpected content for method 'DELETE'"),
        ("GET", "/version", "a=1", {}, "Unexpected content for method 'GET'"),
        ("POST", "/pools", None, {"Transfer_Encoding": "chunked"}, "chunked transfer encoding not supported"),
        ("POST", "/pools", "x" * (512 * 1024 + 1), {}, "for data too large"),
        ("GET", "/nosuch", None, {}, "Method 'GET /nosuch' not implemented"),
        ("POST", "/version", None, {}, "Method 'POST /version' not implemented"),
    ],
)
def test_server_refuses_with_501(
    lab: RunningLab, method: str, target: str, body: str | None, headers: dict[str, str], reason: str
) -> None:
    if "Transfer_Encoding" in headers:
        body = "0\r\n\r\n"
    answer = raw(lab, method, target, body, **headers)
    assert (answer.status, answer.reason) == (501, reason)
    assert answer.headers["Connection"] == "close"


def test_unknown_content_type_is_506(lab: RunningLab) -> None:
    assert raw(lab, "POST", "/pools", "a: 1", Content_Type="text/yaml").status == 506


def test_success_keeps_the_connection_and_an_error_closes_it(lab: RunningLab) -> None:
    connection = lab.connect()
    sent = {"Authorization": f"PVEAPIToken=ops@pve!viops={lab.token}"}
    for _ in range(2):
        connection.request("GET", "/api2/json/version", headers=sent)
        answer = read_answer(connection.getresponse())
        assert answer.status == 200
    assert answer.headers["Server"] == "pve-api-daemon/3.0"
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
    connection.request("GET", "/api2/json/pools/absent", headers=sent)
    response = connection.getresponse()
    assert response.status == 403
    assert response.will_close
    connection.close()


def test_connection_serves_a_hundred_requests(lab: RunningLab) -> None:
    connection = lab.connect()
    closing = []
    for _ in range(KEEP_ALIVE_REQUESTS):
        connection.request("GET", "/api2/json/access/domains")
        closing.append(read_answer(connection.getresponse()).headers["Connection"] == "close")
    connection.close()
    assert closing == [False] * (KEEP_ALIVE_REQUESTS - 1) + [True]


@pytest.mark.parametrize(
    ("target", "asked", "encoding"),
    [
        ("/access/roles", "gzip, deflate", {"gzip", "deflate"}),
        ("/access/roles", "identity", {None}),
        ("/version", "gzip, deflate", {None}),  # too short to be worth it
    ],
)
def test_long_answers_are_compressed_on_request(
    lab: RunningLab, target: str, asked: str, encoding: set[str | None]
) -> None:
    connection = lab.connect()
    sent = {"Authorization": f"PVEAPIToken=ops@pve!viops={lab.token}", "Accept-Encoding": asked}
    connection.request("GET", f"/api2/json{target}", headers=sent)
    response = connection.getresponse()
    assert response.headers["Content-Encoding"] in encoding
    assert json.loads(zlib.decompress(response.read(), 47) if encoding != {None} else response.read())["data"]
    connection.close()


@pytest.mark.slow
def test_idle_connection_is_closed_after_five_seconds(lab: RunningLab) -> None:
    context = ssl.create_default_context(cafile=str(lab.ca))
    with (
        socket.create_connection(("127.0.0.1", lab.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="pve1") as tls,  # the certificate names the node too
    ):
        tls.sendall(b"GET /api2/json/access/domains HTTP/1.1\r\nHost: pve1\r\n\r\n")
        assert b"200 OK" in tls.recv(65536)
        began = time.monotonic()
        while tls.recv(65536):
            pass
        assert KEEP_ALIVE_S - 1 < time.monotonic() - began < KEEP_ALIVE_S + 3


def test_error_has_message_in_status_line_and_body(lab: RunningLab) -> None:
    answer = lab.ask("GET", "/nodes/other/status")
    assert answer.status == 500
    assert answer.reason.startswith("hostname lookup 'other' failed - ")
    assert answer.body == {"data": None, "message": f"{answer.reason}\n"}


@pytest.mark.parametrize("path", ["/a%0d%0aSet-Cookie:%20x", "/a%00", "/%ff", "/%E2%82%AC"])
def test_status_line_cannot_be_forged(lab: RunningLab, path: str) -> None:
    answer = lab.ask("GET", path)
    assert answer.status == 501
    assert "Set-Cookie" not in answer.headers
    assert lab.ask("GET", "/version").status == 200


def test_localhost_is_this_node(lab: RunningLab) -> None:
    assert lab.ask("GET", "/nodes/localhost/version").data["release"] == "9.2"


def test_path_and_parameter_must_agree(lab: RunningLab) -> None:
    answer = lab.ask("GET", "/nodes/pve1/storage/local/status", {"storage": "other"})
    assert answer.status == 400
    assert "conflicting values" in answer.body["errors"]["storage"]


def test_query_wins_over_body(fresh_lab: RunningLab) -> None:
    login = {"username": "root@pam", "password": "x"}
    assert fresh_lab.ask("POST", "/access/ticket?username=ops@pve", login, {}).status == 401
    assert fresh_lab.requests()[-1]["params"] == {"username": "ops@pve", "password": "***"}


def test_json_body_is_read_as_text(fresh_lab: RunningLab) -> None:
    login = {"username": "root@pam", "password": fresh_lab.root_password}
    body = json.dumps({**login, "n": 5, "b": True, "l": ["x", 1]})
    answer = raw(fresh_lab, "POST", "/access/ticket", body, Content_Type="application/json", Authorization="")
    assert answer.data["username"] == "root@pam"
    params = fresh_lab.requests()[-1]["params"]
    assert (params["n"], params["b"], params["l"]) == ("5", "1", ["x", "1"])


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=1;b=2", {"a": "1", "b": "2"}),
        ("a=x&a=y&a=z", {"a": ["x", "y", "z"]}),
        ("net0=virtio,bridge=vmbr0", {"net0": "virtio,bridge"}),  # a raw second = ends the value
        ("net0=virtio%2Cbridge%3Dvmbr0", {"net0": "virtio,bridge=vmbr0"}),
        ("a=x+y&b=%2B", {"a": "x y", "b": "+"}),
        ("flag&", {"flag": ""}),
    ],
)
def test_form_is_decoded_as_the_node_does(text: str, params: dict[str, object]) -> None:
    assert decode_form(text) == params


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1)


@given(st.dictionaries(TEXT, TEXT | st.lists(TEXT, min_size=2)))
def test_what_is_encoded_is_decoded(params: dict[str, object]) -> None:
    assert decode_form(urllib.parse.urlencode(params, doseq=True)) == params
