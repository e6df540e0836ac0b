"""A bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import textwrap
import warnings

import pytest
from jobs_of_a_pool import long_work, warn

from nomadiff import progress
from nomadiff.cli.terminal import plain_output
from nomadiff.jobs import in_processes
from nomadiff.progress import duration_text, progress_bar


def test_a_warning_of_ours_is_one_message_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    for where in (lambda: [warn(1), warn(2)], lambda: list(in_processes(warn, [(1,), (2,)], 2))):
        with warnings.catch_warnings(), plain_output(sys.stdout):
            warnings.simplefilter("always")
            where()
        told = capfd.readouterr().err
        # each worker process tells it
        assert set(told.splitlines()) == {"nomadiff: photos: 1 file left out:", "  a.jpg"} and told.count("a.jpg") <= 2


CODE = """
    from nomadiff.progress import progress_bar
    with progress_bar("Training", 100, "images", done=50) as advance:
        advance(25, "loss 0.5")
        advance(25, note="loss 0.25")
    print("after")
"""


def test_short_work_is_silent_when_not_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Training", 10) as advance:
        advance(3)
        advance(3, "note")
        advance()
    assert capfd.readouterr() == ("", "")


def test_a_line_now_and_then_when_not_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    asked = []

    def note() -> str:
        asked.append(now[0])
        return f"loss {len(asked)}"

    with progress_bar("train casd", 50_000, done=2_000) as advance:
        for _ in range(100):
            now[0] += 2.0
            advance(32, note)
    said = capfd.readouterr().err.splitlines()
    assert said == [
        "train casd: 2,160 of 50,000 images, 16 images/s, 50 min left, loss 1",
        "train casd: 3,120 of 50,000 images, 16 images/s, 49 min left, loss 2",
        "train casd: 4,080 of 50,000 images, 16 images/s, 48 min left, loss 3",
        "train casd: 5,040 of 50,000 images, 16 images/s, 47 min left, loss 4",
    ]
    assert len(asked) == 4  # a note may wait for a GPU: it is made when it is shown
    with progress_bar("train", 32, show=False) as advance:
        now[0] += 100.0
        advance(1)
    with progress_bar("train", 32) as advance:
        now[0] += 100.0
        advance(32)  # done: the verb says what it made
    assert capfd.readouterr().err == ""


def test_workers_leave_the_lines_to_their_parent(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_FIRST", 0.0)  # long_work does so where it runs
    assert dict(in_processes(long_work, [(1,), (2,)], 2)) == {(1,): 1, (2,): 2}
    assert capfd.readouterr().err == ""
    long_work(3)
    assert capfd.readouterr().err.startswith("job 3: 1 of 10 images")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (90, "2 min"),
        (5400, "1.5 h"),
        (170_000, "47.2 h"),
        (1e6, "11.6 days"),
        (6e7, "694.4 days"),
        (1e8, "3.2 years"),
        (1e12, "31,688.1 years"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


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
