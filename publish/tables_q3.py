"""Question 3 in the report: scores of every run, and of constructed pairs of texts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import records
from asr import metrics
from asr import plots as speech_plots
from asr import runs as q3
from asr.train import VALIDATION_CLIPS
from common.catalogue import Run
from common.speech.text import MAX_TOKENS, VOCABULARY, normalise
from publish import tables
from publish.latex import Results, number, plain, spread, tabular
from publish.verdicts import fewer_errors, paired_bootstrap, verdict
from q1.monomials import feature_dim

SIMILARITIES = {"jaccard": "Jaccard", "cosine": "cosine", "damerau_levenshtein": "Dam.-Lev."}
SCORES = SIMILARITIES | {"wer": r"WER (\%)", "cer": r"CER (\%)"}
MAIN = (q3.FULL, q3.REVOICED)  # pre-trained, if there was a pre-training: the first of them that was run
SCRATCH = ((q3.FULL, q3.FULL_JOINED), (q3.FEW, q3.JOINED))  # trained from nothing, and the same on joined clips
START = "Both start from networks that were trained on many voices (synthetic)."
LONG = 11  # seconds
SHOWN, WIDEST = 5, 100  # transcripts, characters
KEYS = {
    "zero": q3.UNSEEN,
    "tuned": q3.TUNED_RUN,
    "rehearsed": q3.REHEARSED_RUN,
    "beam": q3.RECORDED_BEAM,
    "ctc": q3.RECORDED_CTC,
    "joint": q3.RECORDED_JOINT,
    "main-joint": q3.REVOICED_JOINT,
    "scratch": q3.SCRATCH,
    "shipped": q3.SHIPPED,
    "maclaurin": q3.FEW_MACLAURIN,
}
IN_TEXT = (q3.FULL, q3.FEW, q3.REVOICED, q3.REVOICED_JOINT, q3.SHIPPED, q3.SCRATCH, q3.REHEARSED_RUN, q3.RECORDED_JOINT)


def both(results: Results, run: Run) -> dict[str, list[dict]]:
    """The results of a run by decoder, one for each seed."""
    return {decoder: results.speech(run, decoder) for decoder in speech_plots.NAMES}


def q3_main(results: Results) -> Run:
    """The run with the most clips that the text is about: on recorded speech where there is one."""
    return next((run for run in MAIN if results.speech(run, "lstm")), MAIN[-1])


def q3_numbers(results: Results) -> dict[str, str]:
    main = q3_main(results)
    runs = {decoder: results.needed_speech(main, decoder) for decoder in speech_plots.NAMES}
    config, data, budget = (runs["lstm"][0][key] for key in ("config", "data", "budget"))
    joint = results.needed_speech(KEYS["joint"], "lstm")[0]
    recorded = joint["data"]["sizes"]
    numbers = {}
    for decoder, found in runs.items():
        numbers |= {f"q3-{decoder}-parameters": number(found[0]["parameters"])} | scores_of("q3", decoder, found)
        numbers[f"q3-{decoder}-diagonal"] = number(diagonal(found[0]["attention"]["weights"]), 3)
        for key, run in KEYS.items():
            numbers |= scores_of(f"q3-{key}", decoder, results.speech(run, decoder))
    return numbers | by_length("q3", runs) | few_clips(results) | shipped(results) | kernel(results) | {
        "q3-run": speech_plots.experiment(runs["lstm"][0]),
        "q3-data": speech_data(data),
        "q3-hop": f"{config['hop_ms']:g}",
        "q3-dim": str(config["hidden_dim"]),
        "q3-heads": str(config["num_heads"]),
        "q3-blocks": str(config["num_blocks"]),
        "q3-ctc-weight": f"{config['ctc_weight']:g}",
        "q3-smoothing": f"{config['label_smoothing']:g}",
        "q3-clips": number(budget["clips"]),
        "q3-epochs": str(budget["epochs"]),
        "q3-start": START if config["init"] else "",
        "q3-minutes": number(sum(run[0]["seconds"] for run in runs.values()) / 60 / len(runs)),
        "q3-verdict": speech_verdict(runs),
        "q3-level": rf"{metrics.LEVEL}\,\%",
        "q3-validation-clips": str(VALIDATION_CLIPS),
        "q3-recorded-all": number(sum(recorded.values())),
        "q3-recorded-train": number(recorded["train"]),
        "q3-recorded-test": number(recorded["test"]),
        "q3-ctc-share": f"{joint['config']['ctc_weight']:g}",
        "q3-vocabulary": str(len(VOCABULARY)),
        "q3-positions": str(MAX_TOKENS),
        "q3-most": str(MAX_TOKENS - 1),  # characters that a decoder with positions writes
    }  # fmt: skip


def few_clips(results: Results) -> dict[str, str]:
    """Trainings from scratch, of several seeds, and how they write down clips that are longer than any in training."""
    run, joined = next((pair for pair in SCRATCH if results.speech(pair[0], "lstm")), SCRATCH[-1])
    runs = {decoder: results.needed_speech(run, decoder) for decoder in speech_plots.NAMES}
    budget, data = runs["lstm"][0]["budget"], runs["lstm"][0]["data"]
    numbers = {
        "q3-few-run": speech_plots.experiment(runs["lstm"][0]),
        "q3-few-verdict": speech_verdict(runs),
        "q3-few-clips": number(budget["clips"]),
        "q3-few-data": speech_data(data),
        "q3-few-epochs": str(budget["epochs"]),
        "q3-few-seeds": str(len(runs["lstm"])),
        "q3-longest": number(data["longest"]["train"], 1),
        **by_length("q3-few", runs),
    }
    for decoder, found in runs.items():
        numbers |= scores_of("q3-few", decoder, found)
    return numbers | on_joined("q3-joined", results, joined)


def on_joined(prefix: str, results: Results, runs: Iterable[Run]) -> dict[str, str]:
    """What both decoders make of joined clips: error rates, insertions, the length of what they write."""
    numbers = {}
    for joint in runs:
        key = f"{prefix}-{joint.name[-1]}"
        together = {decoder: results.needed_speech(joint, decoder) for decoder in speech_plots.NAMES}
        numbers[f"{key}-verdict"] = speech_verdict(together)
        for decoder, found in together.items():
            inserted = records.mean_std([result["metrics"]["test"]["cer"]["insertions"] for result in found])
            lengths = records.mean_std([length_ratio(result) for result in found])
            numbers |= scores_of(key, decoder, found) | {
                f"{key}-{decoder}-insertions": rf"{spread(inserted, 100)}\,\%",
                f"{key}-{decoder}-length": spread(lengths, 1, 2),
            }
    return numbers


def shipped(results: Results) -> dict[str, str]:
    """Trainings that start from the shipped recognisers, of several seeds; nothing where they were not run."""
    runs = both(results, q3.SHIPPED)
    if not all(runs.values()):
        return {}
    few = {decoder: results.needed_speech(q3.FEW, decoder) for decoder in speech_plots.NAMES}
    budget = runs["lstm"][0]["budget"]
    return {
        "q3-shipped-run": speech_plots.experiment(runs["lstm"][0]),
        "q3-shipped-clips": number(budget["clips"]),
        "q3-shipped-epochs": str(budget["epochs"]),
        "q3-shipped-seeds": str(len(runs["lstm"])),
        "q3-shipped-verdict": speech_verdict(runs),
        "q3-order": order(few, runs),
        **own_text(runs["transformer"][0]["attention"]["own"]),
        **on_joined("q3-shipped", results, q3.SHIPPED_JOINED),
        "q3-joined-search": joined_search(results),
    }


def own_text(weights: list[list[float]]) -> dict[str, str]:
    """How much of its self-attention (N, N) a decoder gives the two characters before each, and what follows."""
    near = float(np.mean([sum(row[i - 2 : i]) for i, row in enumerate(weights) if i >= 2]))
    short = "So it remembers less than it could: with the current one, these are three characters, like a trigram's."
    return {
        "q3-own-near": rf"{number(100 * near)}\,\%",
        "q3-own-words": short if near > 0.9 else "The rest goes to characters further back.",
    }


def joined_search(results: Results) -> str:
    """What both searches make of two recorded clips in a row; nothing where they were not run."""
    greedy, joint = (both(results, run) for run in q3.RECORDED_JOINED[:2])
    if not all([*greedy.values(), *joint.values()]):
        return ""
    rates = [
        scores_of("", decoder, found[decoder])[f"-{decoder}-cer"]
        for found in (greedy, joint)
        for decoder in speech_plots.NAMES
    ]
    return (
        "Two recorded clips (real) give the shipped recognisers {} and {} with greedy search, and {} and {} with the"
        " joint one, whose CTC head keeps the place in the sound: {}.".format(*rates, speech_verdict(joint))
    )


def order(few: dict[str, list[dict]], much: dict[str, list[dict]]) -> str:
    """Whether the better decoder of trainings from scratch is also that of trainings after a pre-training."""
    early, late = (
        fewer_errors({name: [run["metrics"]["test"]["cer"] for run in found] for name, found in runs.items()})
        for runs in (few, much)
    )
    if early is None or late is None:
        return "So the seeds do not show that pre-training changes which decoder is the better one."
    names = speech_plots.NAMES
    if early == late:
        return f"So the {names[early]} is the better one with little training and with much."
    return (
        f"So both findings hold, each for its amount of training: with little, the {names[early]} is ahead, and with"
        f" much, the {names[late]}. Why the order turns was not examined."
    )


def by_length(prefix: str, runs: dict[str, list[dict]]) -> dict[str, str]:
    """Error rates of the single test clips of more than LONG seconds, and of the others: means over clips and seeds."""
    numbers, long = {f"{prefix}-long-seconds": str(LONG)}, {}
    for decoder, found in runs.items():
        lengths, errors = speech_plots.lengths_and_errors(found)
        numbers[f"{prefix}-{decoder}-long"] = rf"{number(errors[lengths > LONG].mean(), 1)}\,\%"
        numbers[f"{prefix}-{decoder}-short"] = rf"{number(errors[lengths <= LONG].mean(), 1)}\,\%"
        for result in found:
            lengths, errors = speech_plots.lengths_and_errors([result])
            long.setdefault(decoder, []).append(errors[lengths > LONG] / 100)
    metric = {
        decoder: [{"mean": each.mean(), "values": each.tolist()} for each in found] for decoder, found in long.items()
    }
    return numbers | {f"{prefix}-long-verdict": rates_verdict(metric)}


def kernel(results: Results) -> dict[str, str]:
    """The series in the encoder against softmax; nothing where it was not run: text about it does not compile then."""
    softmax, series = (results.speech(run, "transformer") for run in (q3.FEW, q3.FEW_MACLAURIN))
    if not (softmax and series):
        return {}
    rates = [records.mean_std([run["metrics"]["test"]["cer"]["mean"] for run in runs]) for runs in (softmax, series)]
    epochs = [np.median([epoch["seconds"] for run in runs for epoch in run["history"]]) for runs in (series, softmax)]
    config, data = series[0]["config"], series[0]["data"]
    dim = config["hidden_dim"] // config["num_heads"]
    return {
        "q3-kernel-verdict": verdict("the series", rates[1], rates[0], more_is_better=False),
        "q3-kernel-softmax": rf"{spread(rates[0], 100)}\,\%",
        "q3-kernel-time": number(epochs[0] / epochs[1], 1),
        "q3-kernel-seeds": str(len(series)),
        "q3-head-dim": str(dim),
        "q3-kernel-crossover": number(feature_dim(dim) * (dim + 1) / dim),
        "q3-kernel-switch": number(math.sqrt(feature_dim(dim) * (dim + 1))),
        "q3-kernel-positions": number(data["longest"]["train"] * 1000 / config["hop_ms"] / 2),
    }


def scores_of(prefix: str, decoder: str, found: list[dict]) -> dict[str, str]:
    """The test scores of a run; nothing where it was not run, so that a text about it does not compile."""
    pairs = [(Path(), result) for result in found]
    return {
        f"{prefix}-{decoder}-{name}": plain(tables.score(pairs, name).replace(" not converged", ""))
        + (r"\,\%" if name in ("wer", "cer") else "")
        for name in ("loss", *SCORES)
        if found and (name != "loss" or "loss" in found[0]["metrics"]["test"])
    }


def length_ratio(result: dict) -> float:
    """How long what a decoder wrote is, over what was said: the mean of the transcripts that are kept."""
    kept = result["metrics"]["test"]["transcripts"]
    return float(np.mean([len(clip["heard"]) / len(clip["said"]) for clip in kept]))


def diagonal(weights: list[list[float]]) -> float:
    """Correlation of a character's place with the moment that the decoder looks at while it writes it (N, S)."""
    weights = np.array(weights)
    moments = weights @ np.arange(weights.shape[1]) / weights.sum(1)
    return float(np.corrcoef(np.arange(len(weights)), moments)[0, 1])


