"""Adam's moments kept in bfloat16 between steps: what it costs.

    python benchmarks/optimizer_state.py             # three seeds of a short training on digits, a few minutes

Trains the same network on the same images and noise with Adam's two moments in float32, with the first, and with both
in bfloat16 (rounded to nearest after each step), and prints the denoising loss on held-out digits, of the moving
average of the weights.
"""

from __future__ import annotations

import argparse
import copy
import statistics

import torch
from measuring import describe_machine, print_table

from nomadiff.data.image_source import ImageSource
from nomadiff.networks.build import build_denoiser
from nomadiff.training.loss import edm_loss
from nomadiff.training.presets import PRESETS

KEPT = {"float32": (), "first moment": ("exp_avg",), "both moments": ("exp_avg", "exp_avg_sq")}
WARM = 80


def pixels(spec: str) -> torch.Tensor:
    """All images of a source, from -1 to 1."""
    return ImageSource.open(spec, name="real", synthetic=False).pixels.float() / 127.5 - 1


def held_out_loss(kept: tuple[str, ...], seed: int, steps: int, batch: int) -> float:
    """Train, rounding these moments after each step; gives the loss on the reference."""
    torch.manual_seed(seed)
    preset = PRESETS["digits"]
    model = build_denoiser(preset.network, sigma_data=0.5, sources=0, classes=0).train()
    average = copy.deepcopy(model).requires_grad_(False)
    options = preset.training
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, options.adam_beta2))
    train, test = pixels("digits:pool"), pixels("digits:reference")
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        clean = train[torch.randint(len(train), (batch,), generator=draw)]
        sigma = (torch.randn(batch, generator=draw) * options.p_std + options.p_mean).exp()
        noise = torch.randn(clean.shape, generator=draw)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1, (step + 1) / WARM)
        optimizer.zero_grad(set_to_none=True)
        edm_loss(model, clean, sigma, noise).mean().backward()
        optimizer.step()
        for state in optimizer.state.values():
            for name in kept:
                state[name].copy_(state[name].bfloat16())
        for old, new in zip(average.parameters(), model.parameters()):
            old.lerp_(new, 0.02 if step > 50 else 1.0)
    draw.manual_seed(99)  # the same noise for all
    average.eval()
    losses = []
    with torch.no_grad():
        for _ in range(4):
            sigma = (torch.randn(len(test), generator=draw) * options.p_std + options.p_mean).exp()
            losses.append(edm_loss(average, test, sigma, torch.randn(test.shape, generator=draw)).mean().item())
    return statistics.mean(losses)


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{describe_machine(torch.device('cpu'))}; {given.steps} steps of {given.batch} images", flush=True)
    rows = []
    for name, kept in KEPT.items():
        found = [held_out_loss(kept, seed, given.steps, given.batch) for seed in given.seeds]
        rows.append([name, *(f"{loss:.4f}" for loss in found), f"{statistics.mean(found):.4f}"])
        print(rows[-1], flush=True)
    print_table(["kept in bfloat16", *(f"seed {seed}" for seed in given.seeds), "mean"], rows)


if __name__ == "__main__":
    main()
