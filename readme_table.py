"""Write the tables of README.md from results/: `python readme_table.py`."""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import sys
from dataclasses import dataclass
from pathlib import Path

import q1_plots
import q3_plots
import records
from asr.metrics import NOT_CONVERGED
from q1_monomials import feature_dim
from q2_config import RESULT_KEYS

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


@dataclass(frozen=True)
class SpeechRun:
    """A run of Question 3 with both decoders: which data, the name of its results, the seeds, the command.

    `{decoder}` and `{seed}` stand in the last two for what they say.
    """

    data: str
    name: str
    command: str
    seeds: tuple[int, ...] = (0,)

    def results(self, root: Path, decoder: str) -> list[tuple[Path, dict]]:
        """The files of the seeds that were run, with what they hold."""
        paths = [
            root / "results" / "q3" / f"{self.name.format(decoder=decoder, seed=seed)}.json" for seed in self.seeds
        ]
        return [(path, q3_plots.load_speech(path)) for path in paths if path.exists()]


TRAIN, EVALUATE = "python -m asr train --decoder {decoder}", "python -m asr evaluate --checkpoint runs/q3/"
VOICES = "runs/q3/voices-longer-{decoder}-seed0.safetensors"
JOINT = "-beam8-ctc_weight0.3"
Q3_RUNS = (
    SpeechRun("LJ Speech (real)", "LJSpeech-1.1-{decoder}-seed0", TRAIN),
    SpeechRun(
        "its texts but LJ001 and LJ002, many voices (synthetic)",
        "voices-{decoder}-seed0",
        f"{TRAIN} --data data/voices --epochs 12",
    ),
    SpeechRun(
        "the same, trained on",
        "voices-longer-{decoder}-seed0",
        f"{TRAIN} --data data/voices --init runs/q3/voices-{{decoder}}-seed0.safetensors --epochs 10"
        " --name voices-longer-{decoder}-seed0",
    ),
    SpeechRun(
        "its texts, espeak-ng (synthetic), after the many voices",
        "revoiced-{decoder}-seed0",
        f"{TRAIN} --data data/revoiced --init {VOICES} --epochs 5 --learning_rate 0.0025",
    ),
    SpeechRun(
        "the same, searched with a beam of 8 that CTC has a share in",
        f"revoiced-{{decoder}}-seed0-on-revoiced-test{JOINT}",
        f"{EVALUATE}revoiced-{{decoder}}-seed0.safetensors --data data/revoiced --beam 8 --ctc_weight 0.3",
    ),
    SpeechRun(
        "its texts, espeak-ng (synthetic), 2,000 clips",
        "revoiced-2000-{decoder}-seed{seed}",
        f"{TRAIN} --data data/revoiced --clips 2000 --epochs 15 --seed {{seed}}"
        " --name revoiced-2000-{decoder}-seed{seed}",
        (0, 1, 2),
    ),
    SpeechRun(
        "the same, `maclaurin` in the encoder",
        "revoiced-2000-maclaurin-{decoder}-seed{seed}",
        f"{TRAIN} --kernel maclaurin --data data/revoiced --clips 2000 --epochs 15 --seed {{seed}}"
        " --name revoiced-2000-maclaurin-{decoder}-seed{seed}",
        (0, 1),
    ),
)
TUNED, REHEARSED = (f"ljspeech-345-{how}-{{decoder}}-seed{{seed}}" for how in ("tuned", "rehearsed"))
FIRST = REHEARSED.replace("{seed}", "0")
TUNE = f"{TRAIN} --data data/ljspeech-345 --init {VOICES} --learning_rate 0.0025 --seed {{seed}}"
Q3_RECORDED = (  # all scored on the same 65 recorded clips
    SpeechRun(
        "on the recorded clips alone",
        "ljspeech-345-{decoder}-seed0",
        f"{TRAIN} --data data/ljspeech-345 --epochs 30",
    ),
    SpeechRun(
        "on synthetic voices alone",
        "voices-longer-{decoder}-seed0-on-ljspeech-345-test",
        f"{EVALUATE}voices-longer-{{decoder}}-seed0.safetensors --data data/ljspeech-345",
    ),
    SpeechRun(
        "on synthetic voices, then on the recorded clips",
        TUNED,
        f"{TUNE} --epochs 60 --name {TUNED}",
        (0, 1, 2),
    ),
    SpeechRun(
        "on synthetic voices, then on the recorded clips and as many synthetic ones",
        REHEARSED,
        f"{TUNE} --epochs 45 --rehearse data/voices --name {REHEARSED}",
        (0, 1, 2),
    ),
    SpeechRun(
        "the same, one seed, searched with a beam of 8",
        f"{FIRST}-on-ljspeech-345-test-beam8",
        f"{EVALUATE}{FIRST}.safetensors --data data/ljspeech-345 --beam 8",
    ),
    SpeechRun(
        "the same, heard by the encoder's CTC head alone",
        f"{FIRST}-on-ljspeech-345-test-ctc",
        f"{EVALUATE}{FIRST}.safetensors --data data/ljspeech-345 --ctc",
    ),
    SpeechRun(
        "the same, searched with a beam of 8 that CTC has a share in",
        f"{REHEARSED}-on-ljspeech-345-test{JOINT}",
        f"{EVALUATE}{REHEARSED}.safetensors --data data/ljspeech-345 --beam 8 --ctc_weight 0.3",
        (0, 1, 2),
    ),
)
Q3_OVERVIEW = ("LJSpeech-1.1-{decoder}-seed0", "revoiced-{decoder}-seed0", REHEARSED)

