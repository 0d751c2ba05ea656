"""The committed results on one page: results/index.html."""

from __future__ import annotations

from pathlib import Path

import records
from publish import page, readme
from publish.page import Page, Picture, Section, table_of_markdown

PICTURES = {  # for each plot what it shows, for those who do not see it, and its caption
    "q1/attention-speed-time": (
        "Time against the number of tokens for linear attention and others, in a panel for each head dimension; linear"
        " attention grows with slope 1 on logarithmic axes, softmax attention with slope 2",
        "Time of linear attention (this) and of others, on random (synthetic) inputs.",
    ),
    "q2/pneumoniamnist-sweep-pooling": (
        "Validation accuracy per epoch with max-pooling and without, and the test scores of each seed",
        "PneumoniaMNIST (real): max-pooling against strides.",
    ),
    "q2/synthetic-oct-sweep-pooling": (
        "Validation accuracy per epoch with max-pooling and without, and the test scores of each seed",
        "OCT-like scans (synthetic): max-pooling against strides.",
    ),
    "q3/ljspeech-345-rehearsed-attention": (
        "Heat maps of where both decoders look in a clip while they write its text: a diagonal",
        "Cross-attention of both decoders on a recorded clip of LJ Speech (real).",
    ),
    "q3/ljspeech-345-rehearsed-scores": (
        "Similarities that rise and error rates that fall per epoch, for both decoders",
        "Validation scores on recorded clips of LJ Speech (real), after training on synthetic voices.",
    ),
}
ANSWERS = "Each question of the statement in a sentence. L is the length, D and E the widths of keys and values."
TABLES = {
    "q1": ("Question 1: linear attention", "question-1", ""),
    "q2": ("Question 2: a small CNN", "question-2", "Test scores, mean ± standard deviation over seeds."),
    "q3": ("Question 3: speech recognition", "question-3", "Character error rates (CER) on test clips."),
}


def pictures(root: Path, question: str) -> tuple[Picture, ...]:
    """Those of a question that are drawn."""
    found = {root / "plots" / f"{stem}.png": text for stem, text in PICTURES.items() if stem.startswith(question)}
    return tuple(Picture(path, *text) for path, text in found.items() if path.exists())


def results_page(root: Path) -> Page:
    """The answers, and README.md's tables with their figures: from results/, like README.md itself."""
    tables = {name: make(root) for name, make in readme.TABLES.items() if name.startswith(("answers", "question"))}
    box = [line.strip("> ") for line in readme.box(root).splitlines()]
    provenance = tuple(line.removeprefix("- ") for line in box if line.startswith("- "))
    sections = [Section("The answers", tables=(table_of_markdown(tables["answers"], ANSWERS),))]
    for question, (title, name, caption) in TABLES.items():
        table = table_of_markdown(tables[name], caption)
        sections.append(Section(title, tables=(table,), pictures=pictures(root, question)))
    intro = (
        "What the committed runs measured; the derivations are in the [report](report/report.pdf). The commands of all"
        " runs are in [docs/runs.md](docs/runs.md).",
        *provenance,
    )
    return Page("Linear attention, a small CNN, and speech recognition: the results", intro, tuple(sections))


def write() -> Path:
    """Write results/index.html anew."""
    return page.render(results_page(records.ROOT), records.ROOT / "results" / "index.html", embed=False)
