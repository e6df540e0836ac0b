"""SIMS inside diffusers: steer any pipeline away from its auxiliary.

Noise, velocity and flow predictions at one noise level are linear in the score, so SIMS' eq. 5 reads the same for all
of them: ``base + w (base - auxiliary)``. The auxiliary is a second network or, with one copy of the weights in memory,
a LoRA adapter of the base (:mod:`nomadiff.interop.lora`).

Modular pipelines ask a *guider* (:func:`sims_guider`); classic ones call their network alone, so there the network
itself is steered while a block runs (:func:`steered`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from nomadiff.errors import UsageError
from nomadiff.extras import install_command
from nomadiff.guidance.strength import check_guidance

__all__ = ["sims_guider", "steered"]

_HOOK = "nomadiff-sims"


def sims_guider(
    auxiliary: nn.Module | str,
    weight: float = 0.8,
    *,
    guidance_scale: float = 1.0,
    start: float = 0.0,
    stop: float = 1.0,
) -> Any:
    """A guider for modular pipelines: ``pipeline.update_components(guider=sims_guider(auxiliary))``.

    With classifier-free guidance beside it a step costs three calls: ``u + g (c - u) + w (c - a)``, where the auxiliary
    ``a`` sees the condition of ``c``. Guiders are marked experimental by diffusers (0.36 and later); this one is for a
    running program, its saved configuration names neither class nor auxiliary.

    Args:
        auxiliary: a network of the base's kind, or the name of an adapter of the base.
        weight: guidance weight w; 0 is the base.
        guidance_scale: classifier-free guidance g, 1 for none.
        start, stop: share of the steps between which the auxiliary acts.

    Returns:
        A ``diffusers.guiders.BaseGuidance``.

    Raises:
        UsageError: diffusers is absent or older than 0.36.
    """
    check_guidance(weight, None)
    check_guidance(guidance_scale, None)
    # by name: diffusers records positional arguments under wrong names where one is not recorded
    return _guider_class()(auxiliary=auxiliary, weight=weight, guidance_scale=guidance_scale, start=start, stop=stop)


@contextmanager
def steered(denoiser: nn.Module, auxiliary: nn.Module | str, weight: float = 0.8) -> Iterator[None]:
    """While inside, the network of a classic pipeline predicts ``base + w (base - auxiliary)``.

    ``with steered(pipeline.unet, auxiliary, 0.8): pipeline(...)``. A pipeline with classifier-free guidance calls its
    network on both conditions, and each is steered.

    Args:
        denoiser: the pipeline's ``unet`` or ``transformer``.
        auxiliary: a network of the same kind, or the name of an adapter of ``denoiser``.
        weight: guidance weight.

    Raises:
        UsageError: diffusers is absent or older than 0.36, or there is no such adapter.
    """
    check_guidance(weight, None)
    _diffusers()
    from diffusers.hooks import HookRegistry, ModelHook

    if isinstance(auxiliary, str):
        _require_adapter(denoiser, auxiliary)

    class Steer(ModelHook):
        def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            forward = self.fn_ref.original_forward
            if isinstance(auxiliary, str):
                with _without(module, auxiliary):
                    base = forward(*args, **kwargs)
                with _adapter(module, auxiliary):
                    other = forward(*args, **kwargs)
            else:
                base, other = forward(*args, **kwargs), auxiliary(*args, **kwargs)
            return _extrapolated(base, other, weight)

    registry = HookRegistry.check_if_exists_or_initialize(denoiser)
    registry.register_hook(Steer(), _HOOK)
    try:
        yield
    finally:
        registry.remove_hook(_HOOK, recurse=False)


def _extrapolated(base: Any, other: Any, weight: float) -> Any:
    """``base + w (base - other)`` of two outputs: a tensor, a tuple that begins with one, or diffusers' ``.sample``."""
    if isinstance(base, Tensor):
        return base + weight * (base - other)
    if isinstance(base, tuple):
        return (base[0] + weight * (base[0] - other[0]), *base[1:])
    base.sample = base.sample + weight * (base.sample - other.sample)
    return base


def _diffusers() -> None:
    try:
        from diffusers.guiders.guider_utils import BaseGuidance

        BaseGuidance.new  # noqa: B018 - came with 0.36
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"SIMS inside diffusers needs diffusers 0.36 or later: {install_command('diffusers')}"
        ) from error


