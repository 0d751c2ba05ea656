"""Transcription: what of a recording is speech, its faults, its pieces and their times, and the command."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import records
from asr.__main__ import clock, main
from asr.config import SHIPPED
from asr.speech import spans_to_keep, without_faults
from asr.transcribe import Segment, pieces_of_speech, recognise, transcribe
from common.saved_models import read_weights, write_weights
from common.speech.audio import Features, log_mel, read_audio
from synthetic.speech import write_corpus

RATE = 16000
LJSPEECH = records.ROOT.parent / "shared" / "data" / "LJSpeech-1.1"


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A sentence (n,) at 16 kHz."""
    folder = tmp_path_factory.mktemp("sentence")
    (folder / "texts.csv").write_text("a|x|he opened the door of the old house, and went away.\n")
    return read_audio(write_corpus(folder / "spoken", texts=folder / "texts.csv", workers=1) / "wavs" / "a.wav")


@pytest.fixture
def pieces_seen(monkeypatch):
    """The sounds that would be recognised; what is said in them is their number."""
    seen = []

    def recognise(sounds, *_):
        seen.extend(sounds)
        return [f"piece {len(seen) - len(sounds) + i}" for i in range(len(sounds))]

    monkeypatch.setattr("asr.transcribe.recognise", recognise)
    return seen


# --- faults and silence ------------------------------------------------------------------------------


@pytest.mark.parametrize("wild", [1.0, -1.0, 1e30])
def test_a_click_and_an_offset_are_taken_out(spoken, wild):
    samples = spoken.numpy()
    plain = without_faults(samples, RATE)
    quiet = int(np.convolve(np.abs(samples), np.ones(400), "same")[4000:-4000].argmin()) + 4000
    for place in (0, quiet, len(samples) - 1):
        changed = samples + np.float32(0.3)
        changed[place] = wild
        np.testing.assert_allclose(without_faults(changed, RATE), plain - plain.mean(), atol=2e-3)
    np.testing.assert_array_equal(plain, samples)  # which has none itself


def seconds(count):
    return np.arange(count * RATE) / RATE


NO_SPEECH = {
    "silence": np.zeros(3 * RATE),
    "one sample": np.full(1, 0.1),
    "loud white noise": 0.3 * np.random.default_rng(0).normal(size=5 * RATE),
    "soft white noise": 0.001 * np.random.default_rng(1).normal(size=5 * RATE),
    "the mains": 0.1 * sum(np.sin(2 * np.pi * 50 * k * seconds(5)) / k for k in range(1, 8)),
    "an offset": np.full(3 * RATE, 0.5),
    "a click": np.eye(1, 3 * RATE, RATE)[0],
    "a click in noise": np.eye(1, 3 * RATE, RATE)[0] + 0.001 * np.random.default_rng(2).normal(size=3 * RATE),
}


@pytest.mark.parametrize("samples", NO_SPEECH.values(), ids=NO_SPEECH.keys())
def test_nobody_speaks(samples):
    assert pieces_of_speech(torch.from_numpy(without_faults(samples.astype(np.float32), RATE)), RATE) == []


