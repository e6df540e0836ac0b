"""Run every file of the hostile corpus (tests/hostile_corpus.py) through the command line, each in its own process.

    python scripts/hostile_corpus.py [--only WORD]

A command may take 30 seconds and 1 GB beyond what the imports need, must run nothing, crash nothing and say what is
wrong in one line. Exits with 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # it would ask for the autoencoders that files name, again and again

SECONDS, MEGABYTES, ADDRESSES = 30, 1024, 6 << 30
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork", "pickle.find_class")


def run(words: list[str], output: Path) -> list[str]:
    """One command in a forked process under limits; what is wrong with how it went."""
    import nomadiff.cli

    pid = os.fork()
    if pid == 0:
        handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1), os.dup2(handle, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESSES,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + 5,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in FORBIDDEN and "uname" not in str(arguments):  # the platform module's
                os.write(2, f"\nAUDIT {event} {arguments!r}\n".encode())

        sys.addaudithook(hook)
        code = 97
        try:
            code = nomadiff.cli.main(words)
        except BaseException as error:
            os.write(2, f"\nTraceback {error!r}\n".encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    started, peak = time.monotonic(), 0
    base = _resident(os.getpid())
    while not (done := os.wait4(pid, os.WNOHANG))[0]:
        peak = max(peak, _resident(pid) - base)
        if time.monotonic() - started > 3 * SECONDS:  # of the clock: other work may hold the processor
            os.kill(pid, 9)
        time.sleep(0.02)
    _, status, usage = done
    text = output.read_text(errors="replace")
    wrong = []
    if os.WIFSIGNALED(status):
        wrong.append(f"signal {os.WTERMSIG(status)}")
    if usage.ru_utime + usage.ru_stime > SECONDS or time.monotonic() - started > 3 * SECONDS:
        wrong.append(f"{usage.ru_utime + usage.ru_stime:.0f} CPU-seconds")
    if peak > MEGABYTES:
        wrong.append(f"{peak} MB")
    for word in ("AUDIT", "Traceback", "unexpected"):
        if word in text:
            wrong.append(word)
    if any(ord(letter) < 32 and letter not in "\n\t\r" for letter in text):
        wrong.append("control characters")
    errors = [line for line in text.splitlines() if line.startswith("nomadiff: ")]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) and len(errors) != 1:
        wrong.append(f"{len(errors)} lines of error")
    return wrong


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, IndexError, ValueError):
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the path of the files to run")
    options = parser.parse_args()
    import PIL.Image
    import torch

    for verb in ("train", "sample", "evaluate", "info", "import_", "metrics"):
        __import__(f"nomadiff.cli.{verb}")
    from nomadiff.interop import importing  # noqa: F401
    from nomadiff.workflows import evaluate  # noqa: F401
    from tests.hostile_corpus import make

    torch.set_num_threads(1)
    PIL.Image.init()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "corpus"
        os.environ["NOMADIFF_CACHE"] = str(Path(scratch) / "cache")
        for number, case in enumerate(list(make(folder))):
            if options.only not in str(case.path):
                continue
            for which, words in enumerate(case.commands(folder / "good", Path(scratch) / f"out{number}")):
                wrong = run(words, Path(scratch) / "output")
                counts["commands"] += 1
                if list((folder / "canary").iterdir()):
                    wrong.append("EXECUTED")
                    for trace in (folder / "canary").iterdir():
                        trace.unlink()
                if wrong:
                    counts["wrong"] += 1
                    said = (Path(scratch) / "output").read_text(errors="replace")[-300:]
                    name = str(case.path.relative_to(folder))
                    print(json.dumps({"case": name, "command": which, "wrong": wrong, "said": said}), flush=True)
    print(f"{counts['commands']} commands, {counts['wrong']} wrong")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