def speech_verdict(runs: dict[str, list[dict]]) -> str:
    """Which decoder makes fewer mistakes, and by how much; or that the results cannot tell."""
    return rates_verdict({name: [run["metrics"]["test"]["cer"] for run in found] for name, found in runs.items()})


def rates_verdict(rates: dict[str, list[dict]]) -> str:
    """The same of error rates by decoder: one for each seed, with those of each clip."""
    lstm, transformer = rates["lstm"], rates["transformer"]
    if len(lstm) == len(transformer) == 1:
        low, high = (100 * bound for bound in paired_bootstrap(lstm[0]["values"], transformer[0]["values"]))
        if low <= 0 <= high:
            return f"a paired bootstrap over clips does not tell them apart ({low:.1f} to {high:.1f} points)"
        better, bounds = ("Transformer", (low, high)) if low > 0 else ("LSTM", (-high, -low))
        return (
            f"the {better} is better, by {bounds[0]:.1f} to {bounds[1]:.1f} points a clip (paired bootstrap over clips)"
        )
    means = [records.mean_std([metric["mean"] for metric in found]) for found in (transformer, lstm)]
    return verdict("the Transformer", *means, more_is_better=False)


def speech_data(data: dict) -> str:
    """The corpus in words, with what it is made of."""
    return plain(speech_plots.corpus_in_words(data))


