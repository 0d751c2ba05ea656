"""The generated parts of README.md and docs/, from results/ and the parsers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import records
from asr import plots as speech_plots
from asr import runs as q3
from asr.metrics import NOT_CONVERGED
from assignments import runs as assignments
from common.catalogue import NotRun, Run
from lab3 import runs as lab3
from publish import deep_features
from publish.answers import answers, error_rates, fewer_errors
from publish.claims import claims
from publish.courses import courses
from publish.flags import flags, layout
from publish.tables import (
    PACKAGE,
    files_3,
    files_3_recorded,
    network,
    not_run,
    peers,
    question_2,
    question_3,
    question_3_recorded,
    runs_1,
    runs_2,
    runs_of,
    score,
    speed,
    speed_files,
    spread,
    table,
)  # fmt: skip
from q1 import runs as q1
from q1.monomials import feature_dim
from q2 import runs as q2

DEMO_OUTPUT = Path("docs") / "demo-output.txt"
PICTURE = q3.REHEARSED_RUN
Q3_FRONT = (  # on what both decoders were trained, and the run
    ("LJ Speech (real)", q3.FULL),
    ("2,000 clips of one synthesiser (synthetic)", q3.FEW),
    ("many voices, then one synthesiser (synthetic)", q3.REVOICED),
    ("the same, searched with CTC", q3.REVOICED_JOINT),
    ("the recorded clips alone (real)", q3.SCRATCH),
    ("many voices (synthetic)", q3.UNSEEN),
    ("many voices (synthetic), then the recorded clips (real)", q3.REHEARSED_RUN),
    ("the same, searched with CTC", q3.RECORDED_JOINT),
)


def unbroken(text: str) -> str:
    """A table in which a value and its deviation or interval stay on one line."""
    value = r"\d[\d.]* (?:± [\d.]+|\[[\d.]+, [\d.]+\])"
    return re.sub(value, lambda found: found[0].replace(" ", "\u00a0"), text)


def demo(root: Path) -> str:
    """What `make demo` found, of all that it printed: each part's headline, and the end."""
    path = root / DEMO_OUTPUT
    if not path.exists():
        return f"```\n{DEMO_OUTPUT.as_posix()} is not there yet: make demo writes it as runs/demo/summary.txt\n```"
    lines = path.read_text().strip().splitlines()
    headlines = [line for title, line in itertools.pairwise(lines) if title.endswith(" s)")]
    return "\n".join(["```", lines[0], *headlines, *lines[-2:], "```"])


def picture(root: Path) -> str:
    """Where the two decoders look."""
    found = PICTURE.results(root, decoder="lstm")
    path = root / "plots" / "q3" / f"{speech_plots.experiment(found[0][1])}-attention.png" if found else None
    if path is None or not path.exists():
        return f"The picture is not drawn here: `{PICTURE.first_command(decoder='lstm')}`"
    text = "Attention of both decoders: as the text grows, it moves through the clip"
    caption = "Both decoders write down a recorded clip (real): a row for each character, dark where the decoder looks."
    return f"![{text}]({path.relative_to(root)})\n\n*{caption}*"


def box(root: Path) -> str:
    """What was measured on real data, what on synthetic data, and what nobody could measure here."""
    real, missing = [], []
    for data, sweep in q2.SWEEPS.items():
        name, result = q2.DATA[data].partition(" (")[0], sweep.find(root)
        if result is None:
            missing.append(f"{name} (`{sweep.command}`)")
        elif result["data"]["source"] == "real":
            real.append(f"{sum(result['data']['sizes'].values()):,} images of {name}")
    for which, run in (("all", q3.FULL), ("the first", q3.SCRATCH)):
        found = run.results(root, decoder="lstm")
        if found:
            real.append(f"{which} {sum(found[0][1]['data']['sizes'].values()):,} clips of LJ Speech")
        else:
            missing.append(f"{which} clips of LJ Speech (`{run.first_command(decoder='lstm')}`)")
    synthetic = "Question 1's random numbers, the OCT-like scans, and LJ Speech's texts spoken by espeak-ng and flite"
    lines = [
        "**What is real, what is synthetic, what could not be run here**",
        f"- **Real:** {'; '.join(real)}.",
        f"- **Synthetic:** {synthetic}.",
    ]
    if missing:
        lines.append(f"- **Not run here,** as the data could not be downloaded: {'; '.join(missing)}.")
    return "\n".join(f"> {line}" for line in lines).replace("here**\n", "here**\n>\n", 1)


