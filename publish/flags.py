"""docs/flags.md from the parsers, and docs/layout.md from the docstrings: what a command takes, what a file is for."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from pathlib import Path
from unittest import mock

from publish.tables import table

SCRIPTS = {  # a command, and the module whose main() reads its command line
    "q1_linear_attention.py": "q1_linear_attention",
    "hw2-q2.py": "hw2-q2",
    "-m asr": "asr.__main__",
    "deep_features/autoencoder.py": "deep_features.autoencoder",
    "deep_features/stacked_autoencoder.py": "deep_features.stacked_autoencoder",
    "deep_features/cnn.py": "deep_features.cnn",
    "deep_features/self_attention.py": "deep_features.self_attention",
    "deep_features/vit.py": "deep_features.vit",
    "assignments/hw1/mlp.py": "assignments.hw1.digits",
    "assignments/hw1/derivatives.py": "assignments.hw1.derivatives",
    "assignments/hw1/sgd.py": "assignments.hw1.sgd",
    "assignments/hw1/dreams.py": "assignments.hw1.dreams",
    "assignments/hw2/cnn.py": "assignments.hw2.cnn",
    "assignments/hw2/gated.py": "assignments.hw2.gated",
    "assignments/hw2/memory.py": "assignments.hw2.memory",
    "assignments/hw2/permuted.py": "assignments.hw2.permuted",
    "assignments/hw2/spikes.py": "assignments.hw2.spikes",
    "assignments/hw3/ebm.py": "assignments.hw3.ebm",
    "assignments/hw3/ocr.py": "assignments.hw3.ocr",
    "assignments/hw4/compare.py": "assignments.hw4.compare",
    "lab3/translate.py": "lab3.translate",
    "lab3/sentiment.py": "lab3.sentiment",
    "lab3/transfer.py": "lab3.transfer",
    "lab3/vision.py": "lab3.vision",
    "lab3/techniques.py": "lab3.techniques",
    "lab3/costs.py": "lab3.costs",
    "lab3/two_towers.py": "lab3.two_towers",
    "lab3/few_shot.py": "lab3.few_shot",
    "lab3/self_supervised.py": "lab3.self_supervised",
    "lab3/distill.py": "lab3.distill",
    "lab3/search.py": "lab3.search",
    "lab3/explain.py": "lab3.explain",
    "download_octmnist.py": "download_octmnist",
    "download_ljspeech.py": "download_ljspeech",
    "download_multi30k.py": "download_multi30k",
    "-m synthetic": "synthetic.__main__",
    "-m demo": "demo.__main__",
    "-m publish": "publish.__main__",
    "-m q1.plots": "q1.plots",
    "-m q2.plots": "q2.plots",
    "-m asr.plots": "asr.plots",
    "-m deep_features.plots": "deep_features.plots",
    "benchmarks/deep_features.py": "benchmarks.deep_features",
    "benchmarks/hw3_paths.py": "benchmarks.hw3_paths",
    "benchmarks/hw4_look_ahead.py": "benchmarks.hw4_look_ahead",
    "benchmarks/q1_attention.py": "benchmarks.q1_attention",
    "benchmarks/q2_training.py": "benchmarks.q2_training",
    "benchmarks/q3_silence.py": "benchmarks.q3_silence",
    "benchmarks/q3_throughput.py": "benchmarks.q3_throughput",
}
FOLDERS = (
    ".",
    "q1",
    "q2",
    "asr",
    "deep_features",
    "assignments/hw1",
    "assignments/hw2",
    "assignments/hw3",
    "assignments/hw4",
    "lab3",
    "common",
    "common/speech",
    "synthetic",
    "demo",
    "publish",
    "benchmarks",
)


class Built(BaseException):
    """Ends a main() where it would read its command line; holds the parser that it built."""


def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser that a script builds for its command line."""

    def stop(parser: argparse.ArgumentParser, *_):
        raise Built(parser)

    main = importlib.import_module(SCRIPTS[script]).main
    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main([])
        except Built as built:
            return built.args[0]
    raise TypeError(f"the main() of {script} reads no command line")


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of its subcommands by name; the parser itself, without a name, where it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {"": parser}


def flags(root: Path) -> str:
    """A table for every command."""
    parts = []
    for script in SCRIPTS:
        for name, parser in subcommands(parser_of(script)).items():
            rows = [
                [spelling(action), meaning(action)]
                for action in parser._actions
                if not isinstance(action, argparse._HelpAction)
            ]
            command = f"python {script} {name}".rstrip()
            parts.append(f"## `{command}`\n\n{table(['flag', 'meaning'], rows)}")
    return "\n\n".join(parts)


def spelling(action: argparse.Action) -> str:
    """A flag with what follows it, as one types it."""
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    if isinstance(action.metavar, tuple):
        value = " ".join(action.metavar)
    if action.nargs == "+":
        value = f"{value}..."
    return f"`{' '.join(filter(None, [action.option_strings[-1] if action.option_strings else '', value]))}`"


def meaning(action: argparse.Action) -> str:
    """Its help, with the default in it."""
    text = action.help or ""
    return text % {"default": action.default} if "%(default)s" in text else text.replace("%%", "%")


def layout(root: Path) -> str:
    """Every module with the first sentence of its docstring."""
    rows = []
    for folder in FOLDERS:
        for path in sorted((root / folder).glob("*.py")):
            first = re.split(r"(?<=\.)\s|\n\n", ast.get_docstring(ast.parse(path.read_text())) or "")[0]
            rows.append([f"[`{path.relative_to(root)}`](../{path.relative_to(root)})", " ".join(first.split())])
    return table(["file", "what it is"], rows)