def q3_results(results: Results) -> str:
    """Scores of the test parts of the runs that the text is about."""
    return scores_table(results, [run for run in IN_TEXT if any(both(results, run).values())])


def q3_all(results: Results) -> str:
    """Scores of the test parts of every run."""
    return scores_table(results, [*q3.ON_SYNTHETIC, *q3.ON_RECORDED_SPEECH])


def scores_table(results: Results, runs: list[Run]) -> str:
    """A block for each way of training: what it started from, its own clips and epochs, and the scores."""
    header = ["", "seeds", "clips $\\times$ epochs", "loss", *SCORES.values()]
    rows: list[list[str] | str] = []
    for run in runs:
        found = both(results, run)
        if any(found.values()):
            before = " + ".join(times(*budget) for budget in earlier(results, next(filter(None, found.values()))[0]))
            rows.append(in_words(run) + (f", after {before}" if before else ""))
        for decoder, trained in found.items():
            if trained:
                pairs = [(Path(), result) for result in trained]
                # numbers below 1 without their zero: the table is as wide as the page
                shown = [plain(tables.score(pairs, name)) for name in ("loss", *SCORES)]
                shown = [re.sub(r"(?<!\d)0\.", ".", cell.replace(" not converged", "*")) for cell in shown]
                shown = [whole(cell) if re.match(r"\d{3}", cell) else cell for cell in shown]
                budget = trained[0].get("budget")
                size = times(budget["clips"], budget["epochs"]) if budget else ""
                rows.append([speech_plots.NAMES[decoder], str(len(trained)), size, *shown])
    return tabular("lrrrrrrrr", header, rows)


