"""The tables of docs/runs.md and docs/speed.md: every run, its command, its numbers, its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import records
from asr import plots as speech_plots
from asr import runs as q3
from asr.metrics import NOT_CONVERGED
from common.catalogue import NotRun, Run
from deep_features import runs as features
from q1 import runs as q1
from q2 import runs as q2
from records import spread

ESCAPED = r"\|"  # a bar within a cell
PACKAGE = "taylor-series-linear-attention"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', ESCAPED) for cell in row)} |" for row in rows)])


def bash(commands: Iterable[str]) -> str:
    return "\n".join(["```bash", *commands, "```"])


def not_run(command: str, width: int) -> list[str]:
    """The cells of a row whose result is missing, after those that say what it is."""
    return [f"not run here: `{command}`"] + [""] * (width - 1)


def link(root: Path, path: Path, text: str) -> str:
    """A link to a file of the repository, from a page in docs/."""
    return f"[{text}](../{path.relative_to(root)})"


def figures(root: Path, run: Run) -> str:
    """Links to the figures of a run that are drawn."""
    texts = {name: "plot" if name == run.stem else name.rpartition("-")[2] for name in run.figures}
    paths = {root / "plots" / f"{name}.png": text for name, text in texts.items()}
    return ", ".join(link(root, path, text) for path, text in paths.items() if path.exists())


def run_rows(root: Path, runs: Iterable[Run]) -> list[list[str]]:
    """What, time, result file and figures of each run."""
    rows = []
    for run in runs:
        try:
            result = run.result(root)
        except NotRun as missing:
            rows.append([run.what, *not_run(str(missing), 3)])
            continue
        seconds, path = result.get("seconds"), root / "results" / f"{run.name}.json"
        time = "" if seconds is None else f"{seconds / 60:.1f} min"
        rows.append([run.what, link(root, path, path.stem), time, figures(root, run)])
    return rows


def runs_1(root: Path) -> str:
    """Question 1: everything is measured on random numbers."""
    rows = run_rows(root, q1.RUNS)
    header = table(["random queries, keys and values (synthetic)", "result", "time", "figures"], rows)
    return f"{header}\n\n{bash(run.command for run in q1.RUNS)}"


def runs_2(root: Path) -> str:
    """Question 2: sweeps, the strong recipe, and what shifted images do."""
    runs = [*q2.TRAINED, *q2.SHIFTS.values()]
    header = table(["data", "result", "time", "figures"], run_rows(root, runs))
    return f"{header}\n\n{bash(run.command for run in runs)}"


def runs_of(runs: Iterable[Run]) -> Callable[[Path], str]:
    """A table of runs, with time, result file and figures, and their commands below it."""

    def make(root: Path) -> str:
        header = table(["data", "result", "time", "figures"], run_rows(root, runs))
        return f"{header}\n\n{bash(run.command for run in runs)}"

    return make


def network(model: dict) -> str:
    """A network of Question 2 in words."""
    settings = model["settings"]
    kind = "no pooling" if settings["no_maxpool"] else "max-pooling"
    return f"{'strong recipe' if settings['recipe'] == 'strong' else kind}, rate {settings['learning_rate']:g}"


def question_2(root: Path) -> str:
    """Every network of every comparison, with its baseline."""
    header = ("data", "network", "seeds", "validation accuracy (%)", "test accuracy (%)", "test AUC", "parameters",
              "mult-adds")  # fmt: skip
    rows = []
    for run in q2.TRAINED:
        result = run.find(root)
        if result is None:
            rows.append([run.what, "", "", *not_run(run.command, 5)])
            continue
        baseline = result["majority_baseline"]
        accuracy = [f"{100 * baseline['accuracy'][part]:.1f}" for part in ("validation", "test")]
        rows.append([run.what, f"always *{baseline['class']}*", "", *accuracy, "0.5", "0", "0"])
        for model in result["models"].values():
            validation, test = model["metrics"].get("validation"), model["metrics"].get("test")
            diverged = f" (diverged: seeds {model['diverged_seeds']})" if model["diverged_seeds"] else ""
            rows.append([
                run.what,
                network(model) + diverged,
                str(len(model["trials"])),
                spread(validation["accuracy"], 100, 1) if validation else "diverged",
                spread(test["accuracy"], 100, 1) if test else "not selected",
                spread(test["auc"], 1, 3) if test else "",
                f"{model['parameters']:,}",
                f"{model['multiply_adds']:,}",
            ])  # fmt: skip
    return table(header, rows)


def question_3(root: Path) -> str:
    """Every training, scored on the test part of its corpus."""
    return speech_table(root, "data", q3.ON_SYNTHETIC)


def question_3_recorded(root: Path) -> str:
    """What training on recordings, on synthetic speech and on both makes of recorded speech."""
    return speech_table(root, "trained", q3.ON_RECORDED_SPEECH)


def speech_table(root: Path, first: str, runs: tuple[Run, ...]) -> str:
    """Loss and scores on the test part, then the commands."""
    header = (first, "decoder", "seeds", "clips x epochs", "training", "loss", "Jaccard", "cosine",
              "Damerau-Levenshtein", "WER (%)", "CER (%)")  # fmt: skip
    rows, commands = [], []
    for run in runs:
        for decoder, shown in speech_plots.NAMES.items():
            found = run.results(root, decoder=decoder)
            if not found:
                continue
            budget = found[0][1].get("budget")
            rows.append([
                run.what,
                shown,
                str(len(found)),
                f"{budget['clips']:,} x {budget['epochs']}" if budget else "",
                minutes(found) if budget else "",
                *(score(found, name) for name in ("loss", "jaccard", "cosine", "damerau_levenshtein", "wer", "cer")),
            ])  # fmt: skip
        if any(run.results(root, decoder=decoder) for decoder in speech_plots.NAMES):
            commands.append(run.shown_command)
    return f"{table(header, rows)}\n\n{bash(commands)}"


def minutes(found: list[tuple[Path, dict]]) -> str:
    """Of a training, the mean over seeds."""
    return f"{records.mean_std([result['seconds'] / 60 for _, result in found])['mean']:.1f} min"


def score(found: list[tuple[Path, dict]], name: str) -> str:
    """A score of the test part: mean and deviation over seeds, or one seed's with a bootstrap's interval over clips."""
    metrics = [result["metrics"]["test"].get(name) for _, result in found]
    if None in metrics:
        return ""  # no loss without the decoder
    scale, digits = (100, 1) if name in ("wer", "cer") else (1, 3)
    values = metrics if name == "loss" else [metric["mean"] for metric in metrics]
    doubt = " not converged" if name == "cer" and min(values) > NOT_CONVERGED else ""
    if len(metrics) > 1:
        return spread(records.mean_std(values), scale, digits) + doubt
    return (f"{metrics[0]:.3f}" if name == "loss" else interval(metrics[0], scale, digits)) + doubt


def interval(metric: dict, scale: float, digits: int) -> str:
    low, high = metric["interval"]
    return f"{scale * metric['mean']:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def files_3(root: Path) -> str:
    """Result files and figures of Question 3, on synthetic speech."""
    evaluations = (*q3.JOINED, *q3.SHIPPED_JOINED, *q3.RECORDED_JOINED)
    commands = bash(run.shown_command for run in evaluations)
    return f"{speech_files(root, 'data', (*q3.ON_SYNTHETIC, *evaluations))}\n\n{commands}"


def files_3_recorded(root: Path) -> str:
    """The same on recorded speech."""
    return speech_files(root, "trained", q3.ON_RECORDED_SPEECH)


def speech_files(root: Path, first: str, runs: Iterable[Run]) -> str:
    rows = []
    for run in runs:
        found = {shown: run.results(root, decoder=decoder) for decoder, shown in speech_plots.NAMES.items()}
        if not any(found.values()):
            rows.append([run.what, *not_run(run.shown_command, 2)])
            continue
        cells = [
            f"{shown} {', '.join(seed_link(root, path) for path, _ in each)}" for shown, each in found.items() if each
        ]
        rows.append([run.what, "; ".join(cells), figures(root, run)])
    return table([first, "result files, by seed", "figures"], rows)


def seed_link(root: Path, path: Path) -> str:
    seed = re.search(r"seed(\d+)", path.stem)
    return link(root, path, seed[1] if seed else "shipped")


def peers(root: Path) -> str:
    """Linear attention against other kernels at one length: how exact, and how near to the processor's limit."""
    header = ("head dimension", "relative error", "the package's", "elu + 1", "random features",
              "share of a matrix product's rate")  # fmt: skip
    try:
        result = q1.SPEED.result(root)
    except NotRun as missing:
        return table(header, [["", *not_run(str(missing), 5)]])
    errors = {(row["contender"], row["dim"], row["length"], row["pass"]): row.get("error") for row in result["rows"]}
    rows = [
        [
            dim,
            *(
                f"{errors[name, int(dim), q1.LENGTH, 'forward']:.3f}"
                for name in ("this", PACKAGE, "elu + 1", "random features")
            ),
            f"{entry['share_of_matrix_product_rate'][str(q1.LENGTH)]:.0%}",
        ]
        for dim, entry in result["metrics"].items()
    ]
    config, environment = result["config"], result["environment"]
    setting = f"{config['heads']} heads, {config['dtype']}, {config['threads']} threads, PyTorch {environment['torch']}"
    calls = f"medians of {config['repetitions']} alternating calls, random (synthetic) inputs"
    return f"{table(header, rows)}\n\n{setting}, L = {q1.LENGTH:,}; {calls}."