Q1_LENGTH, Q1_LONGEST = "16384", 65536


def spread(metric: dict, scale: float, digits: int) -> str:
    return f"{scale * metric['mean']:.{digits}f} ± {scale * metric['std']:.{digits}f}"


def overview(root: Path) -> str:
    """Question -> file -> command -> time -> result -> figure."""
    lines = [
        "| question | data | file | command | time | result | figures |",
        "|---|---|---|---|---|---|---|",
    ]
    lines.append(question_1_overview(root))
    for name, data, command in Q2_RUNS:
        path = root / "results" / "q2" / f"{name}.json"
        cells = ["2", data, "[`hw2-q2.py`](hw2-q2.py)", f"`{command}`"]
        if path.exists():
            result = records.load_result(path, *RESULT_KEYS)
            test, minutes = result["metrics"]["test"], result["seconds"] / 60
            score = f"{spread(test['accuracy'], 100, 1)} %, AUC {spread(test['auc'], 1, 3)}"
            cells += [f"{minutes:.1f} min", f"[{score}]({path.relative_to(root)})", figures(root, "q2", name)]
        else:
            cells += ["", "not run here", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + question_3_overview(root))


def figures(root: Path, question: str, run: str) -> str:
    plots = sorted((root / "plots" / question).glob(f"{run}-*.png"))
    return ", ".join(f"[{plot.stem.rsplit('-', 1)[1]}]({plot.relative_to(root)})" for plot in plots)


def question_1_overview(root: Path) -> str:
    """The row of the demonstration; the benchmark's numbers have a table of their own."""
    path = root / "results" / "q1" / "demo.json"
    result = records.load_result(path, *q1_plots.DEMO_KEYS)
    crossover = ", ".join(f"{row['length']:,} (D = {row['dim']})" for row in result["crossover"])
    cells = [
        "1",
        "random queries and keys (synthetic)",
        "[`q1_linear_attention.py`](q1_linear_attention.py)",
        "`python q1_linear_attention.py`",
        f"{result['seconds'] / 60:.1f} min",
        f"[faster than softmax attention from L = {crossover}]({path.relative_to(root)})",
        figures(root, "q1", "demo"),
    ]
    return f"| {' | '.join(cells)} |"


