"""Reading pickles without running anything in them.

A pickle is a program for a small stack machine; Python's own unpickler lets it call any function there is. The machine
here knows the instructions that a file of weights needs and calls nothing: a global name is a :class:`Reference`, a
value that cannot do anything, and whatever the program builds with it is made by the reader's own table, which holds
one plain function for each name it knows. A name outside the table, an instruction outside the set, a length beyond
the end of the file or a program that is too long ends the reading.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nomadiff.errors import DataError

__all__ = ["Build", "Built", "PickleReader", "Reference", "Unfit", "printable"]

Build = Callable[..., Any]

# far beyond the largest published network (EDM2-XXL: under 100,000), and read in seconds
MOST_INSTRUCTIONS = 2_000_000
LONGEST_INTEGER = 64  # bytes; torch's magic number has 10
MOST_ARGUMENTS = 8


@dataclass(frozen=True, slots=True)
class Reference:
    """A global name in a pickle, as a value: nothing is imported, nothing can be called."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def printable(value: Any, longest: int = 80) -> str:
    """A value of a file for a message: one line, no control characters, not long."""
    if type(value) in (list, tuple) and len(value) <= 8:
        text = f"[{', '.join(printable(item, 20) if type(item) not in (list, tuple) else '...' for item in value)}]"
    elif type(value) in (str, int, float, bool, type(None)):
        text = str(value)
    else:
        text = f"a {type(value).__name__}"
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class Unfit(Exception):
    """A table function's refusal; the reader adds the name of the file."""


class Built:
    """What a table function may return for an object that is filled after it is made; keeps what it is given.

    Attributes:
        state: what the pickle would have handed to the object's ``__setstate__``, or None.
    """

    __slots__ = ("state",)

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def set_state(self, state: Any) -> None:
        """Take the state the pickle gives."""
        self.state = state


class _Mark:
    """Marks the start of a group of values on the stack."""


_MARK = _Mark()


