"""Train the digits classifier that ships with nomadiff, deterministically, and print its accuracy on unseen digits.

    python scripts/train_digits_classifier.py --out digits_classifier.safetensors

It sees the 1,000 digits of the pool and never the 797 of the reference: see ``nomadiff.metrics.detectors.digits`` for
why. The augmentation stays below half a pixel: a detector taught to ignore shifts could not see a generator's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from nomadiff.data.digits import read_digits
from nomadiff.files import atomic_path, sha256_of_file
from nomadiff.metrics.detectors.digits import DigitsClassifier


def jittered(x: torch.Tensor, amount: float) -> torch.Tensor:
    """Slightly turned, sheared, scaled and shifted copies of a batch: a random affine map near the identity each."""
    maps = torch.eye(2, 3).repeat(len(x), 1, 1)
    maps[:, :, :2] += amount * torch.randn(len(x), 2, 2)
    maps[:, :, 2] = amount / 2 * torch.randn(len(x), 2)
    grid = nn.functional.affine_grid(maps, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def train(images: torch.Tensor, classes: torch.Tensor, *, seed: int, epochs: int) -> DigitsClassifier:
    """Train with AdamW, jittered images, mixup, and a learning rate that falls to zero.

    Mixup (Zhang et al. 2018, coefficients uniform) makes the features of images that are no digits differ from those
    of digits, which is what a detector is for; with dropout instead, precision did not show blur and noise.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    network = DigitsClassifier()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.1)
    batch = 100
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(images) // batch))
    x = images.float() / 127.5 - 1
    target = nn.functional.one_hot(classes, 10).float()
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(batch):
            first, second = jittered(x[index], 0.1), target[index]
            share, partner = torch.rand(len(index)), torch.randperm(len(index))
            mixed = share[:, None, None, None] * first + (1 - share)[:, None, None, None] * first[partner]
            wanted = share[:, None] * second + (1 - share)[:, None] * second[partner]
            loss = nn.functional.cross_entropy(network.logits(network(mixed)), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracy(network: DigitsClassifier, images: torch.Tensor, classes: torch.Tensor) -> float:
    with torch.no_grad():
        predicted = network.logits(network(images.float() / 127.5 - 1)).argmax(1)
    return float((predicted == classes).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()
    pool, reference = read_digits("digits:pool"), read_digits("digits:reference")
    network = train(pool.images, pool.labels, seed=options.seed, epochs=options.epochs)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    with atomic_path(options.out) as temporary:
        save_file(tensors, temporary)
    print(f"accuracy on the pool (trained on):     {accuracy(network, pool.images, pool.labels):.4f}")
    print(f"accuracy on the reference (unseen):    {accuracy(network, reference.images, reference.labels):.4f}")
    print(f"{options.out}: {options.out.stat().st_size:,} bytes, SHA-256 {sha256_of_file(options.out)}")


if __name__ == "__main__":
    main()
