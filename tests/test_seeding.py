"""Randomness is a function of (seed, index), never of history, batch or order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadiff.errors import UsageError
from nomadiff.seeding import EDMNoise, SampleNoise, mixed_seed

seeds = st.integers(0, 2**64 - 1)


def draw(noise: SampleNoise | EDMNoise) -> list[torch.Tensor]:
    """Several draws in the order a solver makes them: later draws must not depend on the batch either."""
    return [noise.normal((3, 4, 4)), noise.integers(10), noise.normal((5,))]


@given(seeds, st.lists(st.integers(0, 2**63), min_size=1, max_size=8, unique=True), st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_a_sample_is_the_same_whatever_the_batch(seed: int, indices: list[int], size: int) -> None:
    together = draw(SampleNoise(seed, indices))
    batches = [draw(SampleNoise(seed, indices[start : start + size])) for start in range(0, len(indices), size)]
    for whole, parts in zip(together, zip(*batches)):
        assert torch.equal(whole, torch.cat(parts))
    backwards = draw(SampleNoise(seed, np.array(indices[::-1], dtype=object)))
    assert all(torch.equal(whole.flip(0), other) for whole, other in zip(together, backwards))


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (7, 3), (2**63, 2**63), (2**64 - 1, 2**40)])
def test_a_stream_is_numpys_philox_with_its_key(seed: int, index: int) -> None:
    noise = SampleNoise(seed, [index])
    stream = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    for shape in ((3, 8, 8), (5,), (1, 2)):
        assert np.array_equal(noise.normal(shape)[0], stream.standard_normal(shape, dtype=np.float32))
        assert int(noise.integers(1000)) == int(stream.integers(1000))


@pytest.mark.parametrize(("count", "shape"), [(40, (3, 64, 64)), (3, (3, 256, 256)), (1, (3, 512, 512))])
def test_threads_do_not_change_the_noise(count: int, shape: tuple[int, ...]) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 5):
            torch.set_num_threads(threads)
            noise = SampleNoise(1, range(count))
            found.append([noise.normal(shape), noise.normal(shape), noise.integers(10)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*found))


def test_seeds_and_indices_give_unrelated_standard_normal_noise() -> None:
    noise = SampleNoise(3, range(200)).normal((500,))
    assert noise.dtype == torch.float32 and noise.shape == (200, 500)
    assert abs(noise.mean().item()) < 0.015 and abs(noise.std().item() - 1) < 0.01
    rows = torch.cat([noise[:20], SampleNoise(4, range(20)).normal((500,))])
    correlation = torch.corrcoef(rows).fill_diagonal_(0)
    assert correlation.abs().max() < 0.25, "(3, 1) and (4, 0) are not neighbours"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", [0, 2**53, 2**63, 2**64 - 2])
def test_seeds_next_to_each_other_differ_however_large(seed: int) -> None:
    assert not torch.equal(SampleNoise(seed, [0]).normal((8,)), SampleNoise(seed + 1, [0]).normal((8,)))


def test_draws_of_a_stream_go_on_and_do_not_repeat() -> None:
    noise = SampleNoise(0, [0])
    first, second = noise.normal((8,)), noise.normal((8,))
    assert not torch.equal(first, second)
    assert torch.equal(SampleNoise(0, [0]).normal((8,)), first)


def test_the_global_generators_are_neither_used_nor_touched() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  the old global state is what must stay untouched
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = draw(SampleNoise(1, [2])), draw(EDMNoise([2]))
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    torch.manual_seed(1)
    second = draw(SampleNoise(1, [2])), draw(EDMNoise([2]))
    assert all(torch.equal(a, b) for left, right in zip(first, second) for a, b in zip(left, right))


def test_integers_are_uniform_in_range() -> None:
    labels = SampleNoise(5, range(3000)).integers(10)
    assert labels.dtype == torch.int64 and labels.shape == (3000,)
    counts = torch.bincount(labels, minlength=10)
    assert counts.shape == (10,) and counts.min() > 230 and counts.max() < 370


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32 + 7])
def test_edm_noise_is_a_torch_generator_a_sample(seed: int) -> None:
    noise = EDMNoise([seed, 1])
    drawn = noise.normal((3, 8, 8)), noise.integers(10), noise.normal((3, 8, 8))
    generator = torch.Generator().manual_seed(seed % 2**32)
    assert torch.equal(drawn[0][0], torch.randn(3, 8, 8, generator=generator))
    assert drawn[1][0] == torch.randint(10, (), generator=generator)
    assert torch.equal(drawn[2][0], torch.randn(3, 8, 8, generator=generator))
    assert torch.equal(EDMNoise([1]).normal((3, 8, 8))[0], drawn[0][1]), "and does not depend on its neighbours"


def test_mixed_seeds_differ_for_different_tuples() -> None:
    tuples = (
        [(a, b) for a in range(20) for b in range(20)] + [(a,) for a in range(20)] + [(0, 0, 0), (2**40, 1), (2**63,)]
    )
    tuples += [(5, 0, 0), (2**32, 0), (0, 2**32), (1, 2**32 + 1)]
    mixed = [mixed_seed(*parts) for parts in tuples]
    assert len(set(mixed)) == len(set(tuples))
    assert all(0 <= value < 2**63 for value in mixed)
    assert mixed == [mixed_seed(*parts) for parts in tuples]
    bits = np.array([[value >> bit & 1 for bit in range(63)] for value in mixed])
    assert bits.mean(axis=0).min() > 0.35 and bits.mean(axis=0).max() < 0.65, "every bit of the seed is used"


@pytest.mark.parametrize("seed", [-1, 1 << 64, -(1 << 70)])
def test_what_is_no_seed_is_told(seed: int) -> None:
    for call in (lambda: SampleNoise(seed, [0]), lambda: mixed_seed(1, seed)):
        with pytest.raises(UsageError, match="a seed must be a whole number from 0"):
            call()
