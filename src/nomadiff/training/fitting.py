"""A small training loop for what is not a denoiser of data: discriminators, and students of another denoiser.

Like the large one (:mod:`nomadiff.training.loop`) it can be killed at any moment: everything random in a step is a
function of (seed, rank, images seen), so its state is weights, averages and Adam's moments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar
from nomadiff.seeding import mixed_seed, own_randomness
from nomadiff.training.ema import ModuleEMA
from nomadiff.training.state import load_state, save_state

__all__ = ["Fitting", "fit"]

M = TypeVar("M", bound=nn.Module)
_LOOKED_AT_EVERY = 16  # steps: whether the loss is finite


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How such a module is trained; lengths in images seen.

    Attributes:
        budget: images to see.
        batch: images a step.
        learning_rate: Adam's, constant.
        ema_half_life: of the moving average, which is what is returned; at most 5 % of the images seen.
        save_every: images between states to resume from.
        seed: seed of data order and noise.
    """

    budget: int
    batch: int = 128
    learning_rate: float = 1e-3
    ema_half_life: int = 50_000
    save_every: int = 25_000
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.budget, self.batch, self.save_every) < 1 or not self.learning_rate > 0 or self.ema_half_life < 0:
            raise UsageError("budget, batch and save_every must be at least 1, the learning rate positive")


def fit(
    module: M,
    loss: Callable[[int, torch.Generator], Tensor],
    options: Fitting,
    state: Path,
    *,
    device: torch.device,
    description: str,
    processes: Processes | None = None,
) -> M:
    """Minimise a loss.

    Args:
        module: what to train; it is trained in place.
        loss: mean loss of the batch at a position of the data, ``loss(images_seen, generator)``; the generator is on
            ``device`` and is seeded for the step. Of several processes each computes that of its share of the batch,
            which is as large as the others'.
        options: how.
        state: file that an interrupted training continues from; the caller deletes it once the result is stored.
        device: the module's device.
        description: words for the progress bar.
        processes: who trains it together; None for this one alone.

    Returns:
        The averaged module, in evaluation mode.

    Raises:
        NomadiffError: the loss is not finite any more.
        DataError: the state is damaged.
    """
    group = processes or Processes(0, 1, device)
    average = ModuleEMA(module, options.ema_half_life, 0.05)
    optimizer = torch.optim.Adam(module.parameters(), lr=options.learning_rate, fused=device.type != "mps")
    generator = torch.Generator(device)
    total = torch.zeros((), device=device)
    seen = 0
    continued = state.exists()
    group.barrier()  # every process has looked before the main one writes
    if continued:
        try:
            seen = load_state(state, module, {"ema": average.module}, optimizer)["images_seen"]
        except DataError as error:
            raise DataError(f"{error}: delete it to begin again") from error
    end = -(-options.budget // options.batch) * options.batch
    module.train()
    shown = progress_bar(description, total=end, done=seen, show=group.is_main)
    with own_randomness(device), shown as advance:
        while seen < end:
            place = (seen, group.rank) if group.rank else (seen,)
            generator.manual_seed(mixed_seed(options.seed, 1, *place))
            torch.manual_seed(mixed_seed(options.seed, 2, *place))  # dropout's: the global generator, its own stream
            value = loss(seen, generator)
            total += value.detach()
            value.backward()
            if group.count > 1:
                for parameter in module.parameters():
                    if parameter.grad is not None:
                        parameter.grad = group.total(parameter.grad) / group.count
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update(seen, options.batch)
            before, seen = seen, seen + options.batch
            advance(options.batch)
            saves = seen // options.save_every > before // options.save_every and seen < end
            if saves or seen == end or seen // options.batch % _LOOKED_AT_EVERY == 0:  # each look waits for the device
                if not bool(torch.isfinite(group.total(total))):
                    told = f"{description}: the loss is not finite after at most {seen:,} images; use a lower rate"
                    raise NomadiffError(told)
                total.zero_()
            if saves and group.is_main:
                save_state(state, module, {"ema": average.module}, optimizer, seen)
    return average.module