def in_words(run: Run) -> str:
    """A run as the heading of its rows: on recorded clips, or on synthetic ones."""
    what = plain(run.what).replace("`maclaurin`", r"\texttt{maclaurin}")
    what = re.sub("^its texts", "LJ Speech's texts", what)
    return f"recorded clips; trained {what}" if run in q3.ON_RECORDED_SPEECH else what


def times(clips: int, epochs: int) -> str:
    return rf"{number(clips)} $\times$ {epochs}"


def earlier(results: Results, result: dict) -> list[tuple[int, int]]:
    """Clips and epochs of the trainings that a training started from, the first one first."""
    start = result["config"].get("init")
    if not start:
        return []
    if (records.ROOT / "checkpoints" / start).exists():  # the seed with the lowest validation error is shipped
        runs = results.needed_speech(q3.REHEARSED_RUN, result["config"]["decoder"])
        before = min(runs, key=lambda run: run["metrics"]["validation"]["cer"]["mean"])
    else:
        before = results(f"q3/{Path(start).stem}")
    return [*earlier(results, before), (before["budget"]["clips"], before["budget"]["epochs"])]


def whole(cell: str) -> str:
    """Without decimals: above 100 % they only take room."""
    return re.sub(r"\d+\.\d+", lambda match: f"{float(match[0]):.0f}", cell)


def q3_transcripts(results: Results) -> str:
    """What both decoders wrote down of the first test clips that fit on a line."""
    found = [results.needed_speech(q3_main(results), decoder)[0] for decoder in speech_plots.NAMES]
    pairs = list(zip(*(result["metrics"]["test"]["transcripts"] for result in found), strict=True))
    short = [each for each in pairs if all(len(clip[text]) <= WIDEST for clip in each for text in ("said", "heard"))]
    rows: list[list[str] | str] = []
    for each in short[:SHOWN]:
        rows.append(plain(each[0]["said"]))
        rows += [[name, plain(clip["heard"])] for name, clip in zip(speech_plots.NAMES.values(), each, strict=True)]
    return tabular("ll", ["said", "written"], rows)


SAID = "the cat sat on the mat"
HEARD = (
    ("the same", SAID),
    ("an anagram", "tam eht no tas tac eht"),
    ("two letters swapped", "the cat sat on the amt"),
    ("a word lost", "the cat on the mat"),
    ("a loop", "the cat sat on the mat on the mat"),
    ("one letter a word", "tha cet sit an tha met"),
    ("something else", "we had tea at noon"),
)


def q3_pairs(results: Results) -> str:
    """The scores of constructed pairs, by the code that scores transcripts."""
    rows = []
    for what, heard in HEARD:
        pair = normalise(SAID), normalise(heard)
        rates = [metrics.word_error_rate(*pair), metrics.character_error_rate(*pair)]
        similar = [metrics.jaccard(*pair), metrics.cosine(*pair), metrics.damerau_levenshtein(*pair)]
        rows.append([what, rf"\emph{{{heard}}}", *(number(x, 2) for x in similar), *(number(100 * x) for x in rates)])
    return tabular("llrrrrr", ["", "written", *SCORES.values()], rows)