class PickleReader:
    """Reads one pickle after the other from ``data``.

    Args:
        data: the bytes; a memory map serves, only what is needed is copied.
        where: name of the file, for messages.
        table: for each ``(module, name)`` that may appear, a function from the arguments the pickle gives it to the
            value it stands for. The functions must be harmless for any arguments: they are the attacker's. They
            raise :class:`Unfit` to refuse.
        persistent: turns a persistent id (torch's storages) into a value; None refuses them.
        start: where in ``data`` to begin.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        where: str,
        table: Mapping[tuple[str, str], Build],
        persistent: Callable[[Any], Any] | None = None,
        start: int = 0,
    ) -> None:
        self.position = start
        self._data = memoryview(data)
        self._where = where
        self._table = table
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The next pickle's value; :attr:`position` is then behind it.

        Raises:
            DataError: the pickle is damaged, or needs something that is not in the table.
        """
        self._stack, self._memo = [], {}
        data = self._data
        if self._take(1) != b"\x80" or self._take(1)[0] not in (2, 3, 4, 5):
            raise self.refusal("not a pickle of protocol 2 to 5")
        try:
            for _ in range(MOST_INSTRUCTIONS):
                if self.position >= len(data):
                    raise self.refusal("damaged pickle (it has no end)")
                code = data[self.position]
                self.position += 1
                if code == 0x2E:  # STOP
                    value = self._stack.pop()
                    if self._stack or value is _MARK:
                        raise self.refusal("damaged pickle (values left over)")
                    return value
                instruction = _INSTRUCTIONS.get(code)
                if instruction is None:
                    raise self.refusal(f"refused: a file of weights has no need of the pickle instruction {code:#04x}")
                instruction(self)
        except DataError:
            raise
        except Unfit as error:
            raise self.refusal(str(error)) from error
        except Exception as error:  # a damaged program fails in many ways
            raise self.refusal(f"damaged pickle ({type(error).__name__}: {printable(str(error))})") from error
        raise self.refusal(f"refused: more than {MOST_INSTRUCTIONS:,} pickle instructions")

    def refusal(self, reason: str) -> DataError:
        """The error that ends the reading."""
        return DataError(f"{self._where}: {reason}")

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise self.refusal(f"damaged pickle: {count:,} bytes announced, {len(self._data) - self.position:,} left")
        taken = bytes(self._data[self.position : end])
        self.position = end
        return taken

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise self.refusal("damaged pickle (a value is missing)")
        return value

    def _pop_group(self) -> list[Any]:
        """The values above the last mark, which goes with them."""
        for start in range(len(self._stack) - 1, -1, -1):
            if self._stack[start] is _MARK:
                group = self._stack[start + 1 :]
                del self._stack[start:]
                return group
        raise self.refusal("damaged pickle (no mark)")

    def _line(self) -> str:
        rest = self._data[self.position : self.position + 256]
        length = bytes(rest).find(b"\n")
        if length < 0:
            raise self.refusal("damaged pickle (a name without an end)")
        text = self._take(length + 1)[:-1]
        return text.decode("utf-8")

    # the instructions; each is named after its opcode in the standard library's pickletools

    def _frame(self) -> None:
        length = self._number("<Q")
        if length > len(self._data) - self.position:
            raise self.refusal(f"damaged pickle: a frame of {length:,} bytes, {len(self._data) - self.position:,} left")

    def _long(self, length: int) -> None:
        if not 0 <= length <= LONGEST_INTEGER:
            raise self.refusal(f"refused: an integer of {length:,} bytes")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def _tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(values)))

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise self.refusal("refused: appends to something that is no list")
        target.extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(values) % 2:
            raise self.refusal("refused: sets items of something that is no dictionary")
        for key, value in zip(values[::2], values[1::2]):
            target[self._key(key)] = value

    def _add_items(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not set:
            raise self.refusal("refused: adds to something that is no set")
        target.update(map(self._key, values))

    def _key(self, key: Any) -> Any:
        # other keys are not needed, and a table of chosen large integers or nested tuples can be made very slow
        if type(key) not in (str, int, bool, type(None)) or (type(key) is int and abs(key) >= 1 << 60):
            raise self.refusal(f"refused: a dictionary key of type {type(key).__name__}")
        return key

    def _top(self) -> Any:
        return self._stack[-1]

    def _reference(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str or (module, name) not in self._table:
            shown = f"{printable(module)}.{printable(name)}"
            raise self.refusal(f"refused: it asks for {shown}, which a file of weights has no need of; nothing was run")
        self._push(Reference(module, name))

    def _global(self) -> None:
        module = self._line()
        self._reference(module, self._line())

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._reference(module, name)

    def _reduce(self) -> None:
        arguments, made = self._pop(), self._pop()
        if type(made) is not Reference or type(arguments) is not tuple or len(arguments) > MOST_ARGUMENTS:
            raise self.refusal("refused: calls something that is no name")
        self._push(self._table[made.module, made.name](*arguments))

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Built):
            target.set_state(state)
        elif type(target) is not dict:  # an OrderedDict's own attributes (torch's _metadata) mean nothing here
            raise self.refusal("refused: gives a state to something that has none")

    def _remember(self, index: int) -> None:
        self._memo[index] = self._top()

    def _recall(self, index: int) -> None:
        self._push(self._memo[index])

    def _persistent_id(self) -> None:
        if self._persistent is None:
            raise self.refusal("refused: a persistent id where none belongs")
        self._push(self._persistent(self._pop()))


_INSTRUCTIONS: dict[int, Callable[[PickleReader], None]] = {
    ord("\x95"): PickleReader._frame,
    ord("("): lambda reader: reader._push(_MARK),
    ord("N"): lambda reader: reader._push(None),
    ord("\x88"): lambda reader: reader._push(True),
    ord("\x89"): lambda reader: reader._push(False),
    ord("J"): lambda reader: reader._push(reader._number("<i")),
    ord("K"): lambda reader: reader._push(reader._number("<B")),
    ord("M"): lambda reader: reader._push(reader._number("<H")),
    ord("\x8a"): lambda reader: reader._long(reader._number("<B")),
    ord("\x8b"): lambda reader: reader._long(reader._number("<i")),
    ord("G"): lambda reader: reader._push(struct.unpack(">d", reader._take(8))[0]),
    ord("\x8c"): lambda reader: reader._push(reader._take(reader._number("<B")).decode("utf-8")),
    ord("X"): lambda reader: reader._push(reader._take(reader._number("<I")).decode("utf-8")),
    ord("\x8d"): lambda reader: reader._push(reader._take(reader._number("<Q")).decode("utf-8")),
    ord("C"): lambda reader: reader._push(reader._take(reader._number("<B"))),
    ord("B"): lambda reader: reader._push(reader._take(reader._number("<I"))),
    ord("\x8e"): lambda reader: reader._push(reader._take(reader._number("<Q"))),
    ord("\x96"): lambda reader: reader._push(reader._take(reader._number("<Q"))),  # a bytearray, read as bytes
    ord(")"): lambda reader: reader._push(()),
    ord("\x85"): lambda reader: reader._tuple(1),
    ord("\x86"): lambda reader: reader._tuple(2),
    ord("\x87"): lambda reader: reader._tuple(3),
    ord("t"): lambda reader: reader._push(tuple(reader._pop_group())),
    ord("]"): lambda reader: reader._push([]),
    ord("a"): lambda reader: reader._append([reader._pop()]),
    ord("e"): lambda reader: reader._append(reader._pop_group()),
    ord("}"): lambda reader: reader._push({}),
    ord("s"): lambda reader: reader._set_items([reader._pop(), reader._pop()][::-1]),
    ord("u"): lambda reader: reader._set_items(reader._pop_group()),
    ord("\x8f"): lambda reader: reader._push(set()),
    ord("\x90"): lambda reader: reader._add_items(reader._pop_group()),
    ord("c"): PickleReader._global,
    ord("\x93"): PickleReader._stack_global,
    ord("R"): PickleReader._reduce,
    ord("\x81"): PickleReader._reduce,  # NEWOBJ: the table makes no difference between a class and a function
    ord("b"): PickleReader._build,
    ord("q"): lambda reader: reader._remember(reader._number("<B")),
    ord("r"): lambda reader: reader._remember(reader._number("<I")),
    ord("\x94"): lambda reader: reader._remember(len(reader._memo)),
    ord("h"): lambda reader: reader._recall(reader._number("<B")),
    ord("j"): lambda reader: reader._recall(reader._number("<I")),
    ord("Q"): PickleReader._persistent_id,
}
