"""What the homework's report takes from results/: numbers, phrases that depend on them, and tables.

Where the homework's own data was used (OCTMNIST, the whole of LJ Speech), the report is about that; otherwise about
what stands in for it.
"""

from __future__ import annotations

import hashlib
import json

import records
from asr import plots as speech_plots
from asr import runs as q3
from publish.latex import Document, Results, number, plain, tabular
from publish.tables_q1 import q1_numbers, q1_peers, q1_speed
from publish.tables_q2 import q2_data, q2_layers, q2_numbers, q2_results
from publish.tables_q3 import (
    SIMILARITIES,
    q3_all,
    q3_main,
    q3_numbers,
    q3_pairs,
    q3_results,
    q3_transcripts,
    speech_data,
)


def method_numbers(results: Results) -> dict[str, str]:
    environment = results("q1/attention-speed")["environment"]
    missing = "could not be downloaded where these results were made;"
    images = "PneumoniaMNIST (real) and OCT-like scans (synthetic) stand in for it."
    speech = "its texts, spoken by espeak-ng (synthetic), and its first 345 clips (recorded) stand in for it."
    sentences = [
        *([] if results.exists("q2/octmnist-sweep") else [f"OCTMNIST {missing} {images}"]),
        *([] if q3_main(results) is q3.FULL else [f"The whole of LJ Speech {missing} {speech}"]),
    ]
    machine = f"{environment['cores']} cores ({plain(environment['platform'])}), {environment['gpu'] or 'no GPU'}"
    return {
        "method-missing": " ".join(sentences),
        "method-machine": f"{machine}, PyTorch {environment['torch']}",
    }


def data_table(results: Results) -> str:
    """What each result was measured on."""
    rows = [["1", "random queries and keys", "synthetic", "", "", "", ""]]
    for name in q2_data(results):
        data = results(f"q2/{name}-sweep")["data"]
        kind = data["source"]
        sizes = [number(data["sizes"][part]) for part in ("train", "val", "test")]
        rows.append(["2", plain(data["name"]), kind, *sizes, ""])
    described = {}
    for run in q3.ON_SYNTHETIC + q3.ON_RECORDED_SPEECH:
        for result in results.speech(run, "transformer"):
            described.setdefault(result["data"]["name"], result["data"])
    for data in described.values():
        sizes = [number(data["sizes"][part]) for part in ("train", "validation", "test")]
        kind = "recorded" if data["source"] == "real" else "synthetic"
        words = speech_data(data).removesuffix(f" ({kind})")
        rows.append(["3", words, kind, *sizes, number(sum(data["hours"].values()), 1)])
    return tabular("clrrrrr", ["question", "data", "", "training", "validation", "test", "hours"], rows)


def published(results: Results) -> str:
    """Figures of others, which no run of this repository made."""
    path = records.ROOT / "report" / "published.json"
    content = path.read_bytes()
    results.read["report/published.json"] = hashlib.sha256(content).hexdigest()
    figures, rows = json.loads(content), []
    for row in figures["speech"]:
        values = [number(row[name], 3) if row[name] is not None else "" for name in ("loss", *SIMILARITIES)]
        rows.append([speech_plots.NAMES[row["decoder"]], str(row["epochs"]), *values])
    speech = tabular("lrrrrr", ["LJ Speech (recorded)", "epochs", "loss", *SIMILARITIES.values()], rows)
    rows = [[row["network"], number(row["auc"], 3), number(100 * row["accuracy"], 1)] for row in figures["images"]]
    images = tabular("lrr", ["PneumoniaMNIST (real)", "AUC", r"accuracy (\%)"], rows)
    return speech + r"\hfill" + "\n" + images


DOCUMENT = Document(
    name="report",
    folder="sections",
    numbers=(q1_numbers, q2_numbers, q3_numbers, method_numbers),
    tables={
        "q1-speed": q1_speed,
        "q1-peers": q1_peers,
        "q2-layers": q2_layers,
        "q2-results": q2_results,
        "q3-results": q3_results,
        "q3-all": q3_all,
        "q3-transcripts": q3_transcripts,
        "q3-pairs": q3_pairs,
        "data": data_table,
        "published": published,
    },
)
