"""The hidden layer of one sample as a single value: 64 float32 lanes that LLVM keeps in vector registers.

Numba vectorises loops over arrays, but it must assume that two arrays may overlap, and it writes every partial sum back
to memory. A matrix product then runs at a third of what the processor can do. Here a row of 64 numbers is a value of
its own type: sums stay in registers, and normalisation and rectifier are done before the row is ever stored. LLVM
splits the 64 lanes into whatever the processor has (four 512-bit registers, eight of 256 bits, sixteen of 128).

Everything in this module can be called from ``numba.njit`` functions only.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model

__all__ = [
    "WIDTH",
    "add",
    "divide",
    "fill",
    "load",
    "multiply",
    "multiply_add",
    "not_tiny",
    "single",
    "square_root",
    "store",
    "subtract",
    "total",
    "where_positive",
]

WIDTH = 64
"""Lanes of a row, the width of the hidden layers."""

# An intrinsic's first argument is numba's own, so its signature here is not the one its callers see.
intrinsic: Any = _intrinsic

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, WIDTH)
_MASK = ir.VectorType(ir.IntType(32), WIDTH)


class _RowType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"Row({WIDTH} x float32)")


_ROW = _RowType()


@register_model(_RowType)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager, row_type) -> None:
        super().__init__(manager, row_type, _VECTOR)


def _address(context, builder, array_type, array, offset):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _VECTOR.as_pointer())


def _splat(builder, scalar):
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_MASK, None))


@intrinsic
def load(typing, array, offset):
    """The 64 numbers of a flat float32 array that begin at ``offset``."""

    def generate(context, builder, signature, arguments):
        # align=4: a row may begin at any float, not only at multiples of the register's size
        return builder.load(_address(context, builder, signature.args[0], *arguments), align=4)

    return _ROW(array, types.intp), generate


@intrinsic
def single(typing, array, offset):
    """One number of a flat float32 array.

    Unlike ``array[offset]`` it does not check for a negative ``offset``, which costs time in the innermost loop.
    """

    def generate(context, builder, signature, arguments):
        array, offset = arguments
        data = context.make_array(signature.args[0])(context, builder, array).data
        return builder.load(builder.gep(data, [offset]))

    return types.float32(array, types.intp), generate


@intrinsic
def store(typing, array, offset, row):
    """Write ``row`` to a flat float32 array from ``offset`` on."""

    def generate(context, builder, signature, arguments):
        array, offset, row = arguments
        builder.store(row, _address(context, builder, signature.args[0], array, offset), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _ROW), generate


@intrinsic
def fill(typing, scalar):
    """A row with ``scalar`` (float32) in every lane."""

    def generate(context, builder, signature, arguments):
        return _splat(builder, arguments[0])

    return _ROW(types.float32), generate


@intrinsic
def multiply_add(typing, scalar, row, addend):
    """``scalar * row + addend`` with one rounding; ``scalar`` is float32, the others are rows."""

    def generate(context, builder, signature, arguments):
        scalar, row, addend = arguments
        function_type = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.fma.v{WIDTH}f32")
        return builder.call(function, [_splat(builder, scalar), row, addend])

    return _ROW(types.float32, _ROW, _ROW), generate


def _lane_by_lane(instruction: str):
    @intrinsic
    def operation(typing, left, right):
        def generate(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments, flags=("fast",))

        return _ROW(_ROW, _ROW), generate

    return operation


add = _lane_by_lane("fadd")
subtract = _lane_by_lane("fsub")
multiply = _lane_by_lane("fmul")
divide = _lane_by_lane("fdiv")


@intrinsic
def square_root(typing, row):
    """The square root of every lane."""

    def generate(context, builder, signature, arguments):
        function_type = ir.FunctionType(_VECTOR, [_VECTOR])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.sqrt.v{WIDTH}f32")
        return builder.call(function, arguments)

    return _ROW(_ROW), generate


@intrinsic
def total(typing, row):
    """The sum of the 64 lanes (float32), added in whatever order is fastest."""

    def generate(context, builder, signature, arguments):
        function_type = ir.FunctionType(_FLOAT, [_FLOAT, _VECTOR])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.vector.reduce.fadd.v{WIDTH}f32")
        return builder.call(function, [ir.Constant(_FLOAT, 0.0), arguments[0]], fastmath=("fast",))

    return types.float32(_ROW), generate


@intrinsic
def not_tiny(typing, row):
    """``row`` with 0 for everything below 1e-30 in size: on many processors arithmetic on float32 numbers below 1e-38
    ("subnormal") takes a hundred times as long."""

    def generate(context, builder, signature, arguments):
        (row,) = arguments
        function_type = ir.FunctionType(_VECTOR, [_VECTOR])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.fabs.v{WIDTH}f32")
        size = builder.call(function, [row])
        limit = ir.Constant(_VECTOR, [ir.Constant(_FLOAT, 1e-30)] * WIDTH)
        return builder.select(builder.fcmp_ordered(">", size, limit), row, ir.Constant(_VECTOR, None))

    return _ROW(_ROW), generate


@intrinsic
def where_positive(typing, gate, row):
    """``row`` in the lanes where ``gate`` is positive, 0 in the others; ``where_positive(x, x)`` is the rectifier."""

    def generate(context, builder, signature, arguments):
        gate, row = arguments
        zero = ir.Constant(_VECTOR, None)
        return builder.select(builder.fcmp_ordered(">", gate, zero), row, zero)

    return _ROW(_ROW, _ROW), generate
