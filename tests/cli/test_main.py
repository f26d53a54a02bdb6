"""Where every command ends: exit codes, errors as words and as JSON, TAB, and a reader that goes away."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from vi_ops import codes
from vi_ops.cli.main import main
from vi_ops.cli.say import say, wants_json

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def end(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run `vi-ops` in this process to its end; its exit code."""
    monkeypatch.setattr(sys, "argv", ["vi-ops", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    code = caught.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        ("plan --gone", 2, "usage"),
        ("plann", 2, "usage"),
        (f"-i {ROOT}/inventory/lab plan", 2, "usage"),
        ("node status", 2, "usage"),
        ("explain no-such-code", 2, "usage"),
        ("lab up --release 7.4", 2, "usage"),
        ("lab fault inject no-such-fault", 2, "usage"),
        ("-i /nowhere plan vm106", 4, "inventory-missing"),
        ("lab fault inject no-boot --home /nowhere", 6, "lab-absent"),
        ("lab up --home /dev/null/lab", 1, "file-refused"),
    ],
)
def test_exit_codes_and_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, code: int, name: str
) -> None:
    assert end(monkeypatch, *words.split()) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"error [{name}]: ")
    assert name in codes.register()
    assert end(monkeypatch, *words.split(), "--json") == code
    record = json.loads(capsys.readouterr().err)
    assert record["error"].keys() == {"code", "message", "hint"}
    assert record["error"]["code"] == name


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        ("init --from foo", "invalid value for '--from': 'foo' is not one of 'example', 'lab'", "--help"),
        ("node roles --release 7", "invalid value for '--release': expected at least 8", "--help"),
        ("lab up --port x", "invalid value for '--port': expected a whole number", "--help"),
        ("status -i lab", "no such option: -i", "`vi-ops -i DIR status`"),
        ("node roles --inventory lab", "no such option: --inventory", "`vi-ops -i DIR node roles`"),
        ("ssh vm106 uptime -p", "no such option: -p", "two dashes: `vi-ops ssh VM -- COMMAND`"),
        ("ssh vm106 -i lab", "no such option: -i", "-i goes right behind `vi-ops`"),
        ("explain image-mising", "did you mean 'image-missing'?", "--help"),
        ("explain nonsense", "`vi-ops explain` lists all codes", "--help"),
    ],
)
def test_usage_errors_say_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, says: str, hint: str
) -> None:
    assert end(monkeypatch, *words.split()) == 2
    told, _, advice = capsys.readouterr().err.partition("\n  hint: ")
    assert says in told
    assert hint in advice
    assert "Input" not in told


def test_what_root_types_first_needs_no_inventory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VI_OPS_INVENTORY", "/nowhere")
    for release, privilege in (("8", "VM.Monitor"), ("9", "VM.GuestAgent.Unrestricted")):
        assert end(monkeypatch, "node", "roles", "--release", release) == 0
        told = capsys.readouterr().out
        assert privilege in told
        assert "pveum user token add ops@pve viops --privsep 0" in told


@pytest.mark.parametrize(
    ("failure", "code"), [(KeyboardInterrupt(), 130), (typer.Abort(), 130), (ValueError("odd"), 3)]
)
def test_interrupts_and_bugs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failure: BaseException, code: int
) -> None:
    def fail() -> None:
        raise failure

    monkeypatch.setattr(codes, "register", fail)
    assert end(monkeypatch, "explain") == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if code == 3:
        assert err.startswith("error [bug]: ValueError: odd")
        Path(err.split("report written to ")[1].strip()).unlink()


def test_debug_shows_the_traceback_and_keeps_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VI_OPS_DEBUG", "")  # the option sets it: taken back at the end
    assert end(monkeypatch, "--debug", "-i", "/nowhere", "plan", "vm106") == 4
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.splitlines()[-2].startswith("error [inventory-missing]: ")
    assert "hint: " in err.splitlines()[-1]


def test_without_words_the_help_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(monkeypatch) == 2
    assert "Examples:" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    argv = [sys.executable, "-m", "vi_ops", "explain"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_json_behind_two_dashes_belongs_to_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vi-ops", "ssh", "vm106", "--", "lsblk", "--json"])
    assert not wants_json()
    monkeypatch.setattr(sys, "argv", ["vi-ops", "plan", "--json"])
    assert wants_json()


def test_sentences_wrap_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    text = f"[code]: {'word ' * 20}\n  indented {'word ' * 20}`vi-ops plan vm106`"
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        say(text, stream, prefix="error ")
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("error [code]: word")
    assert lines[1].startswith("  word")
    assert any(line.startswith("    word") for line in lines)
    assert any("`vi-ops plan vm106`" in line for line in lines)
    assert pipe.getvalue() == f"error {text}\n"


def complete(words: str, **env: str) -> list[str]:
    asked = {"_VI_OPS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; sys.argv = ['vi-ops']\nfrom vi_ops.cli.main import main\ntry:\n main()\nfinally:\n"
    code += " assert not {'ansible', 'rich', 'proxmoxer', 'paramiko'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked | env,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_tab_knows_names_without_loading_the_inventory() -> None:
    site = {"VI_OPS_INVENTORY": str(ROOT / "inventory" / "example")}
    for command in ("plan", "provision", "status", "ssh", "console", "destroy"):
        assert complete(f"vi-ops {command} ", **site) == ["vm106"], command  # the others are unmanaged
    assert complete("vi-ops plan vm106 vm10", **site) == []
    assert complete("vi-ops node status ", **site) == ["pve1"]
    assert complete("vi-ops image push debian-13 --node ", **site) == ["pve1"]
    assert complete(f"vi-ops -i {ROOT / 'inventory' / 'lab'} plan ") == ["vm106"]
    assert complete("vi-ops plan ", VI_OPS_INVENTORY="/nowhere") == []


@pytest.mark.slow
def test_tab_knows_codes_images_faults_and_commands() -> None:
    assert "tls-changed" in complete("vi-ops explain tls-")
    assert "debian-13" in complete("vi-ops image push ")
    assert "no-boot" in complete("vi-ops lab fault inject no-")
    assert {"up", "down", "fault"} <= set(complete("vi-ops lab "))
    assert {"plan", "image", "lab"} <= set(complete("vi-ops "))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_completion_script_is_shell() -> None:
    argv = [sys.executable, "-m", "vi_ops", "--show-completion", "bash"]
    script = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "complete " in script
    subprocess.run(["bash", "-n"], input=script, check=True, text=True, timeout=60)
