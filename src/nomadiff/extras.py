"""How to install what an extra needs, on this machine."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlparse

__all__ = ["install_command"]


def install_command(extra: str) -> str:
    """The command that installs an extra of nomadiff into the Python that runs.

    nomadiff is on no package index: it is installed from its checkout, which pip wrote down. Where it did not, the
    command is for the checkout's folder.

    Args:
        extra: its name in ``pyproject.toml``, such as "loops".
    """
    try:
        noted = json.loads(distribution("nomadiff").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        noted = {}
    address = urlparse(str(noted.get("url", "")))
    checkout = Path(unquote(address.path))
    if address.scheme == "file" and (checkout / "pyproject.toml").is_file():
        return f"{sys.executable} -m pip install '{checkout}[{extra}]'"
    return f"{sys.executable} -m pip install '.[{extra}]' in nomadiff's checkout"