def question_1(root: Path) -> str:
    """Linear attention against the package and PyTorch's fused kernel, for each head dimension."""
    length = q1.LENGTH
    header = ("head dimension", "features", "times the package's speed", "with gradients", "faster than SDPA from",
              f"memory at L = {q1.LONGEST:,}", "the package's memory")  # fmt: skip
    try:
        result, memory = q1.SPEED.result(root), q1.MEMORY.find(root)
    except NotRun as missing:
        return table(header, [["", "", *not_run(str(missing), 5)]])
    peaks = {
        (row["contender"], row["dim"], row["length"], row["pass"]): row["peak_bytes"]
        for row in (memory or {"rows": []})["rows"]
        if "peak_bytes" in row
    }
    rows = []
    for dim, entry in result["metrics"].items():
        found = [peaks.get((name, int(dim), q1.LONGEST, "forward")) for name in ("this", PACKAGE)]
        rows.append([
            dim,
            f"{feature_dim(int(dim)):,}",
            times_faster(entry["forward"], length),
            times_faster(entry["forward and backward"], length),
            f"L = {entry['forward']['crossover_with_sdpa']:,}",
            *(f"{peak / 2**20:,.0f} MiB" if peak else "not run" for peak in found),
        ])  # fmt: skip
    return f"{table(header, rows)}\n\nRandom (synthetic) inputs, L = {length:,} unless it says otherwise."


def times_faster(entry: dict, length: int) -> str:
    """The ratio at `length`, or at the longest before it that the package was measured at."""
    ratios = {int(each): ratio for each, ratio in entry["times_faster_than_package"].items()}
    longest = max(each for each in ratios if each <= length)
    return f"**{ratios[longest]:.1f}**" + ("" if longest == length else f" (L = {longest:,})")


def question_2_front(root: Path) -> str:
    """The tested networks of every data set, beside what no learning at all gets."""
    header = ("data", "network", "seeds", "accuracy (%)", "AUC", "guessing (%)", "parameters")
    rows = []
    for run in q2.TRAINED:
        result = run.find(root)
        if result is None:
            rows.append([run.what, *not_run(run.command, 6)])
            continue
        guess = f"{100 * result['majority_baseline']['accuracy']['test']:.1f}"
        for model in result["models"].values():
            test = model["metrics"].get("test")
            if test:
                accuracy, auc = spread(test["accuracy"], 100, 1), spread(test["auc"], 1, 3)
                data = run.what.partition(",")[0]
                rows.append(
                    [data, network(model), str(len(model["trials"])), accuracy, auc, guess, f"{model['parameters']:,}"]
                )
    return unbroken(table(header, rows))


def question_3_front(root: Path) -> str:
    """Character error rates of both decoders, and which of them is better."""
    header = ("both decoders trained on", "tested on", "seeds", "LSTM: CER (%)", "Transformer: CER (%)", "fewer errors")
    rows = []
    for trained, run in Q3_FRONT:
        found = {decoder: run.results(root, decoder=decoder) for decoder in speech_plots.NAMES}
        missing = [decoder for decoder, each in found.items() if not each]
        if missing:
            rows.append([trained, *not_run(run.first_command(decoder=missing[0]), 5)])
            continue
        data = found["lstm"][0][1]["data"]
        tested = f"{data['sizes']['test']:,} clips ({data['source']})"
        rates = [score(each, "cer").removesuffix(" not converged") for each in found.values()]
        rows.append([trained, tested, str(len(found["lstm"])), *rates, better(root, run)])
    return unbroken(table(header, rows))


def better(root: Path, run: Run) -> str:
    """The better decoder in a word or two."""
    rates = [rate["mean"] for decoder in speech_plots.NAMES for rate in error_rates(root, run, decoder)]
    return "neither" if min(rates) > NOT_CONVERGED else fewer_errors(root, run) or "not resolved"


TABLES: dict[str, Callable[[Path], str]] = {
    "demo": demo,
    "picture": picture,
    "answers": lambda root: unbroken(answers(root)),
    "box": box,
    "question-1": question_1,
    "question-2": question_2_front,
    "question-3": question_3_front,
    "courses": lambda root: unbroken(courses(root)),
    "runs-1": runs_1,
    "runs-2": runs_2,
    "networks": question_2,
    "files-3": files_3,
    "files-3-recorded": files_3_recorded,
    "scores-3": question_3,
    "scores-3-recorded": question_3_recorded,
    **{name: lambda root, make=make: unbroken(make(root)) for name, make in deep_features.TABLES.items()},
    "runs-deep-features": deep_features.deep_features_runs,
    "runs-assignments": runs_of(assignments.RUNS),
    "runs-lab3": runs_of(lab3.RUNS),
    "claims": claims,
    "peers": peers,
    "speed": speed,
    "speed-files": speed_files,
    "flags": flags,
    "layout": layout,
}
PART = re.compile(r"(<!-- ([\w-]+): made by python -m publish -->\n)(?:.*?\n)?(<!-- \2: end -->)", re.DOTALL)


def pages(root: Path) -> list[Path]:
    """README.md and the pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def render(text: str, root: Path) -> str:
    """A page with the contents between its markers made anew."""
    return PART.sub(lambda part: f"{part[1]}{TABLES[part[2]](root)}\n{part[3]}", text)


def write() -> None:
    """Write the generated parts of README.md and docs/ anew."""
    for page in pages(records.ROOT):
        records.write_file(page, render(page.read_text(), records.ROOT).encode())
