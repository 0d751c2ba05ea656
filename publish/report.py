"""The reports' numbers and tables, from results/: report/generated/*.tex.

In the text \\result{key} stands for a number, or a phrase that depends on one. Each file names the result files that it
was made from, with their SHA-256.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import records
from command_line import say
from publish import assignments_report, deep_features_report, homework_report
from publish.latex import Document, Results, define, plain, tabular

REPORT = records.ROOT / "report"
DOCUMENTS = {
    each.name: each for each in (homework_report.DOCUMENT, deep_features_report.DOCUMENT, assignments_report.DOCUMENT)
}


def numbers(document: Document, results: Results) -> str:
    """The definitions behind \\result."""
    lines = []
    for group in document.numbers:
        try:
            lines += [define(key, value) for key, value in group(results).items()]
        except FileNotFoundError as error:  # a text about them does not compile
            say(f"note: numbers are missing from the {document.name}: {error}")
    return "\n".join(lines)


def build(document: Document, root: Path) -> dict[str, str]:
    """The contents of each generated file of a document, by name, from the results under `root`."""
    texts = {}
    for name, make in {"numbers": lambda results: numbers(document, results), **document.tables}.items():
        results = Results(root)
        try:
            body = make(results)
        except FileNotFoundError as error:
            body = tabular("l", ["not run here"], [[plain(str(error).replace(f"{root}/", ""))]])
        sources = [f"%   {path} sha256:{digest}" for path, digest in sorted(results.read.items())]
        texts[f"{name}.tex"] = "\n".join(["% made by python -m publish from", *sources, body]) + "\n"
    return texts


def sources(document: Document) -> list[Path]:
    """All that a document is typeset from, but for the plots, which carry hashes of their own."""
    shared = [REPORT / "contributions.tex"] if document is homework_report.DOCUMENT else []
    folders = (REPORT / document.folder, generated(document))
    written = [path for folder in folders for path in sorted(folder.glob("*.tex")) if path.name != "sources.tex"]
    return [REPORT / f"{document.name}.tex", *shared, *written]


def generated(document: Document) -> Path:
    """The folder of a document's generated files."""
    return REPORT / "generated" / document.name


def hash_of_sources(document: Document) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources(document))).hexdigest()


def write() -> None:
    """Write report/generated/ anew, with a note where the homework's report is not yet complete."""
    if "To be filled in by the group" in (REPORT / "contributions.tex").read_text():
        say("note: report/contributions.tex does not say yet who did what, for which the homework takes ten points")
    for document in DOCUMENTS.values():
        for name, text in build(document, records.ROOT).items():
            records.write_file(generated(document) / name, text.encode())
        digest = define("sources", f"sha256:{hash_of_sources(document)}")
        records.write_file(generated(document) / "sources.tex", digest.encode())