@pytest.mark.parametrize("level", [0, 3e-4, 1e-3])
def test_silence_around_speech_and_in_it_is_taken_out(spoken, level):
    quiet = level * torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0))
    middle = int(spoken[len(spoken) // 3 : len(spoken) // 2].abs().argmax()) + len(spoken) // 3  # within a word
    assert spans_to_keep(spoken) == [(0, len(spoken))]
    for place in (0, middle, len(spoken)):
        sound = torch.cat([spoken[:place], quiet, spoken[place:]])
        kept = torch.cat([sound[start:stop] for start, stop in spans_to_keep(sound)])
        assert abs(len(kept) - len(spoken)) < 0.1 * RATE
        if place == middle and not level:  # to the sample
            assert abs(len(kept) - len(spoken)) < 0.001 * RATE


def test_loudness_does_not_matter(spoken):
    assert spans_to_keep(spoken * 0.001) == spans_to_keep(spoken)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not LJSPEECH.exists(), reason="no LJSpeech-1.1 in ../shared/data")
def test_recorded_speech_is_recognised_as_well_with_silence_around_it_and_in_it():
    """results/q3/silence.json has all 65 clips, and joint search."""
    spec = importlib.util.spec_from_file_location("q3_silence", records.ROOT / "benchmarks" / "q3_silence.py")
    benchmark = sys.modules["q3_silence"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    metrics = benchmark.run(benchmark.Config(str(LJSPEECH), clips=16), ("greedy",))["metrics"]
    rates = {name: rate["greedy"]["cer"] for name, rate in metrics["error_rates"].items()}
    plain, changed = rates["plain"], [rate for name, rate in rates.items() if name != "plain"]
    assert len(changed) == 6
    assert np.mean(changed) <= plain + 0.01
    assert max(changed) <= plain + 0.03  # few clips, of which each weighs much
    assert set(metrics["texts_without_speech"].values()) == {""}


# --- pieces ------------------------------------------------------------------------------------------


def test_a_pause_of_some_seconds_parts_pieces_and_their_times_are_those_of_the_recording(spoken):
    length = len(spoken) / RATE
    for pause, times in {3: [(0, 2 * length + 3)], 8: [(0, length), (length + 8, 2 * length + 8)]}.items():
        pieces = pieces_of_speech(torch.cat([spoken, torch.zeros(pause * RATE), spoken]), RATE)
        found = [(piece.start / RATE, piece.stop / RATE) for piece in pieces]
        np.testing.assert_allclose(found, times, atol=0.3)
        assert sum(len(piece.sound) for piece in pieces) == pytest.approx(2 * len(spoken), abs=0.6 * RATE)


def test_the_times_of_pieces_that_are_cut_follow_each_other(spoken):
    pieces = pieces_of_speech(torch.cat([spoken] * 8), RATE)
    assert len(pieces) > 1
    assert max(len(piece.sound) for piece in pieces) <= 10 * RATE
    assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].stop) == (0, 8 * len(spoken))


def test_each_piece_is_recognised_by_its_own_frames(monkeypatch):
    batches = []
    listen = lambda model, batch, lengths: batches.append((batch, lengths)) or [[9, 10], [11]]  # noqa: E731
    monkeypatch.setattr("asr.transcribe.search", lambda beam, ctc_weight: listen)
    sounds = [torch.randn(3 * RATE), torch.randn(5 * RATE)]
    assert recognise(sounds, None, Features(), 8, 0.3) == ["ab", "c"]
    ((batch, lengths),) = batches
    for row, length, sound in zip(batch, lengths.tolist(), sounds, strict=True):
        torch.testing.assert_close(row[:length], log_mel(sound, Features()))
    assert lengths.tolist() == [1 + len(sound) // 256 for sound in sounds]  # frames of 16 ms


def test_a_file_that_ends_early_is_transcribed_with_a_note(spoken, tmp_path, pieces_seen):
    path = tmp_path / "a.aiff"
    soundfile.write(path, spoken.numpy(), RATE)
    assert transcribe(None, Features(), path).notes == []
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    transcript = transcribe(None, Features(), path)
    assert transcript.text == "piece 1"
    assert transcript.notes == ["the file ends early: what follows is missing"]
    assert len(pieces_seen[1]) == pytest.approx(len(spoken) * 2 / 3, rel=0.01)


# --- the command -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "expected"), [(3.24, "00:03.2"), (59.96, "01:00.0"), (5999.9, "99:59.9")])
def test_clock_by_hand(seconds, expected):
    assert clock(seconds) == expected


@pytest.fixture
def recordings(spoken, tmp_path):
    soundfile.write(tmp_path / "a.wav", spoken.numpy(), RATE)
    soundfile.write(tmp_path / "b.flac", torch.cat([spoken, torch.zeros(8 * RATE), spoken]).numpy(), RATE)
    soundfile.write(tmp_path / "c.wav", np.zeros(3 * RATE), RATE)
    (tmp_path / "notes.txt").write_text("no sound")
    return tmp_path


def test_what_cannot_be_read_is_named_and_the_rest_transcribed(recordings, capsys, pieces_seen):
    (recordings / "damaged.wav").write_text("no sound")
    names = [str(recordings / "nosuch.wav"), str(recordings / "a.wav"), str(recordings / "damaged.wav")]
    assert main(["transcribe", *names, str(recordings / "c.wav")]) == 2
    out, error = capsys.readouterr()
    assert out.splitlines() == [f"{recordings}/a.wav: piece 0", f"{recordings}/c.wav: "]
    assert [Path(name).name for line in error.splitlines() for name in names if name in line] == [
        "nosuch.wav",
        "damaged.wav",
    ]
    assert error.splitlines()[2].endswith("c.wav: nobody speaks in it")
    assert error.count("\n") == 3


def test_folders_and_patterns_with_times_and_for_programs(recordings, spoken, capsys, pieces_seen):
    assert main(["transcribe", str(recordings)]) == 0
    names = ["a.wav", "b.flac", "c.wav"]
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"{recordings}/{n}" for n in names
    ]
    assert main(["transcribe", str(recordings / "*.flac"), "--timestamps"]) == 0
    second = clock(len(spoken) / RATE + 8)[:-2]
    head, first, last = capsys.readouterr().out.splitlines()
    assert head == f"{recordings}/b.flac:"
    assert first.startswith("[00:00.0 - ")
    assert last.startswith(f"[{second}")
    assert last.endswith("] piece 4")
    assert main(["transcribe", str(recordings / "?.wav"), str(recordings / "none.wav"), "--json"]) == 2
    a, c, none = map(json.loads, capsys.readouterr().out.splitlines())
    assert a["segments"] == [Segment(0.0, round(len(spoken) / RATE, 3), "piece 5")._asdict()]
    assert (a["text"], a["notes"]) == ("piece 5", [])
    assert (c["text"], c["segments"], c["notes"]) == ("", [], ["nobody speaks in it"])
    assert "none.wav" in none["error"]


