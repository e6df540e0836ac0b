"""The small training loop goes on from its state and from no other."""

import pytest
import torch
from torch import nn

from nomadiff.errors import DataError, NomadiffError
from nomadiff.training.fitting import Fitting, fit
from nomadiff.training.run_folder import load_tensors, save_tensors


def fitted(state, budget=64, stop_at=None):
    module = nn.Linear(3, 2)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)

    def loss(seen, generator):
        if seen == stop_at:
            raise KeyboardInterrupt
        return (module(torch.randn(8, 3, generator=generator)) ** 2).mean()

    options = Fitting(budget=budget, batch=8, save_every=16)
    return fit(module, loss, options, state, device=torch.device("cpu"), description="fitting").state_dict()


def test_killed_and_continued_is_the_unbroken_fit(tmp_path):
    state = tmp_path / "state.safetensors"
    whole = fitted(tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        fitted(state, stop_at=40)
    assert all(torch.equal(value, whole[name]) for name, value in fitted(state).items())


@pytest.mark.parametrize(
    "changed", [{"adam.0.exp_avg": torch.zeros(1)}, {"ema.weight": torch.zeros(2)}, {"x": torch.zeros(1)}]
)
def test_another_state_is_refused(tmp_path, changed):
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted(state, stop_at=40)
    tensors, metadata = load_tensors(state)
    save_tensors(state, {**tensors, **changed}, metadata)
    with pytest.raises(DataError, match=r"not the state of this training \(.*\): delete it to begin again"):
        fitted(state)


@pytest.mark.parametrize(("value", "at", "told"), [("nan", 8, 16), ("inf", 0, 16), ("nan", 56, 64)])
def test_a_loss_that_is_not_finite_is_noticed_before_a_state_is_written(tmp_path, value, at, told):
    """It is looked at now and then only, since every look waits for the device."""
    module, state = nn.Linear(3, 2), tmp_path / "state.safetensors"

    def loss(seen, generator):
        return module(torch.ones(8, 3)).mean() * (float(value) if seen == at else 1.0)

    options = Fitting(budget=64, batch=8, save_every=16)
    with pytest.raises(NomadiffError, match=f"not finite after at most {told} images"):
        fit(module, loss, options, state, device=torch.device("cpu"), description="fitting")
    if state.exists():
        assert all(torch.isfinite(tensor).all() for tensor in load_tensors(state)[0].values())
