"""The command line: one file a verb. A verb parses, calls one public function and gives its Answer."""

from __future__ import annotations

import ast
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from inspect import BoundArguments
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomadiff.version import __version__

if TYPE_CHECKING:
    from cyclopts import App

__all__ = ["build_app", "main"]

_PLUGIN = (
    "--plugin MODULE imports a module of yours; its networks, presets, methods, solvers, detectors and classifiers are "
    "then named MODULE:NAME."
)
_HELP = f"""No-MAD diffusion: train diffusion models with synthetic data, without harm.

`nomadiff demo` shows all of it in minutes; `nomadiff VERB --help` has an example of each verb. `--config FILE`
reads a verb's options from TOML or YAML; every folder that a run writes holds the file that repeats it, command.toml.
Options shown with ... take several values: `--seeds 0 1 2`, or `--seeds 0 --seeds 1`. `--json` prints the answer as
JSON and nothing else on standard output, `--quiet` leaves out progress, `--debug` shows where an error comes from.

{_PLUGIN}
"""

_VERBS = {
    "Start here": ("demo", "suggest", "presets", "reproduce"),
    "Images in, a model out": ("train", "sample", "synthesize", "encode"),
    "Does synthetic data help, or hurt?": (
        "compare",
        "work",
        "status",
        "verdict",
        "table",
        "evaluate",
        "audit",
        "metrics",
    ),
    "Models and their own samples": ("improve", "shift", "loop"),
    "Other tools": ("import", "export", "lora", "info"),
}
_ANYWHERE = ("--debug", "--quiet", "--json")  # options of every verb, wherever they stand


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for a failure, 2 for wrong use, 128 + signal when stopped.

    Errors a user can act on are printed in one line; `--debug`, anywhere, shows the traceback instead.
    `--config FILE`, anywhere, reads options by their names from TOML or YAML. `--plugin MODULE`, anywhere, imports a
    module with parts of the user's own. `--quiet`, anywhere, leaves out progress; results, warnings and errors stay.
    `--json`, anywhere, prints the verb's answer as one JSON object; everything else goes to standard error.
    """
    from cyclopts import CycloptsError

    from nomadiff.cli.answer import Answer, remember
    from nomadiff.cli.config_file import config_reader, split_config, write_command
    from nomadiff.cli.terminal import plain_output
    from nomadiff.errors import Interrupted, NomadiffError, signal_of
    from nomadiff.files import printable
    from nomadiff.memory import keep_freed_memory
    from nomadiff.progress import QUIET, say_error
    from nomadiff.registry import import_plugin

    keep_freed_memory()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, as_json = "--debug" in words, "--json" in words
    if "--quiet" in words:  # in the environment: worker processes are to be silent, too
        os.environ[QUIET] = "1"
    plugins, words = _without_plugins([word for word in words if word not in _ANYWHERE])
    remember(words, as_json=as_json, plugins=plugins)
    # a verb's module is imported when the verb is called
    app = build_app(listed=not words or words[0] in ("--help", "-h"))
    try:
        words, config = split_config(words)
        if config is not None:
            app.config = (config_reader(config),)
        # words beside the answer go where they do not spoil it
        with plain_output(sys.stderr if as_json else sys.stdout):
            for module in plugins:
                import_plugin(module)
            command, bound = _parsed(app, words)
            try:
                answer = command(*bound.args, **bound.kwargs)
            except Interrupted:  # a folder that was refused is not ours to write to, a run that was stopped is
                write_command(words[0], bound.arguments, plugins)
                raise
            write_command(words[0] if words else "", bound.arguments, plugins)
            if isinstance(answer, Answer) and not as_json:
                print(answer.to_text())
        if isinstance(answer, Answer) and as_json:
            print(answer.to_json())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has ended, as `| head` does: no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except NomadiffError as error:
        if debug:
            raise
        say_error(printable(str(error)))
        return error.exit_code
    except CycloptsError as error:
        if debug:
            raise
        say_error(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt as interrupt:
        say_error("stopped")
        return 128 + signal_of(interrupt)
    except MemoryError:
        if debug:
            raise
        say_error("not enough memory for this (--debug shows where)")
        return 1
    except Exception as error:
        if debug:
            raise
        say_error(printable(f"unexpected {type(error).__name__}: {error} (--debug shows where)"))
        return 1
    return 0


def build_app(*, listed: bool = False) -> App:
    """The parser of all verbs.

    Args:
        listed: with the first sentence of every verb, which the list of verbs shows.
    """
    from cyclopts import App, Group, Parameter
    from rich.console import Console

    from nomadiff.cli.answer import WITHOUT_PARTS

    app = App(
        name="nomadiff",
        help=_HELP,
        version=__version__,
        console=Console(file=sys.stdout),  # help has colours: it does not go through plain_output
        result_action="return_value",
        default_parameter=Parameter(negative=(), consume_multiple=(1, None)),
        suppress_keyboard_interrupt=False,  # it would end without a message; main prints one
    )
    for number, (title, verbs) in enumerate(_VERBS.items()):
        group = Group(title, sort_key=number)
        for verb in verbs:
            name = "import_" if verb == "import" else verb  # a keyword cannot name a module
            epilogue = None if verb in WITHOUT_PARTS else _PLUGIN
            text = _first_sentence(name) if listed else None
            app.command(f"nomadiff.cli.{name}:{name}", name=verb, group=group, help=text, help_epilogue=epilogue)
    app.register_install_completion_command(help="Complete verbs and options in this shell.")
    return app


def _parsed(app: App, words: Sequence[str]) -> tuple[Callable[..., Any], BoundArguments]:
    """A verb and its arguments. Options take all values that follow; one each where that leaves an argument without."""
    from cyclopts import CycloptsError, Parameter

    try:
        return app.parse_args(words, exit_on_error=False, print_error=False)[:2]
    except CycloptsError:
        app.default_parameter = Parameter(negative=())
        with suppress(CycloptsError):
            return app.parse_args(words, exit_on_error=False, print_error=False)[:2]
        raise


def _first_sentence(name: str) -> str:
    """The first line of a verb's docstring, read without its imports: the list needs no other part of any verb."""
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    verb = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return (ast.get_docstring(verb) or "").partition("\n")[0]


def _without_plugins(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The modules that ``--plugin MODULE`` and ``--plugin=MODULE`` name, and the words that are left."""
    plugins, rest = [], []
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option == "--plugin":
            plugins.append(value if equals else next(remaining, ""))
        else:
            rest.append(word)
    return plugins, rest
