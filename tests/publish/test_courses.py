"""What README.md says of the other courses, each line from a result worked out by hand."""

import pytest

from publish import courses


def scores(mean: float, std: float) -> dict:
    return {"test": {"accuracy": {"mean": mean, "std": std, "values": [mean - std, mean, mean + std]}}}


LINES = {
    courses.photographs: (
        {"metrics": scores(0.861, 0.004), "parameters": 163_034, "data": {"sizes": {"train": 9000}}},
        "CIFAR-10 (JPEG, real): 86.1 ± 0.4 % right from 9,000 images, with 163,034 parameters",
    ),
    courses.by_hand: (
        {"metrics": scores(0.97, 0.002), "data": {"sizes": {"test": 360}}},
        "97.0 ± 0.2 % of 360 small digits (real) are right, trained without autograd",
    ),
    courses.echoes: (
        {"metrics": scores(0.9995, 0.0002), "config": {"max_delay": 12}},
        "random letters (synthetic): 99.95 ± 0.02 % repeated at the hardest delay from 0 to 12",
    ),
    courses.words: (
        {
            "config": {"word_length": 5},
            "methods": {
                "nll": {
                    "by_set": {
                        "5": {"paths_exact": {"mean": 0.998, "std": 0.001, "values": [0.997, 0.998, 0.999]}},
                        "10": {"paths_exact": {"mean": 0.991, "std": 0.004, "values": [0.987, 0.991, 0.995]}},
                    }
                }
            },
        },
        "rendered words (synthetic): 99.8 ± 0.1 % of 5 letters and 99.1 ± 0.4 % of 10 are read exactly, trained on 5",
    ),
    courses.transformer: (
        {
            "models": {
                f"{kind}, {count}, moved": {
                    "metrics": {"test": {"accuracy": {"mean": mean, "std": None, "values": [mean]}}},
                    "settings": {"train_size": count},
                    "parameters": 460_906,
                }
                for kind, count, mean in (("vit", 2000, 0.4), ("cnn", 2000, 0.5), ("vit", 900, 0.3), ("cnn", 900, 0.45))
            }
        },
        "CIFAR-10 (JPEG, real): 40.0 % right from 2,000 images, with 460,906 parameters; a CNN of that size: 50.0 %",
    ),
    courses.translation: (
        {
            "models": {
                name: {"metrics": {"test": {"bleu": {"mean": bleu, "std": None, "values": [bleu]}}}}
                for name, bleu in (("transformer", 35.24), ("lstm", 33.0))
            }
        },
        "Multi30k (real), English to German: BLEU 35.2 against 33.0, a Transformer against an LSTM of its size",
    ),
    courses.from_features("full", "scratch", "ants and bees"): (
        {"models": {"full": {"metrics": scores(0.93, 0.01)}, "scratch": {"metrics": scores(0.71, 0.02)}}},
        "ants and bees (real): 93.0 ± 1.0 % right with pretrained weights, 71.0 ± 2.0 % without",
    ),
    courses.accuracy: (
        {"models": {"patches of 4": {"metrics": scores(0.9931, 0.0006), "parameters": 241_000}}},
        "MNIST (real): 99.31 ± 0.06 % of the test images are right, with 241,000 parameters",
    ),
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.__name__)
def test_a_line_says_what_its_result_holds(line):
    result, words = LINES[line]
    assert line(result) == words


def test_what_was_not_run_is_said_with_its_command(tmp_path):
    rows = courses.courses(tmp_path).splitlines()[2:]
    assert len(rows) == len(courses.PARTS)
    for row, (course, part, run, _) in zip(rows, courses.PARTS, strict=True):
        assert row == f"| {course} | {part} | not run here: `{run.command}` |"
