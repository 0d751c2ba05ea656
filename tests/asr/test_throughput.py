"""benchmarks/q3_throughput.py: that the course's way is written fairly, and that it measures what it says."""

import importlib.util
import json
import statistics
import sys

import pytest
import torch

import records
from asr.generate import greedy
from asr.model import SpeechRecognizer
from common.speech.audio import Features
from common.speech.data import load_corpus
from common.speech.text import EMPTY, START, STOP
from synthetic.speech import write_corpus

SPEC = importlib.util.spec_from_file_location("q3_throughput", records.ROOT / "benchmarks" / "q3_throughput.py")
benchmark = sys.modules["q3_throughput"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("spoken") / "spoken", n=12, seed=0, workers=1)


@pytest.fixture
def part(corpus_dir, tmp_path):
    return load_corpus(corpus_dir, Features(), cache=tmp_path, workers=1).train


def test_a_batch_of_the_course_is_padded_to_one_size(part):
    sentences = [[START, *range(5, 15), STOP], [START, *[7] * 150, STOP]]
    features, lengths, tokens = benchmark.course_batch(part.paths[:2], sentences)
    assert features.shape == (2, 2754, 80)
    assert lengths.tolist() == [2754, 2754]
    seconds = part.frame_counts()[:2] * 0.016
    for row, duration in zip(features, seconds, strict=True):
        spoken = row.abs().sum(1).nonzero().max().item() + 1
        assert spoken * 160 / 22050 == pytest.approx(duration, abs=0.05)
    assert tokens.shape == (2, 98)
    assert tokens[0].tolist() == sentences[0] + [EMPTY] * 86
    assert tokens[1].tolist() == sentences[1][:98]


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_the_courses_generation_writes_what_ours_writes(part, decoder):
    torch.manual_seed(0)
    model = benchmark.never_stopping(SpeechRecognizer(decoder, hidden_dim=16, num_blocks=1))
    few = part.first(3)
    features, lengths, _ = benchmark.course_batch(few.paths, few.tokens)
    expected = benchmark.course_generation(benchmark.Config(), model, few)
    assert [len(sentence) for sentence in expected] == [97] * 3
    written = greedy(model, features, lengths, limit=97)
    assert written == [[token for token in sentence if token != EMPTY] for sentence in expected]


@pytest.mark.parametrize(("side", "prepare"), [("course_training", "with_adamw"), ("our_training", "with_ours")])
def test_both_sides_train(part, side, prepare):
    config = benchmark.Config(batch_size=4)
    model, optimizer = getattr(benchmark, prepare)(benchmark.new_model(benchmark.Config(num_blocks=1), "lstm"))
    before = [parameter.clone() for parameter in model.parameters()]
    getattr(benchmark, side)(config, model, optimizer, part.first(4))
    trained = [name for (name, now), then in zip(model.named_parameters(), before, strict=True) if not now.equal(then)]
    assert {name for name, _ in model.named_parameters()} - set(trained) <= {"ctc_head.weight", "ctc_head.bias"}


def test_ratios_are_of_calls_in_turn(monkeypatch):
    clock = iter([0, 9, 10, 19, 100, 104, 200, 202, 300, 306, 400, 402, 500, 520, 600, 602])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    entry = benchmark.compare("x", 8, lambda: None, lambda: None, repetitions=3)
    assert entry["baseline"]["values"] == [2, 8 / 6, 0.4]
    assert entry["ours"]["values"] == [4, 4, 4]
    assert entry["ratio"] == {"median": 3, "values": [2, 3, 10]}  # without the first pair, which warms up


@pytest.mark.slow
def test_a_run_from_start_to_end(corpus_dir, tmp_path, capsys):
    flags = ["--clips", "4", "--batch_size", "4", "--repetitions", "1", "--num_blocks", "1"]
    assert benchmark.main([*flags, "--data", str(corpus_dir), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "q3" / "throughput.json").read_text())
    assert result["data"]["source"] == "synthetic"
    transcription = result["metrics"].pop("transcription")
    sides = [transcription[name]["median"] for name in ("imports", "transcribe", "beyond_imports")]
    assert sides[2] == pytest.approx(sides[1] - sides[0])
    assert set(result["metrics"]) == {
        "features",
        *(f"{what}_{decoder}" for what in ("training", "generation") for decoder in ("lstm", "transformer")),
    }
    for entry in result["metrics"].values():
        assert entry["ratio"]["values"] == pytest.approx(
            [ours / course for ours, course in zip(entry["ours"]["values"], entry["baseline"]["values"], strict=True)]
        )
        assert entry["ratio"]["median"] == statistics.median(entry["ratio"]["values"])
    assert "clips/s" in capsys.readouterr().out
