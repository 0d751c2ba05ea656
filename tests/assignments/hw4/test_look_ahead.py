"""A limited look-ahead in Question 3's encoder: on what an output depends, frame by frame."""

import json

import pytest
import torch

from asr.model import Encoder
from assignments.hw4 import look_ahead_plots
from benchmarks import hw4_look_ahead
from benchmarks.hw4_look_ahead import frames_late, limited, milliseconds_late
from common.speech.audio import Features
from records import ROOT
from synthetic.speech import write_corpus

FRAMES = 50


@pytest.mark.equation("eq:hw4-look-ahead")
@pytest.mark.parametrize("look_ahead", [0, 1, 3])
def test_an_output_depends_on_as_many_frames_as_said(look_ahead):
    torch.manual_seed(0)
    encoder = Encoder(mel_bins=4, hidden_dim=8, num_heads=2, num_blocks=2).double().eval()
    features = torch.randn(1, FRAMES, 4, dtype=torch.float64, requires_grad=True)
    position, direction = 6, torch.randn(8, dtype=torch.float64)  # a sum is 0 after layer normalisation
    with limited(encoder, look_ahead):
        output = encoder(features, torch.tensor([FRAMES])).encoded[0, position]
    (gradient,) = torch.autograd.grad(output @ direction, features)
    last = gradient[0].abs().sum(1).nonzero().max().item()
    assert last == 2 * position + frames_late(encoder, look_ahead)
    whole = encoder(features, torch.tensor([FRAMES])).encoded[0, position]  # the limit is gone
    (gradient,) = torch.autograd.grad(whole @ direction, features)
    assert gradient[0, -1].abs().sum() > 0


def test_a_look_ahead_of_all_changes_nothing():
    encoder, features = Encoder(4, 8, 2, 2).double().eval(), torch.randn(2, FRAMES, 4, dtype=torch.float64)
    lengths = torch.tensor([FRAMES, 30])
    with limited(encoder, None):
        found = encoder(features, lengths)
    expected = encoder(features, lengths)
    torch.testing.assert_close(
        found.encoded[~found.padding], expected.encoded[~expected.padding], rtol=1e-10, atol=1e-12
    )


def test_a_frame_late_is_its_hop_and_the_last_one_is_heard_out():
    features = Features(sample_rate=16000, window_ms=25.0, hop_ms=10.0, mel_bins=80)
    assert milliseconds_late(3, features) == 42.5


@pytest.mark.slow
def test_the_benchmark_says_what_it_found(tmp_path, capsys):
    write_corpus(tmp_path / "spoken", n=12)
    flags = ["--data", str(tmp_path / "spoken"), "--cache", str(tmp_path / "cache"), "--look_aheads", "0", "4"]
    checkpoint = str(ROOT / "checkpoints" / "ljspeech-345-tuned-lstm.safetensors")
    hw4_look_ahead.main([*flags, "--checkpoint", checkpoint, "--out", str(tmp_path / "out")])
    result = json.loads((tmp_path / "out" / "assignments" / "hw4-look-ahead.json").read_text())
    assert [row["look_ahead"] for row in result["rows"]] == [0, 4, None]
    assert result["data"]["source"] == "synthetic"
    assert [row["frames_late"] for row in result["rows"]] == [2, 34, None]
    assert "all positions ahead:  the whole clip, CER" in capsys.readouterr().out
    line = look_ahead_plots.plot(result).axes[0].containers[0].lines[0]
    assert list(line.get_ydata()) == [100 * row["cer"]["mean"] for row in result["rows"][:2]]
