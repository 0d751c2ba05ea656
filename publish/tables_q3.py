"""Question 3 in the report: scores of every run, and of constructed pairs of texts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import records
from asr import metrics
from asr import plots as speech_plots
from asr import runs as q3
from asr.text import MAX_TOKENS, VOCABULARY, normalise
from common.catalogue import Run
from publish import tables
from publish.latex import Results, number, plain, tabular
from publish.verdicts import verdict
from q1.monomials import feature_dim

SIMILARITIES = {"jaccard": "Jaccard", "cosine": "cosine", "damerau_levenshtein": "Dam.-Lev."}
SCORES = SIMILARITIES | {"wer": r"WER (\%)", "cer": r"CER (\%)"}
MAIN = (q3.FULL, q3.REVOICED)  # the first that was run is the one that the text is about
CORPORA = {
    "LJSpeech-1.1": "LJ Speech",
    "revoiced": "LJ Speech's texts, spoken by espeak-ng",
    "voices": "LJ Speech's texts in many voices",
    "ljspeech-345": "LJ Speech's first 345 clips",
}
START = "Both start from networks that had learnt to listen on many voices (synthetic)."
LONG = 10  # seconds
JOINED = (2, 3)  # clips in a row
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
    "few": q3.FEW,
    "maclaurin": q3.FEW_MACLAURIN,
}


def q3_main(results: Results) -> Run:
    """The run that the text is about: on recorded speech where there is one."""
    return next((run for run in MAIN if results.speech(run, "lstm")), MAIN[-1])


def q3_numbers(results: Results) -> dict[str, str]:
    main = q3_main(results)
    numbers, runs = {}, {}
    for decoder in speech_plots.NAMES:
        runs[decoder] = results.needed_speech(main, decoder)
        result = runs[decoder][0]
        numbers |= {f"q3-{decoder}-parameters": number(result["parameters"])} | scores_of("q3", decoder, runs[decoder])
        lengths, errors = speech_plots.lengths_and_errors(runs[decoder])
        numbers |= {
            f"q3-{decoder}-long": rf"{number(errors[lengths > LONG].mean(), 1)}\,\%",
            f"q3-{decoder}-short": rf"{number(errors[lengths <= LONG].mean(), 1)}\,\%",
            f"q3-{decoder}-diagonal": number(diagonal(result["attention"]["weights"]), 3),
        }
        for join in JOINED:
            name = f"{result['run']}-on-{result['data']['name']}-test-join{join}"
            joined = results(f"q3/{name}")
            numbers |= scores_of(f"q3-joined-{join}", decoder, [joined])
            numbers[f"q3-joined-{join}-{decoder}-length"] = number(length_ratio(joined), 2)
        for key, run in KEYS.items():
            numbers |= scores_of(f"q3-{key}", decoder, results.speech(run, decoder))
    config, data = runs["lstm"][0]["config"], runs["lstm"][0]["data"]
    joint = results.needed_speech(KEYS["joint"], "lstm")[0]
    recorded = joint["data"]["sizes"]
    budgets = [result["budget"] for result in (runs["lstm"][0], runs["transformer"][0])]
    numbers |= few_clips(results) | {
        "q3-run": speech_plots.experiment(runs["lstm"][0]),
        "q3-data": speech_data(data),
        "q3-hop": f"{config['hop_ms']:g}",
        "q3-dim": str(config["hidden_dim"]),
        "q3-heads": str(config["num_heads"]),
        "q3-blocks": str(config["num_blocks"]),
        "q3-ctc-weight": f"{config['ctc_weight']:g}",
        "q3-smoothing": f"{config['label_smoothing']:g}",
        "q3-clips": number(budgets[0]["clips"]),
        "q3-epochs": str(budgets[0]["epochs"]),
        "q3-start": START if config["init"] else "",
        "q3-minutes": number(sum(run[0]["seconds"] for run in runs.values()) / 60 / len(runs)),
        "q3-verdict": speech_verdict(runs),
        "q3-long-seconds": str(LONG),
        "q3-longest": number(data["longest"]["train"], 1),
        "q3-level": rf"{metrics.LEVEL}\,\%",
        "q3-recorded-all": number(sum(recorded.values())),
        "q3-recorded-train": number(recorded["train"]),
        "q3-recorded-test": number(recorded["test"]),
        "q3-ctc-share": f"{joint['config']['ctc_weight']:g}",
        "q3-vocabulary": str(len(VOCABULARY)),
        "q3-positions": str(MAX_TOKENS),
        "q3-most": str(MAX_TOKENS - 1),  # characters that a decoder with positions writes
    }
    return numbers


def few_clips(results: Results) -> dict[str, str]:
    """Trainings from scratch on few clips: the decoders, and the series in the encoder against softmax.

    Nothing where they were not run, as in scores_of.
    """
    lstm, softmax = (results.speech(KEYS["few"], decoder) for decoder in speech_plots.NAMES)
    series = results.speech(KEYS["maclaurin"], "transformer")
    groups = lstm, softmax, series
    if not all(groups):
        return {}
    rates = [records.mean_std([run["metrics"]["test"]["cer"]["mean"] for run in runs]) for runs in groups]
    epochs = [np.median([epoch["seconds"] for run in runs for epoch in run["history"]]) for runs in (series, softmax)]
    config, budget, data = (series[0][key] for key in ("config", "budget", "data"))
    dim = config["hidden_dim"] // config["num_heads"]
    return {
        "q3-few-verdict": verdict("the Transformer", rates[1], rates[0], more_is_better=False),
        "q3-few-clips": number(budget["clips"]),
        "q3-few-epochs": str(budget["epochs"]),
        "q3-few-seeds": str(len(softmax)),
        "q3-kernel-verdict": verdict("the series", rates[2], rates[1], more_is_better=False),
        "q3-kernel-time": number(epochs[0] / epochs[1], 1),
        "q3-kernel-seeds": str(len(series)),
        "q3-head-dim": str(dim),
        "q3-kernel-crossover": number(feature_dim(dim) * (dim + 1) / dim),
        "q3-kernel-positions": number(data["longest"]["train"] * 1000 / config["hop_ms"] / 2),
    }


def scores_of(prefix: str, decoder: str, found: list[dict]) -> dict[str, str]:
    """The test scores of a run; nothing where it was not run, so that a text about it does not compile."""
    pairs = [(Path(), result) for result in found]
    return {
        f"{prefix}-{decoder}-{name}": plain(tables.score(pairs, name).replace(" not converged", ""))
        + (r"\,\%" if name in ("wer", "cer") else "")
        for name in SCORES
        if found
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
    """Which decoder makes fewer mistakes, when the intervals of their error rates are apart."""
    rates = {decoder: found[0]["metrics"]["test"]["cer"] for decoder, found in runs.items()}
    better, worse = sorted(rates, key=lambda decoder: rates[decoder]["mean"])
    if rates[better]["interval"][1] < rates[worse]["interval"][0]:
        return f"the {speech_plots.NAMES[better]} makes fewer mistakes, and the intervals are apart"
    return "the intervals overlap, so that neither decoder is shown to be better"


def speech_data(data: dict) -> str:
    """The corpus in words, with what it is made of."""
    kind = "recorded" if data["source"] == "real" else "synthetic"
    return f"{CORPORA.get(data['name'], plain(data['name']))} ({kind})"


def q3_results(results: Results) -> str:
    """Scores of the test parts, a block for each way of training."""
    header = ["", "seeds", "clips $\\times$ epochs", "loss", *SCORES.values()]
    rows: list[list[str] | str] = []
    for run in q3.ON_SYNTHETIC + q3.ON_RECORDED_SPEECH:
        recorded = run in q3.ON_RECORDED_SPEECH
        found = {decoder: results.speech(run, decoder) for decoder in speech_plots.NAMES}
        if any(found.values()):
            what = plain(run.what).replace("`maclaurin`", r"\texttt{maclaurin}")
            what = re.sub("^its texts", "LJ Speech's texts", what)
            rows.append(f"recorded clips; trained {what}" if recorded else what)
        for decoder, trained in found.items():
            if trained:
                budget = trained[0].get("budget")
                pairs = [(Path(), result) for result in trained]
                # numbers below 1 without their zero: the table is as wide as the page
                shown = [plain(tables.score(pairs, name)) for name in ("loss", *SCORES)]
                shown = [re.sub(r"(?<!\d)0\.", ".", cell.replace(" not converged", "*")) for cell in shown]
                shown = [whole(cell) if re.match(r"\d{3}", cell) else cell for cell in shown]
                size = rf"{number(budget['clips'])} $\times$ {budget['epochs']}" if budget else ""
                rows.append([speech_plots.NAMES[decoder], str(len(trained)), size, *shown])
    return tabular("lrrrrrrrr", header, rows)


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
    return tabular("ll", ["said", "heard"], rows)


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
    return tabular("llrrrrr", ["", "heard", *SCORES.values()], rows)