@pytest.mark.parametrize("command", [["transcribe", "a.wav"], ["evaluate"]])
def test_weights_that_are_not_finite_are_refused(tmp_path, monkeypatch, capsys, command):
    weights, header = read_weights(SHIPPED)
    weights["ctc_head.bias"][0] = torch.nan
    write_weights(tmp_path / "nan.safetensors", weights, header)
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--checkpoint", "nan.safetensors"]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert "nan.safetensors holds weights that are not finite" in error
    assert [path.name for path in tmp_path.iterdir()] == ["nan.safetensors"]


@pytest.mark.slow
def test_own_modules_come_before_those_of_the_working_folder(tmp_path):
    for name in ("utils", "attention", "records", "command_line"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    environment = os.environ | {"PYTHONPATH": str(records.ROOT)}
    command = [sys.executable, "-m", "asr", "transcribe", "nosuch.wav"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "python -m asr: error: there is no sound file nosuch.wav: check the name\n"


# --- workers -----------------------------------------------------------------------------------------


def running() -> dict[int, int]:
    """The parent of each process that has not ended."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
            parents |= {int(file.parent.name): int(parent)} if state != "Z" else {}
    return parents


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_computes_features(tmp_path, end):
    corpus = tmp_path / "spoken"
    (corpus / "wavs").mkdir(parents=True)
    soundfile.write(tmp_path / "clip.wav", np.random.default_rng(0).normal(size=10 * 22050) / 10, 22050)
    for i in range(5000):  # work for minutes
        (corpus / "wavs" / f"{i}.wav").symlink_to(tmp_path / "clip.wav")
    (corpus / "metadata.csv").write_text("".join(f"{i}|x|words\n" for i in range(5000)))
    program = "from common.speech.audio import Features\nfrom common.speech.data import load_corpus\n"
    program += "if __name__ == '__main__':\n"
    program += f"    load_corpus({str(corpus)!r}, Features(), {str(tmp_path / 'cache')!r}, workers=2)\n"
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(records.ROOT)}
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py"], env=environment, stderr=subprocess.DEVNULL)
    try:
        partial, deadline = tmp_path / "cache", time.monotonic() + 120
        while not (files := list(partial.glob(".*.tmp"))) or files[0].stat().st_size == 0:  # the first frames
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = [pid for pid, started_by in running().items() if started_by == parent.pid]
        assert len(workers) >= 2
        parent.send_signal(end)
        parent.wait(10)
        time.sleep(3)
        assert not set(workers) & set(running())
    finally:
        parent.kill()
