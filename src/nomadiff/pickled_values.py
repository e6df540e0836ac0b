"""The plain part of the closed table of :mod:`nomadiff.safe_pickle`: dictionaries, sets of names, numpy's arrays.

An array is made from checked bytes: a dtype of plain numbers and a shape that its bytes fill. numpy's own functions for
pickles are never called: they follow pointers that a file may choose.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nomadiff.safe_pickle import Build, Built, Unfit

__all__ = ["Array", "PlainValues"]

_MOST_DIMENSIONS = 8
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class _Dtype(Built):
    """A numpy dtype of numbers; its byte order is part of its state."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def value(self) -> np.dtype[Any]:
        order = self.state[1] if type(self.state) is tuple and len(self.state) > 1 else None
        return np.dtype((order if type(order) is str and order in ("<", ">") else "=") + self.text)


class Array(Built):
    """A numpy array; :attr:`value` is there once the pickle has given its state."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        super().__init__()
        self.value: np.ndarray[Any, Any] | None = None

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise Unfit("damaged: an array without a state")
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran is True else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """An array that looks at ``data``, if that is exactly what dtype and shape say."""
    if type(data) is not bytes or type(dtype) is not _Dtype or type(order) is not str or order not in ("C", "F"):
        raise Unfit("damaged: an array that is not made of bytes")
    if type(shape) is not tuple or len(shape) > _MOST_DIMENSIONS:
        raise Unfit("damaged: an array without a shape")
    if any(type(length) is not int or length < 0 for length in shape):
        raise Unfit("damaged: an array with a size that is no number")
    kind = dtype.value()
    if math.prod(shape) * kind.itemsize != len(data):
        raise Unfit(f"damaged: an array of {math.prod(shape):,} numbers in {len(data):,} bytes")
    return np.ndarray(shape, kind, data, order="F" if order == "F" else "C")


class PlainValues:
    """The functions behind these names, and how many bytes they may still make.

    What a file holds is made at most three times on its way (a text into bytes, bytes into a storage, a storage into
    numbers), so three times its size is enough; without this bound a small file could have one value made again and
    again until the memory is full.

    Args:
        where: name of the file, for messages.
        size: its length in bytes.
    """

    def __init__(self, where: str, size: int) -> None:
        self._where = where
        self._left = 3 * size

    def table(self) -> dict[tuple[str, str], Build]:
        """The closed table."""
        table: dict[tuple[str, str], Build] = {
            ("dnnlib.util", "EasyDict"): self.dictionary,
            ("collections", "OrderedDict"): self.dictionary,
            ("numpy", "dtype"): self.dtype,
            ("numpy", "ndarray"): self.only_a_type,
            ("_codecs", "encode"): self.encoded,
        }
        for package in ("numpy.core", "numpy._core"):
            table[f"{package}.multiarray", "scalar"] = self.scalar
            table[f"{package}.multiarray", "_reconstruct"] = self.array
            table[f"{package}.numeric", "_frombuffer"] = self.array_of_bytes
        for package in ("builtins", "__builtin__"):
            table[package, "set"] = self.set_of_names
            table[package, "bytes"] = self.no_bytes
        return table

    def spend(self, size: int) -> None:
        """Count ``size`` bytes that are about to be made.

        Raises:
            Unfit: more than the file holds.
        """
        self._left -= size
        if self._left < 0:
            raise Unfit("refused: it would unfold to more than its size")

    def dictionary(self) -> dict[Any, Any]:
        return {}

    def only_a_type(self, *_: Any) -> Any:
        raise Unfit("refused: calls a name that only stands for a type")

    def set_of_names(self, values: list[Any]) -> set[str]:
        if type(values) is not list or not all(type(value) is str for value in values):
            raise Unfit("refused: a set of anything but names")
        self.spend(8 * len(values))
        return set(values)

    def encoded(self, text: str, encoding: str) -> bytes:
        """How pickles of protocol 2 write bytes."""
        if type(text) is not str or encoding != "latin1":
            raise Unfit("refused: a text in an encoding that pickles do not use")
        self.spend(len(text))
        return text.encode("latin1")

    def no_bytes(self) -> bytes:
        """How they write none."""
        return b""

    def dtype(self, text: str, *_: Any) -> _Dtype:
        if type(text) is not str or text not in _NUMBERS:
            raise Unfit("refused: a numpy array of anything but numbers")
        return _Dtype(text)

    def scalar(self, dtype: _Dtype, data: bytes) -> int | float | bool:
        return _array(data, dtype, (), "C").item()

    def array(self, *_: Any) -> Array:
        return Array()

    def array_of_bytes(self, data: Any, dtype: Any, shape: Any, order: Any) -> Array:
        """How pickles of protocol 5 write arrays."""
        made = Array()
        made.value = _array(data, dtype, shape, order)
        return made
