"""Drawing a sample set: which solver, how many steps, and noise that belongs to each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from nomadiff.denoiser import BoundDenoiser, Denoiser
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.plain import from_plain
from nomadiff.sampling.noise_levels import karras_levels
from nomadiff.sampling.solvers import SOLVERS, Churn, Solver
from nomadiff.seeding import SampleNoise

__all__ = ["SamplerConfig", "draw", "drawn_classes", "to_uint8"]

_MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample: EDM's settings unless changed (18 Heun steps = NFE 35, the papers' CIFAR-10 setting).

    Attributes:
        solver: "heun", "euler", "ddpm", or a function of your own, also by name (``module:qualname``); kept as a name.
        steps: number of steps.
        sigma_min, sigma_max, rho: noise levels, see :func:`~nomadiff.sampling.noise_levels.karras_levels`.
        churn: stochastic churn, off by default.
    """

    solver: Solver | str = "heun"
    steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    churn: Churn = field(default_factory=Churn)

    def __post_init__(self) -> None:
        object.__setattr__(self, "solver", SOLVERS.name_of(self.solver))
        if self.steps > _MOST_STEPS:
            raise UsageError(f"{self.steps:,} solver steps are more than {_MOST_STEPS:,}")
        self.levels()

    def levels(self) -> Tensor:
        """The noise levels, float64 ``(steps + 1,)``."""
        return karras_levels(self.steps, self.sigma_min, self.sigma_max, self.rho)

    def called_levels(self) -> list[float]:
        """The noise level of every call of the denoiser in one sampling run, churn counted.

        The calls of a solver of your own are counted: it runs once, on one image of zeros.

        Raises:
            UsageError: your solver fails at that.
        """
        if self.solver not in ("heun", "euler", "ddpm"):
            return self._counted_levels()
        called = []
        for sigma, following in pairwise(self.levels().tolist()):
            called.append(sigma * (1 + self.churn.gamma(sigma, self.steps)))
            if self.solver == "heun" and following > 0:
                called.append(following)
        return called

    def _counted_levels(self) -> list[float]:
        called = []

        def note(x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
            called.append(float(torch.as_tensor(sigma).flatten()[0]))
            return torch.zeros_like(x)

        levels = self.levels()
        x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
        try:
            with torch.no_grad():
                SOLVERS.find(self.solver)(note, x, levels, SampleNoise(0, [0]), self.churn)
        except Exception as error:
            raise UsageError(f"solver {self.solver} fails ({type(error).__name__}: {error})") from error
        return called

    @property
    def nfe(self) -> int:
        """Calls of the denoiser per sample."""
        if self.solver in ("euler", "ddpm"):
            return self.steps
        return 2 * self.steps - 1 if self.solver == "heun" else len(self.called_levels())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SamplerConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: a field is unknown or of the wrong kind.
        """
        return from_plain(cls, values, "sampler")


@torch.no_grad()
def draw(
    denoiser: Denoiser,
    shape: Sequence[int],
    indices: Sequence[int],
    *,
    seed: int,
    config: SamplerConfig | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    class_weights: Sequence[int] = (),
    noise_stream: Callable[[int, Sequence[int]], Any] = SampleNoise,
) -> Iterator[Tensor]:
    """Draw samples ``indices`` of the set with this seed, a batch at a time.

    Sample ``i`` depends on ``(seed, i)``: latent first, then the class, then the solver's noise, all from its own
    stream. Batches of another size change it by float32 rounding at most (matrix kernels choose their summation order
    by shape), not by its noise.

    Args:
        denoiser: ``D(x, sigma)`` with its source bound; with ``class_weights`` it gets ``class_label``, int64 ``(b,)``
            on ``device``.
        shape: shape of one sample, ``(C, H, W)``.
        indices: which samples of the set.
        seed: seed of the set.
        config: solver and noise levels.
        batch_size: samples solved together.
        device: where to solve. The solution is carried in float64 (float32 where the device has none).
        class_weights: how often each class of a class-conditional model is drawn, relative to the others, whole
            numbers; empty for other models.
        noise_stream: makes the noise of a batch from ``(seed, indices)``.

    Yields:
        float32 ``(b, C, H, W)`` on ``device``, in the order of ``indices``.

    Raises:
        UsageError: a solver of your own changes the shape.
        NomadiffError: a sample is not finite.
    """
    config = config or SamplerConfig()
    device = torch.device(device)
    dtype = torch.float32 if device.type == "mps" else torch.float64
    levels = config.levels()
    solver = SOLVERS.find(config.solver)
    for start in range(0, len(indices), batch_size):
        chunk = indices[start : start + batch_size]
        noise = noise_stream(seed, chunk)
        x = noise.normal(tuple(shape)).to(device, dtype) * levels[0].item()
        bound: Denoiser = denoiser
        if class_weights:
            labels = drawn_classes(noise, class_weights, len(chunk)).to(device)
            bound = BoundDenoiser(denoiser, class_label=labels)
        drawn = solver(bound, x, levels, noise, config.churn).float()
        if drawn.shape != x.shape:
            raise UsageError(f"solver {config.solver} made {tuple(drawn.shape)} of noise {tuple(x.shape)}")
        if not bool(torch.isfinite(drawn).all()):
            raise NomadiffError(
                "what the model draws is not finite (NaN or infinity): its weights are damaged, or its guidance weight "
                "is far too large"
            )
        yield drawn


def drawn_classes(noise: Any, weights: Sequence[int], count: int) -> Tensor:
    """The class of each sample, from its own stream: int64 ``(count,)`` on the CPU.

    Args:
        noise: noise of ``count`` samples, see :class:`~nomadiff.seeding.SampleNoise`; left alone if one class only can
            be drawn.
        weights: how often each class is drawn, relative to the others: whole numbers, not all 0.
        count: number of samples.
    """
    possible = [number for number, weight in enumerate(weights) if weight]
    if len(possible) == 1:
        return torch.full((count,), possible[0])
    ends = torch.tensor(list(accumulate(weights)))
    return torch.searchsorted(ends, noise.integers(int(ends[-1])), right=True)


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8, EDM's rule: ``(x * 127.5 + 128).clip(0, 255)`` cut to an integer."""
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)