def speed(root: Path) -> str:
    """The ratios that benchmarks/ measured."""
    rows, notes = [], []
    training = q2.TRAINING_SPEED.find(root)
    if training is None:
        rows.append([q2.TRAINING_SPEED.what, *not_run(q2.TRAINING_SPEED.command, 3)])
    else:
        for name, unit in q2.TRAINING.items():
            rows.append(speed_row(training["metrics"][name], unit, digits=2))
        environment = training["environment"]
        machine = f"{environment['cores']} cores, PyTorch {environment['torch']}"
        notes.append(f"{machine}; medians of alternating runs, the sweep measured once.")
    throughput = q3.SPEED.find(root)
    if throughput is None:
        rows.append([q3.SPEED.what, *not_run(q3.SPEED.command, 3)])
    else:
        measured = throughput["metrics"]
        beyond = measured["transcription"]["beyond_imports"]["median"]
        rows += [speed_row(measured[name], unit, digits=1) for name, unit in q3.THROUGHPUT.items()]
        config, data = throughput["config"], throughput["data"]
        notes.append(
            f"Question 3: {config['clips']} clips of {data['name']} ({data['source']}); our hop is"
            f" {config['hop_ms']:g} ms, the course's 7.3 ms; our training's precision: {config['mixed_precision']}."
            f" `python -m asr transcribe` takes {beyond:.1f} s beyond `import torch, torchaudio` for 10 s of speech."
        )
    features_speed = features.SPEED.find(root)
    if features_speed is None:
        rows.append([features.SPEED.what, *not_run(features.SPEED.command, 3)])
    else:
        rows += [speed_row(features_speed["metrics"][name], unit, 2) for name, unit in features.TRAINING.items()]
        notes.append(peak_memory(features_speed))
    header = ("what", "the course's way", "this", "ratio")
    return "\n\n".join([table(header, rows), " ".join(notes)])


