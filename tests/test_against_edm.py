"""The comparison with NVlabs/edm, on a stand-in of our own with the interface that it needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STAND_IN = {
    "generate.py": """
def edm_sampler(net, latents, class_labels=None, num_steps=18):
    for _ in range(num_steps):
        latents = net(latents, latents.new_ones(len(latents)), class_labels)
    return latents
""",
    "fid.py": """
import numpy as np, scipy.linalg

def calculate_fid_from_inception_stats(mu, sigma, mu_ref, sigma_ref):
    return np.square(mu - mu_ref).sum() + np.trace(sigma + sigma_ref - 2 * scipy.linalg.sqrtm(sigma @ sigma_ref)).real
""",
    "training/__init__.py": "",
    "training/augment.py": "def AugmentPipe(p, **kinds): return lambda images: (images, None)",
    "training/loss.py": """
class EDMLoss:
    def __call__(self, net, images, labels=None, augment_pipe=None):
        images, told = augment_pipe(images) if augment_pipe else (images, None)
        return (net(images, images.new_ones(len(images)), labels, augment_labels=told) - images) ** 2
""",
    "training/networks.py": """
import torch

class EDMPrecond(torch.nn.Module):
    def __init__(self, img_resolution, img_channels, label_dim, **others):
        super().__init__()
        self.model = torch.nn.Conv2d(img_channels, img_channels, 3, padding=1)

    def forward(self, x, sigma, class_labels=None, augment_labels=None):
        assert class_labels.shape == (len(x), 2)
        return self.model(x.float())
""",
}


def run(*arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / "against_edm.py"), *map(str, arguments)]
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": paths})


@pytest.fixture
def checkout(tmp_path):
    for name, text in STAND_IN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_comparison_is_printed_with_its_ratio_and_range(checkout):
    toy = ("--presets", "digits", "--steps", 2, "--rounds", 2, "--dimension", 16, "--features", 128)
    done = run("--edm", checkout, "--device", "cpu", *toy)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    expected = [
        "training step, batch 128",
        "sampling, 18 Heun steps, batch 64",
        "Frechet distance (",
        "sums of features",
    ]
    assert [row[1].startswith(work) for row, work in zip(rows, expected, strict=True)] == [True] * 4
    for row in rows:
        assert "x [" in row[-1] and " to " in row[-1]
    # the two sides compute the same
    assert [float(row[1].split("differ by ")[1].strip(")")) < 1e-6 for row in rows[2:]] == [True, True]
    assert "digits: " in done.stdout and "against_edm.py" in done.stdout


@pytest.mark.parametrize("kind", ["nothing", "an empty folder", "another project", "a file"])
def test_what_is_no_checkout_is_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "a file":
        path.write_text("")
    elif kind != "nothing":
        path.mkdir()
        if kind == "another project":
            (path / "generate.py").write_text("")
    done = run("--edm", path)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.strip() == (
        f"{path} is no checkout of NVlabs/edm: git clone https://github.com/NVlabs/edm makes one"
    )


def test_a_checkout_that_lacks_a_package_says_which(checkout):
    (checkout / "generate.py").write_text("import a_package_that_nobody_has")
    done = run("--edm", checkout)
    assert done.returncode != 0 and len(done.stderr.strip().splitlines()) == 1
    assert "a_package_that_nobody_has" in done.stderr and "pip install" in done.stderr
