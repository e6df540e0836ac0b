"""The stream of positions: exact shares, exact epochs, no history."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.data.interleave import Interleave, ShuffledEpochs

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=4)


def shares_of(sizes):
    return [Fraction(size, sum(sizes)) for size in sizes]


def reference(shares, stop):
    """The definition, one position at a time in exact arithmetic."""
    placed = []
    for position in range(stop):
        left, source, rest = position, 0, Fraction(1)
        while True:
            share = shares[source] / rest
            before = left * share // 1
            if (left + 1) * share // 1 > before:
                placed.append((source, int(before)))
                break
            left, rest, source = int(left - before), rest - shares[source], source + 1
    return placed


@given(SIZES)
def test_it_is_the_definition(sizes):
    source, ordinal = Interleave(shares_of(sizes)).place(np.arange(150))
    assert list(zip(source.tolist(), ordinal.tolist())) == reference(shares_of(sizes), 150)


@given(SIZES, st.integers(0, 10**12))
def test_every_window_of_one_period_holds_every_image_once(sizes, start):
    """With shares by size the period is the total: each source then delivers exactly its size, in order."""
    total = sum(sizes)
    source, ordinal = Interleave(shares_of(sizes)).place(np.arange(start * total, (start + 1) * total))
    for index, size in enumerate(sizes):
        assert ordinal[source == index].tolist() == list(range(start * size, (start + 1) * size))


@given(st.fractions(Fraction(1, 10**6), 1 - Fraction(1, 10**6), max_denominator=10**6), st.integers(0, 2**40))
def test_two_sources_are_never_off_by_one(share, start):
    """Before position g, source 0 was used floor(g f) times, exactly, even far out where floats fail."""
    positions = np.arange(start, start + 300)
    source, ordinal = Interleave([share, 1 - share]).place(positions)
    for position, index, count in zip(positions.tolist(), source.tolist(), ordinal.tolist()):
        used = position * share.numerator // share.denominator
        assert count == (used if index == 0 else position - used)


def test_shares_that_floats_cannot_hold():
    source, _ = Interleave([Fraction(1, 3)] * 3).place(np.arange(30_000))
    assert np.bincount(source).tolist() == [10_000] * 3
    source, _ = Interleave([Fraction(1)]).place(np.arange(5))
    assert source.tolist() == [0] * 5


@given(st.integers(1, 40), st.integers(0, 2**32), st.integers(0, 500), st.integers(1, 100))
def test_epochs_use_every_image_once_wherever_one_enters(count, seed, start, length):
    order = ShuffledEpochs(count, stream=1)
    whole = order.indices(np.arange(10 * count), seed).reshape(10, count)
    assert (np.sort(whole, axis=1) == np.arange(count)).all()
    fresh = ShuffledEpochs(count, stream=1)
    there = fresh.indices(np.arange(start, start + length), seed)
    known = order.indices(np.arange(start + length), seed)[start:]
    np.testing.assert_array_equal(there, known)


def test_epochs_and_streams_differ():
    orders = [
        *ShuffledEpochs(50, 1).indices(np.arange(100), seed=0).reshape(2, 50).tolist(),
        ShuffledEpochs(50, 2).indices(np.arange(50), seed=0).tolist(),
        ShuffledEpochs(50, 1).indices(np.arange(50), seed=1).tolist(),
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_a_long_run_keeps_two_permutations_a_source():
    order = ShuffledEpochs(5, 0)
    order.indices(np.arange(500), 0)
    assert len(order._recent) == 2


def test_gaps_between_ordinals_are_allowed():
    order = ShuffledEpochs(5, 0)
    np.testing.assert_array_equal(
        order.indices(np.array([1, 7, 8, 31]), 3), order.indices(np.arange(32), 3)[[1, 7, 8, 31]]
    )
    assert order.indices(np.arange(0), 3).shape == (0,)
