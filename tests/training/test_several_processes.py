"""Two real processes under torchrun (gloo): all families of networks, wrong starts, and the death of one of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from standing_pair import StandingPair

from nomadiff.networks.presets import NETWORKS
from nomadiff.processes import partner_lost
from nomadiff.training.presets import PRESETS

WORKER = Path(__file__).with_name("two_processes.py")


def pair(*arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """Both processes without a launcher; each must end within a minute of the other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), *arguments]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        ended = []
        for process, patience in zip(reversed(processes), (300, 60)):
            out, err = process.communicate(timeout=patience)
            ended.append(subprocess.CompletedProcess(command, process.returncode, out, err))
        return ended[::-1]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_every_family_and_every_disagreement(two_processes: StandingPair, tmp_path: Path) -> None:
    lines = two_processes(str(WORKER), "families", str(tmp_path)).splitlines()
    assert {line.rsplit("-", 2)[0] for line in lines if re.search("-(None|4)$", line)} == {*PRESETS, *NETWORKS}
    assert {
        "tiny-0.0-4",
        "tiny-0.5-None",
        "cifar10-ncsnpp-0.0-None",
        "imagenet64-adm-0.0-4",
        "spare-digits",
        "spare-edm2",
    } <= set(lines)
    assert "monitored 4 4" in lines
    for name, told in (
        ("fresh", "process 1 does not see the folder of process 0 .it finds no run there.: --out must be a folder"),
        ("behind", "process 1 does not see the folder of process 0 .it finds a run at 0 images, process 0 one at 48"),
        ("options", "process 1 was started with other options or images than process 0"),
        ("images", "process 1 was started with other options or images than process 0"),
    ):
        found = [line for line in lines if line.startswith(f"{name} ")]
        assert len(found) == 2 and all(re.search(told, line) for line in found), (name, found)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(two_processes: StandingPair, tmp_path: Path) -> None:
    """Where these can work on a batch in the same parts: the draws are those, and here the bits of sums of two, too."""
    said = two_processes(str(WORKER), "counts", str(tmp_path))
    model = {path.name: path / "model.safetensors" for path in tmp_path.iterdir()}
    tensors = {name: load_file(path) for name, path in model.items()}
    for name, other in (("two-one", "two"), ("halves", "two"), ("parts-one-two", "parts-one")):
        for key, value in tensors[name].items():
            exact = {"rtol": 0, "atol": 0} if other == "two" else {"rtol": 1e-3, "atol": 1e-5}
            torch.testing.assert_close(value, tensors[other][key], **exact, msg=f"{name} {key}")
    told = "one-two: 1 processes trained it in parts of 16 images, which 2 cannot make of 8 images each"
    refusals = [line for line in said.splitlines() if told in line and line.endswith(": start 1")]
    assert len(refusals) == 2, said


def _node(namespace: str, address: str, rank: int, *arguments: str) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launcher += ["--node-rank", str(rank), "--master-addr", address, "--master-port", "29519"]
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, *launcher, str(WORKER), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": namespace},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them: what two machines are to one another but for the disk."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two network namespaces need root and ip")
    names = tuple(f"nmd{os.getpid()}{end}" for end in "ab")

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
            for number, name in enumerate(names):
                ip("link", "set", name, "netns", name)
                ip("-n", name, "address", "add", f"10.213.77.{number + 1}/24", "dev", name)
                for device in ("lo", name):
                    ip("-n", name, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.slow
def test_two_nodes_are_two_processes_of_one(
    two_processes: StandingPair, tmp_path: Path, nodes: tuple[str, str]
) -> None:
    """Train, sample and evaluate; a namespace has no other way to the other than the cable."""
    for place in ("nodes", "node"):
        (tmp_path / place).mkdir()
    both = [_node(name, "10.213.77.1", rank, "verbs", str(tmp_path / "nodes")) for rank, name in enumerate(nodes)]
    try:
        for process in both:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, (out, err)
    finally:
        for process in both:
            process.kill()
    two_processes(str(WORKER), "verbs", str(tmp_path / "node"))
    for name in ("run/model.safetensors", "s.zip", "m.json"):
        assert (tmp_path / "nodes" / name).read_bytes() == (tmp_path / "node" / name).read_bytes(), name


@pytest.mark.slow
def test_a_process_dies_and_the_same_command_continues(tmp_path: Path) -> None:
    """Started as two machines would: no launcher ends the one that is left."""
    train = ["train", "--real", "digits:pool", "--synthetic", "close=digits:close", "--method", "casd"]
    train += ["--preset", "digits", "--budget", "256", "--batch", "64", "--warmup", "64", "--snapshot-every", "64"]
    sample = ["sample", str(tmp_path / "run"), "--count", "50", "--batch-size", "4", "--steps", "2"]
    for command, name in ((train, "run"), (sample, "s.zip")):
        command += ["--device", "cpu", "--out", str(tmp_path / name)]
    ended = pair(json.dumps([["die", *train]]))
    for command, name, then in ((train, "run", [["die", *sample]]), (sample, "s.zip", [])):
        left, dead = ended
        assert dead.returncode == -signal.SIGKILL and left.returncode == 1
        said = [line for line in left.stderr.splitlines() if not line.startswith(("train casd:", "sample casd:"))]
        assert len(said) == 1 and "another process of this run has ended" in said[0], said
        assert "run the same command again to go on" in said[0]
        part = tmp_path / f"{name}.part"
        assert len(list(part.glob("*.npy"))) == 3 if name == "s.zip" else (tmp_path / "run" / "state").exists()
        ended = pair(json.dumps([["continue", *command], *then]))  # the next death in the same start: imports take long
        file = "" if name == "s.zip" else "model.safetensors"
        assert (tmp_path / name / file).read_bytes() == (tmp_path / f"whole-{name}" / file).read_bytes()
    assert [done.returncode for done in ended] == [0, 0], ended


@pytest.mark.parametrize(
    ("text", "is_loss"),
    [
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1", True),
        ("NCCL communicator was aborted on rank 0", True),
        ("[enforce fail at alloc_cpu.cpp:119] can't allocate memory", False),
        ("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)", False),
    ],
)
def test_only_lost_partners_are_told_as_such(text: str, is_loss: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomadiff.processes._lost", [])  # or this process leaves as one that lost its partner
    assert (partner_lost(RuntimeError(text)) is not None) == is_loss