def question_3_overview(root: Path) -> list[str]:
    """A row for each corpus and decoder."""
    lines = []
    for run in [run for run in Q3_RUNS + Q3_RECORDED if run.name in Q3_OVERVIEW]:
        data = f"LJ Speech's first 345 clips (real), trained {run.data}" if run in Q3_RECORDED else run.data
        for decoder in q3_plots.NAMES:
            found = run.results(root, decoder)
            cells = ["3", data, "[`asr/`](asr)", f"`{run.command.format(decoder=decoder, seed=run.seeds[0])}`"]
            if found:
                path, result = found[0]
                cells += [minutes(found), f"[CER {score(found, 'cer')} %]({path.relative_to(root)})"]
                cells.append(figures(root, "q3", q3_plots.experiment(result)))
            else:
                cells += ["", "not run here", ""]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def times_faster(entry: dict) -> str:
    """The ratio at Q1_LENGTH, or at the longest before it that the package was measured at."""
    ratios = {int(length): ratio for length, ratio in entry["times_faster_than_package"].items()}
    length = max(length for length in ratios if length <= int(Q1_LENGTH))
    return f"**{ratios[length]:.1f}**" + ("" if length == int(Q1_LENGTH) else f" (L = {length:,})")


def question_1(root: Path) -> str:
    """Linear attention against its peers, for each head dimension."""
    path = root / "results" / "q1" / "attention-speed.json"
    result = records.load_result(path, *q1_plots.SPEED_KEYS)
    length, package = int(Q1_LENGTH), "taylor-series-linear-attention"
    lines = [
        f"| head dimension | features M | forward: times the package's speed (L = {length:,}) | forward and backward |"
        f" share of a matrix product's rate | faster than SDPA from L | peak memory at L = {Q1_LONGEST:,} (package) |"
        " error (package, elu + 1, random features) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    memory_path = root / "results" / "q1" / "attention-memory.json"
    every_row = result["rows"] + records.load_result(memory_path, *q1_plots.MEMORY_KEYS)["rows"]
    rows = [
        {(row["contender"], row["dim"], row["length"], row["pass"]): row for row in every_row if key in row}
        for key in ("seconds", "peak_bytes")
    ]
    for dim, entry in result["metrics"].items():
        forward, both = entry["forward"], entry["forward and backward"]
        memory = [rows[1].get((name, int(dim), Q1_LONGEST, "forward")) for name in ("this", package)]
        shown = [f"{row['peak_bytes'] / 2**20:,.0f} MiB" if row else "not run" for row in memory]
        peers = ("this", package, "elu + 1", "random features")
        errors = [rows[0][name, int(dim), length, "forward"]["error"] for name in peers]
        cells = [
            dim,
            f"{feature_dim(int(dim)):,}",
            times_faster(forward),
            times_faster(both),
            f"{entry['share_of_matrix_product_rate'][Q1_LENGTH]:.0%}",
            f"{forward['crossover_with_sdpa']:,}",
            f"{shown[0]} ({shown[1]})",
            f"{errors[0]:.3f} ({', '.join(f'{error:.3f}' for error in errors[1:])})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    config, environment = result["config"], result["environment"]
    plots = ", ".join(figures(root, "q1", run) for run in ("attention-speed", "attention-memory"))
    setting = f"{config['heads']} heads, {config['dtype']}, {config['threads']} threads, PyTorch {environment['torch']}"
    return "\n".join([*lines, "", f"{setting}; medians of {config['repetitions']} alternating calls. Plots: {plots}."])


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
        result = records.load_result(path, *RESULT_KEYS)
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


def question_3(root: Path) -> str:
    """Every training, scored on the test part of its corpus."""
    return speech_table(root, "data", Q3_RUNS)


def question_3_recorded(root: Path) -> str:
    """What training on recordings, on synthetic speech and on both makes of recorded speech."""
    return speech_table(root, "trained", Q3_RECORDED)


def speech_table(root: Path, first: str, runs: tuple[SpeechRun, ...]) -> str:
    """Loss and scores on the test part, then the commands."""
    header = (first, "decoder", "seeds", "clips x epochs", "training", "loss", "Jaccard", "cosine",
              "Damerau-Levenshtein", "WER (%)", "CER (%)")  # fmt: skip
    lines, commands = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"], []
    for run in runs:
        for decoder, shown in q3_plots.NAMES.items():
            found = run.results(root, decoder)
            if not found:
                continue
            budget = found[0][1].get("budget")
            cells = [
                run.data,
                shown,
                str(len(found)),
                f"{budget['clips']:,} x {budget['epochs']}" if budget else "",
                minutes(found) if budget else "",
                *(score(found, name) for name in ("loss", "jaccard", "cosine", "damerau_levenshtein", "wer", "cer")),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        if any(run.results(root, decoder) for decoder in q3_plots.NAMES):
            seeds = f"  # SEED: {', '.join(map(str, run.seeds))}" if len(run.seeds) > 1 else ""
            commands.append(run.command.format(decoder="DECODER", seed="SEED") + seeds)
    return "\n".join([*lines, "", "```bash", *commands, "```"])


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


TRAINING = {"epoch": "images/s", "epoch_every_core": "images/s", "sweep": "s"}  # row of a result file: its unit
THROUGHPUT = dict.fromkeys(
    ("features", "training_lstm", "generation_lstm", "training_transformer", "generation_transformer"), "clips/s"
)
SPEECH_SPEED_KEYS = (
    "metrics.transcription.beyond_imports.median:number", "config.clips:number", "config.hop_ms:number",
    "config.mixed_precision:text", "data.name:text", "data.source:text",
)  # fmt: skip


def ratio_keys(rows) -> list[str]:
    """What the result file of a benchmark with these rows holds."""
    medians = [f"metrics.{row}.{side}.median:number" for row in rows for side in ("baseline", "ours", "ratio")]
    return [
        *medians,
        *(f"metrics.{row}.what:text" for row in rows),
        "environment.cores:number",
        "environment.torch:text",
    ]


def speed(root: Path) -> str:
    """The ratios that benchmarks/ measured."""
    lines = ["| what | the course's way | this | ratio |", "|---|---|---|---|"]
    training = records.load_result(root / "results" / "q2" / "training-speed.json", *ratio_keys(TRAINING))
    for name, unit in TRAINING.items():
        lines.append(speed_row(training["metrics"][name], unit, digits=2))
    throughput = records.load_result(
        root / "results" / "q3" / "throughput.json", *ratio_keys(THROUGHPUT), *SPEECH_SPEED_KEYS
    )
    transcription = throughput["metrics"]["transcription"]
    for name, unit in THROUGHPUT.items():
        lines.append(speed_row(throughput["metrics"][name], unit, digits=1))
    environment = training["environment"]
    machine = f"{environment['cores']} cores, PyTorch {environment['torch']}"
    beyond = f"{transcription['beyond_imports']['median']:.1f} s beyond `import torch, torchaudio`"
    config, data = throughput["config"], throughput["data"]
    note = (
        f"{machine}; medians of alternating runs, the sweep measured once. `python -m asr transcribe` takes {beyond}"
        f" for 10 s of speech. Question 3: {config['clips']} clips of {data['name']} ({data['source']}); our hop is"
        f" {config['hop_ms']:g} ms, the course's 7.3 ms; mixed precision in our training: {config['mixed_precision']}."
    )
    return "\n".join([*lines, "", note])


def speed_row(row: dict, unit: str, digits: int) -> str:
    sides = [
        f"{row[side]['median']:,.{0 if row[side]['median'] > 100 else 1}f} {unit}" for side in ("baseline", "ours")
    ]
    return f"| {row['what']} | {sides[0]} | {sides[1]} | **{row['ratio']['median']:.{digits}f}** |"


def render(text: str, root: Path) -> str:
    """`text` of README.md with the contents between its markers made anew."""
    for name, table in (
        ("overview", overview),
        ("question-1", question_1),
        ("question-2", question_2),
        ("question-3", question_3),
        ("question-3-recorded", question_3_recorded),
        ("speed", speed),
    ):
        begin, end = f"<!-- {name}: made by readme_table.py -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"README.md has no markers {begin} and {end}")
        text = f"{before}{begin}\n{table(root)}\n{end}{after}"
    return text


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    command_line.ArgumentParser(description=__doc__).parse_args(argv)
    readme = records.ROOT / "README.md"
    records.write_file(readme, render(readme.read_text(), records.ROOT).encode())


if __name__ == "__main__":
    sys.exit(main())
