"""Question 1 in brief: how far linear attention is from softmax, and from which length it is faster."""

from __future__ import annotations

from pathlib import Path

import records
from demo.part import Part, call
from publish.page import Picture, Section, Table

FLAGS = ("--length", "128", "--seeds", "0", "1", "2")


def linear_attention(out: Path) -> Section:
    import q1_linear_attention  # here: PyTorch takes seconds, and the first line is to be read at once
    from q1 import demo

    command = call(q1_linear_attention.main, "python q1_linear_attention.py", *FLAGS, "--out", str(out))
    result = records.load_result(
        out / "q1" / "demo.json",
        "crossover.*.length:number",
        "crossover.*.seconds.*:number",
        "errors.*.error.mean:number",
    )
    picture = Picture(
        out / "plots" / "q1" / "demo-weights.png",
        "Four heat maps of attention weights: exact softmax, and its approximation by two, three and five terms",
        "Attention weights of synthetic inputs, exact and approximated: the more terms, the more alike.",
    )
    return Section(
        "Question 1: linear attention",
        headline=demo.headline(result),
        lines=(closeness(result),),
        pictures=(picture,),
        tables=(crossovers(result),),
        commands=(command,),
    )


def closeness(result: dict, terms: int = 3, score: float = 1.0) -> str:
    """Half the sum of |exact - approximated weight| is the share of the attention that goes elsewhere."""
    rows = result["errors"]
    error = next(row["error"]["mean"] for row in rows if (row["terms"], row["largest_score"]) == (terms, score))
    missed = f"{50 * error:.1f} % of the attention is on other keys"
    return f"It is an approximation: with scores up to {score:g}, {missed} (synthetic)."


def crossovers(result: dict) -> Table:
    rows = [
        [
            str(row["dim"]),
            f"{row['length']:,}" if row["found"] else f"not up to {row['length']:,}",
            *(f"{1000 * row['seconds'][name]:.2f} ms" for name in ("linear", "softmax")),
        ]
        for row in result["crossover"]
    ]
    header = ["width of a head", "linear is faster from", "linear attention", "softmax attention"]
    return Table("The time of one call at that many tokens (random, so synthetic, inputs)", header, rows)


PARTS = (Part("q1", "Question 1: linear attention", 20, linear_attention),)
