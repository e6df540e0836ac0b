"""A bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import textwrap

import pytest

from nomadiff.progress import progress_bar

CODE = """
    from nomadiff.progress import progress_bar
    with progress_bar("Training", 100, "images", done=50) as advance:
        advance(25, "loss 0.5")
        advance(25, note="loss 0.25")
    print("after")
"""


def test_silent_when_not_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Training", 10) as advance:
        advance(3)
        advance(3, "note")
        advance()
    assert capfd.readouterr() == ("", "")


def test_errors_of_the_block_come_out(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), progress_bar("Training", 10):
        raise KeyError("mine")


def test_a_terminal_shows_what_how_far_and_how_fast_and_only_on_standard_error() -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CODE)],
        stdout=subprocess.PIPE,
        stderr=child,
        env=environment,
        text=True,
    )
    os.close(child)
    shown = b""
    while True:
        try:
            block = os.read(parent, 4096)
        except OSError:  # the terminal's other end is closed: the program has ended
            break
        if not block:
            break
        shown += block
    os.close(parent)
    assert done.communicate(timeout=60)[0] == "after\n" and done.returncode == 0
    text = shown.decode()
    for said in ("Training", "100%", "images/s", "left", "loss 0.25"):
        assert said in text, said