def _adapters(denoiser: nn.Module) -> list[str]:
    """Names of the adapters that are on; a network's own list does not notice that all are switched off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = next((module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)), None)
    return [] if layer is None or layer.disable_adapters else list(layer.active_adapters)


def _require_adapter(denoiser: nn.Module, name: str) -> None:
    known = getattr(denoiser, "peft_config", {})
    if name not in known:
        raise UsageError(f"there is no adapter '{name}'; loaded: {', '.join(known) or 'none'}")


@contextmanager
def _adapter(denoiser: nn.Module, name: str) -> Iterator[None]:
    """Within, the adapter acts beside those that are on."""
    others = [active for active in _adapters(denoiser) if active != name]
    with _active(denoiser, [*others, name]):
        yield


@contextmanager
def _without(denoiser: nn.Module, name: str) -> Iterator[None]:
    """Within, the adapter does not act; those beside it do."""
    with _active(denoiser, [active for active in _adapters(denoiser) if active != name]):
        yield


@contextmanager
def _active(denoiser: Any, names: list[str]) -> Iterator[None]:
    before = _adapters(denoiser)
    _switch(denoiser, names)
    try:
        yield
    finally:
        _switch(denoiser, before)


def _switch(denoiser: Any, names: list[str]) -> None:
    if names:
        denoiser.enable_adapters()
        denoiser.set_adapter(names)
    else:
        denoiser.disable_adapters()


@lru_cache
def _guider_class() -> Any:
    _diffusers()
    from diffusers.configuration_utils import register_to_config
    from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
    from diffusers.hooks import HookRegistry, ModelHook

    class Reroute(ModelHook):
        """Replaces the forward pass of the pipeline's network."""

        def __init__(self, other: nn.Module) -> None:
            super().__init__()
            self.other = other

        def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self.other(*args, **kwargs)

    class SIMSGuidance(BaseGuidance):
        _input_predictions = ["pred_cond", "pred_uncond", "pred_auxiliary"]  # noqa: RUF012 - diffusers wants a list
        ignore_for_config = ["auxiliary"]  # noqa: RUF012

        @register_to_config
        def __init__(
            self,
            auxiliary: nn.Module | str,
            weight: float = 0.8,
            guidance_scale: float = 1.0,
            start: float = 0.0,
            stop: float = 1.0,
            enabled: bool = True,
        ) -> None:
            super().__init__(start, stop, enabled)
            self.auxiliary = auxiliary
            self.weight = weight
            self.guidance_scale = guidance_scale
            self._restore: Any = None

        def passes(self) -> list[str]:
            """The predictions of this step, in the order they are made."""
            uncond = ["pred_uncond"] if not math.isclose(self.guidance_scale, 1.0) else []
            return ["pred_cond", *uncond, *(["pred_auxiliary"] if self._acts() else [])]

        def _acts(self) -> bool:
            if not self._enabled or self.weight == 0:
                return False
            steps = self._num_inference_steps
            return steps is None or int(self._start * steps) <= self._step < int(self._stop * steps)

        @property
        def num_conditions(self) -> int:
            return len(self.passes())

        @property
        def is_conditional(self) -> bool:
            return self.passes()[self._count_prepared - 1] != "pred_uncond"

        def prepare_models(self, denoiser: nn.Module) -> None:
            self._count_prepared += 1
            if isinstance(self.auxiliary, str):
                _require_adapter(denoiser, self.auxiliary)
                other = self.passes()[self._count_prepared - 1] == "pred_auxiliary"
                self._restore = (_adapter if other else _without)(denoiser, self.auxiliary)
                self._restore.__enter__()
            elif self.passes()[self._count_prepared - 1] == "pred_auxiliary":
                registry = HookRegistry.check_if_exists_or_initialize(denoiser)
                registry.register_hook(Reroute(self.auxiliary), _HOOK)

        def cleanup_models(self, denoiser: nn.Module) -> None:
            if self._restore is not None:
                self._restore.__exit__(None, None, None)
                self._restore = None
            elif self.passes()[self._count_prepared - 1] == "pred_auxiliary":
                HookRegistry.check_if_exists_or_initialize(denoiser).remove_hook(_HOOK, recurse=False)

        def prepare_inputs(self, data: Any) -> Any:
            return [self._prepare_batch(data, int(name == "pred_uncond"), name) for name in self.passes()]

        def prepare_inputs_from_block_state(self, data: Any, input_fields: Any) -> Any:
            return [
                self._prepare_batch_from_block_state(input_fields, data, int(name == "pred_uncond"), name)
                for name in self.passes()
            ]

        def forward(
            self, pred_cond: Tensor, pred_uncond: Tensor | None = None, pred_auxiliary: Tensor | None = None
        ) -> Any:
            pred = pred_cond
            if pred_uncond is not None:
                pred = pred_uncond + self.guidance_scale * (pred_cond - pred_uncond)
            if pred_auxiliary is not None:
                pred = pred + self.weight * (pred_cond - pred_auxiliary)
            return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    return SIMSGuidance
