"""What tests of methods share."""

import pytest


class Stop(KeyboardInterrupt):
    """The interruption that :func:`stop_after` makes."""


@pytest.fixture(scope="session")
def stop_after():
    """Makes a function interrupt the program right after so many of its calls."""

    def patch(monkeypatch, owner, name, calls):
        original, count = getattr(owner, name), [0]

        def counted(*args, **kwargs):
            result = original(*args, **kwargs)
            count[0] += 1
            if count[0] == calls:
                raise Stop
            return result

        monkeypatch.setattr(owner, name, counted)

    return patch
