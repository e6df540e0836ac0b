"""Several small models trained as one: stacked weights and one batched kernel, against one model after another.

    python benchmarks/stacked.py                     # the arms of a comparison of digits, on a CPU
    python benchmarks/stacked.py --device cuda --models 8

Both compute the EDM loss and its gradients for the same networks, images and noise, in turns: `torch.func.vmap` over
the stacked weights, and a loop. Seconds are of the CPU, or of the GPU; above 1x, stacking is faster.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from dataclasses import replace

import torch
from measuring import Clock, Span, describe_machine, digits, print_table
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from nomadiff.networks.build import build_denoiser
from nomadiff.training.loss import edm_loss
from nomadiff.training.presets import PRESETS


def measure(name: str, models: int, batch: int, rounds: int, device: torch.device) -> tuple[float, float, float]:
    """Median seconds of a step of all models, stacked and in turn; and the largest difference of their gradients."""
    network = replace(PRESETS[name].network, dropout=0.0, augment_dim=0)
    each = [build_denoiser(network, sigma_data=0.5, sources=0, classes=0).to(device).train() for _ in range(models)]
    shape = (models, batch, network.channels, network.resolution, network.resolution)
    clean, sigma = torch.randn(shape, device=device), torch.rand(models, batch, device=device).add(0.1)
    noise = torch.randn(shape, device=device)
    frame = copy.deepcopy(each[0]).to("meta")

    def stacked_loss(weights: dict[str, Tensor], rest: dict[str, Tensor], *given: Tensor) -> Tensor:
        return edm_loss(lambda *x, **_: functional_call(frame, (weights, rest), x), *given).mean()

    weights, rest = stack_module_state(each)
    step = vmap(grad(stacked_loss), randomness="different")
    clock, stacked, in_turn = Clock(device), list[Span](), list[Span]()
    difference = 0.0
    for number in range(rounds + 1):
        with clock.span(stacked):
            gradients = step(weights, rest, clean, sigma, noise)
        with clock.span(in_turn):
            for model, *given in zip(each, clean, sigma, noise):
                model.zero_grad(set_to_none=True)
                edm_loss(model, *given).mean().backward()
        if number == 0:
            for index, model in enumerate(each):
                for key, weight in model.named_parameters():
                    assert weight.grad is not None
                    scale = float(weight.grad.abs().max()) or 1.0
                    difference = max(difference, float((gradients[key][index] - weight.grad).abs().max()) / scale)
    seconds = [statistics.median(span.busy for span in spans[1:]) for spans in (stacked, in_turn)]
    return seconds[0], seconds[1], difference


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["digits"])
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128, help="images of each model")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    print(describe_machine(device), flush=True)
    rows = []
    for name in given.presets:
        stacked, in_turn, difference = measure(name, given.models, given.batch, given.rounds, device)
        times = [digits(1000 * seconds) for seconds in (stacked, in_turn)]
        rows.append(
            [name, str(given.models), str(given.batch), *times, f"{in_turn / stacked:.2f}x", f"{difference:.0e}"]
        )
    print_table(["network", "models", "batch", "stacked, ms", "in turn, ms", "stacking", "gradients differ by"], rows)


if __name__ == "__main__":
    main()
