"""Write the tables of README.md from results/: `python readme_table.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import utils

# (result file, data and provenance, command)
Q2_RUNS = (
    ("octmnist-sweep", "OCTMNIST (real)", "python hw2-q2.py --sweep"),
    (
        "octmnist-strong-adam-lr0.003",
        "OCTMNIST (real), strong recipe",
        "python hw2-q2.py --recipe strong --seeds 0 1 2",
    ),
    (
        "pneumoniamnist-sweep",
        "PneumoniaMNIST (real)",
        "python hw2-q2.py --dataset pneumoniamnist --sweep --seeds 0 1 2 3 4",
    ),
    (
        "pneumoniamnist-strong-adam-lr0.003",
        "PneumoniaMNIST (real), strong recipe",
        "python hw2-q2.py --dataset pneumoniamnist --recipe strong --seeds 0 1 2 3 4",
    ),
    ("synthetic-oct-sweep", "OCT-like scans (synthetic)", "python hw2-q2.py --dataset synthetic-oct --sweep"),
)


def spread(metric: dict, scale: float, digits: int) -> str:
    return f"{scale * metric['mean']:.{digits}f} ± {scale * metric['std']:.{digits}f}"


def overview(root: Path) -> str:
    """Question -> file -> command -> time -> result -> figure."""
    lines = [
        "| question | data | file | command | time | test accuracy, AUC | figures |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, data, command in Q2_RUNS:
        path = root / "results" / "q2" / f"{name}.json"
        cells = ["2", data, "[`hw2-q2.py`](hw2-q2.py)", f"`{command}`"]
        if path.exists():
            result = json.loads(path.read_text())
            test, minutes = result["metrics"]["test"], result["seconds"] / 60
            score = f"[{spread(test['accuracy'], 100, 1)} %, {spread(test['auc'], 1, 3)}]({path.relative_to(root)})"
            plots = sorted((root / "plots" / "q2").glob(f"{name}-*.png"))
            links = ", ".join(f"[{plot.stem.rsplit('-', 1)[1]}]({plot.relative_to(root)})" for plot in plots)
            cells += [f"{minutes:.1f} min", score, links]
        else:
            cells += ["", "not run here", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def question_2(root: Path) -> str:
    """Every network of every comparison, with its baseline."""
    lines = [
        "| data | network | seeds | validation accuracy (%) | test accuracy (%) | test AUC | parameters | mult-adds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, data, _ in Q2_RUNS:
        path = root / "results" / "q2" / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        baseline = result["majority_baseline"]
        accuracy = [f"{100 * baseline['accuracy'][part]:.1f}" for part in ("validation", "test")]
        lines.append(f"| {data} | always *{baseline['class']}* | | {accuracy[0]} | {accuracy[1]} | 0.5 | 0 | 0 |")
        for variant, model in result["models"].items():
            validation, test = model["metrics"].get("validation"), model["metrics"].get("test")
            diverged = f" (diverged: seeds {model['diverged_seeds']})" if model["diverged_seeds"] else ""
            cells = [
                data,
                f"`{variant}`{diverged}",
                str(len(model["trials"])),
                spread(validation["accuracy"], 100, 1) if validation else "diverged",
                spread(test["accuracy"], 100, 1) if test else "not selected",
                spread(test["auc"], 1, 3) if test else "",
                f"{model['parameters']:,}",
                f"{model['multiply_adds']:,}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def speed(root: Path) -> str:
    """The ratios that benchmarks/ measured."""
    path = root / "results" / "q2" / "training-speed.json"
    if not path.exists():
        return "Not measured yet."
    result = json.loads(path.read_text())
    environment, metrics = result["environment"], result["metrics"]
    lines = ["| what | the course's way | this | ratio |", "|---|---|---|---|"]
    for name, unit in (("epoch", "images/s"), ("epoch_every_core", "images/s"), ("sweep", "s")):
        row = metrics[name]
        numbers = [f"{row[side]['median']:,.0f} {unit}" for side in ("baseline", "ours")]
        lines.append(f"| {row['what']} | {numbers[0]} | {numbers[1]} | **{row['ratio']['median']:.2f}** |")
    machine = f"{environment['cores']} cores, PyTorch {environment['torch']}"
    return "\n".join([*lines, "", f"{machine}; medians of alternating runs, the sweep measured once."])


def render(text: str, root: Path) -> str:
    """`text` of README.md with the contents between its markers made anew."""
    for name, table in (("overview", overview), ("question-2", question_2), ("speed", speed)):
        begin, end = f"<!-- {name}: made by readme_table.py -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"README.md has no markers {begin} and {end}")
        text = f"{before}{begin}\n{table(root)}\n{end}{after}"
    return text


@utils.command_line
def main(argv: list[str] | None = None) -> None:
    utils.ArgumentParser(description=__doc__).parse_args(argv)
    readme = utils.ROOT / "README.md"
    utils.write_file(readme, render(readme.read_text(), utils.ROOT).encode())


if __name__ == "__main__":
    sys.exit(main())
