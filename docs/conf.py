"""Settings of the documentation site: ``make docs`` builds it into build/docs, every warning an error."""

from __future__ import annotations

import importlib
import inspect

import nomadiff

project = "nomadiff"
author = copyright = "the nomadiff authors"
version = release = nomadiff.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"nomadiff {release}"
exclude_patterns = ["images"]

myst_heading_anchors = 3  # links to headings as on GitHub
suppress_warnings = ["misc.highlighting_failure"]  # console sessions and diagrams are not source code

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": "Module,Exception,Generic,Protocol,tuple"}
autodoc_typehints = "signature"
napoleon_use_ivar = True  # "Attributes:" and the fields of a dataclass are not described twice

# Publishers that refuse robots, and addresses that stand for any address.
linkcheck_ignore = [r"https?://localhost.*", r"https://doi\.org/.*", r"https://openreview\.net/.*"]


def reference(name: str) -> str:
    """The directive for one public name."""
    value = getattr(nomadiff, name)
    if inspect.ismodule(value) and callable(value):  # a package that is called as the verb of its name
        return f"```{{eval-rst}}\n.. autofunction:: {value.__name__}.{name}.{name}\n```\n"
    if inspect.ismodule(value):
        kind = "automodule"
    elif inspect.isclass(value):
        kind = "autoclass"
    else:
        kind = "autofunction"
    if not callable(value) and not inspect.ismodule(value):  # autodata would show the docstring of its type
        return f"```{{eval-rst}}\n.. py:data:: nomadiff.{name}\n   :type: {type(value).__name__}\n```\n"
    return f"```{{eval-rst}}\n.. {kind}:: nomadiff.{name}\n```\n"


def public_names() -> str:
    """Every name of ``nomadiff.__all__``, in its order, grouped by the part of the package that defines it."""
    groups: dict[str, list[str]] = {}
    for name in nomadiff.__all__:
        value = getattr(nomadiff, name)
        home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) or "nomadiff"
        groups.setdefault(".".join(home.split(".")[:2]), []).append(name)
    text = ""
    for part, names in groups.items():
        about = (inspect.getdoc(importlib.import_module(part)) or "").split("\n\n")[0]
        text += f"## `{part}`\n\n{about}\n\n" + "\n".join(map(reference, names)) + "\n"
    return text


def fill_reference(app: object, page: str, source: list[str]) -> None:
    source[0] = source[0].replace("<!-- public names -->", public_names() if page == "reference" else "")


def setup(app: object) -> None:
    app.connect("source-read", fill_reference)  # type: ignore[attr-defined]