def peak_memory(result: dict) -> str:
    """What the jobs of the deep features benchmark take of memory, and where their limit is."""
    sizes = {job: f"{size / 2**20:,.0f} MiB" for job, size in result["peak_bytes"].items()}
    return (
        f"Deep features: {result['config']['epochs']} epochs instead of the grid's 60, process starts included; the"
        f" grid's memory goes from {sizes['exercise_grid']} to {sizes['our_grid']}, the Vision Transformers' from"
        f" {sizes['exercise_transformers']} to {sizes['our_transformers']}, as {result['config']['threads']} processes"
        f" each hold the images. One Vision Transformer on every core computes at"
        f" {result['share_of_matrix_product']:.0%} of the rate of a large matrix product."
    )


def speed_row(row: dict, unit: str, digits: int) -> list[str]:
    sides = [
        f"{row[side]['median']:,.{0 if row[side]['median'] > 100 else 1}f} {unit}" for side in ("baseline", "ours")
    ]
    return [row["what"], *sides, f"**{row['ratio']['median']:.{digits}f}**"]


def speed_files(root: Path) -> str:
    """The benchmarks of training and transcription, and where their numbers are."""
    runs = (q2.TRAINING_SPEED, q3.SPEED, q3.SILENCE, features.SPEED)
    rows = [row[:3] for row in run_rows(root, runs)]
    return f"{table(['benchmark', 'result', 'time'], rows)}\n\n{bash(run.command for run in runs)}"
