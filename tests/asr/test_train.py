"""Question 3's loss, training, command line and transcription."""

import hashlib
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import scipy.optimize
import soundfile
import torch
from PIL import Image

import records
import utils
from asr import plots as speech_plots
from asr import train
from asr.__main__ import main
from asr.checkpoint import load_model
from asr.metrics import score
from asr.model import SpeechRecognizer
from asr.transcribe import cut_at_pauses
from common.speech.audio import Features, log_mel
from common.speech.data import load_corpus
from common.speech.text import EMPTY, START, STOP, UNKNOWN, VOCABULARY
from synthetic.speech import write_corpus

SMALL = ["--hidden_dim", "16", "--num_blocks", "1", "--batch_size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("spoken") / "spoken", n=40, seed=0, workers=1)


@pytest.fixture(autouse=True)
def _cache_elsewhere(tmp_path_factory, monkeypatch):
    """The cache of features goes to data/ of the current folder."""
    monkeypatch.chdir(tmp_path_factory.getbasetemp())
    torch.manual_seed(0)


# --- the loss ----------------------------------------------------------------------------------------


def test_loss_leaves_padding_out_by_hand():
    tokens = torch.tensor([[START, 9, STOP, EMPTY], [START, 9, 10, STOP]])
    logits = torch.randn(2, 3, len(VOCABULARY))
    log_probs = logits.double().log_softmax(-1)
    expected = [
        -log_probs[0, 0, 9],
        -log_probs[0, 1, STOP],
        -log_probs[1, 0, 9],
        -log_probs[1, 1, 10],
        -log_probs[1, 2, STOP],
    ]
    torch.testing.assert_close(train.token_losses(logits, tokens).double(), torch.stack(expected), rtol=1e-5, atol=1e-5)
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    smoothed = [0.9 * loss - 0.1 * log_probs[place].mean() for loss, place in zip(expected, places, strict=True)]
    torch.testing.assert_close(
        train.token_losses(logits, tokens, 0.1).double(), torch.stack(smoothed), rtol=1e-5, atol=1e-5
    )


def test_ctc_loss_sums_over_all_alignments():
    """Brute force: every path of 4 positions that collapses to the transcript."""
    a, b = 9, 10
    logits = torch.randn(2, 5, len(VOCABULARY), dtype=torch.float64)
    tokens = torch.tensor([[START, a, b, STOP], [START, a, STOP, EMPTY]])
    lengths = torch.tensor([8, 5])  # frames: 4 and 3 positions
    expected = 0.0
    for clip, (positions, said) in enumerate([(4, [a, b]), (3, [a])]):
        probs = logits[clip].softmax(-1)
        total = 0.0
        for path in itertools.product([EMPTY, a, b], repeat=positions):
            collapsed = [token for token, _ in itertools.groupby(path) if token != EMPTY]
            if collapsed == said:
                total += math.prod(probs[t, token].item() for t, token in enumerate(path))
        expected -= math.log(total)
    loss = train.ctc_loss(logits, lengths, tokens, torch.tensor([4, 3]))
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_ctc_loss_of_a_transcript_longer_than_its_clip_is_no_infinity():
    tokens = torch.tensor([[START, *[9, 10] * 5, STOP]])
    assert train.ctc_loss(torch.randn(1, 2, 35), torch.tensor([4]), tokens, torch.tensor([12])) == 0


def test_spec_augment_masks_bands_and_spans_of_each_clip_differently():
    masked = train.spec_augment(torch.ones(6, 200, 80)) == 0
    assert 0.01 < masked.float().mean() < 0.6
    for clip in masked:
        rows, columns = clip.all(1), clip.all(0)  # frames and bins that are wholly masked
        assert torch.equal(clip, rows[:, None] | columns[None])
        assert rows.sum() <= 50
        assert columns.sum() <= 30
    assert len({tuple(clip.flatten().tolist()) for clip in masked}) == 6


def test_stretch_moves_a_sound_in_time_and_pitch():
    features, lengths = torch.zeros(2, 300, 80), torch.tensor([300, 150])
    features[:, 100:104, 40:42] = 1
    tempos, pitches = [], []
    for _ in range(200):
        x, new = train.stretch(features, lengths)
        assert x.shape == (2, new[0], 80)
        assert new[1] == new[0] // 2
        assert torch.equal(x[0], x[1])
        energy = x[0] / x[0].sum()
        tempos.append(new[0].item() / 300)
        assert (energy.sum(1) * torch.arange(new[0])).sum() + 0.5 == pytest.approx(102 * tempos[-1], abs=0.6)
        pitches.append((((energy.sum(0) * torch.arange(80)).sum() + 0.5) / 41).item())
    for factors, low, high in ((tempos, 0.83, 1.18), (pitches, 0.92, 1.08)):
        assert low <= min(factors) < low + 0.05
        assert high - 0.05 < max(factors) <= high


def test_stretch_of_a_single_frame_leaves_one():
    x, lengths = train.stretch(torch.ones(1, 1, 80), torch.tensor([1]))
    assert x.shape == (1, 1, 80)
    assert lengths.tolist() == [1]


def test_noise_adds_powers_and_normalises_again(monkeypatch):
    """In float64 from the definition, with the noise's randomness taken away."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    clips, lengths = torch.randn(30, 90, 80), [90] * 15 + [60] * 15
    noisy = train.add_noise(clips, torch.tensor(lengths)).double().numpy()
    levels = []
    for clip, x, length in zip(clips.double().numpy(), noisy, lengths, strict=True):
        power = 10 ** (1.5 * clip[:length])  # 15 dB a unit

        def with_noise(level, power=power):
            louder = np.log10(power + 10 ** (1.5 * level))
            return (louder - louder.mean(0)) / (louder - louder.mean(0)).std()

        found = scipy.optimize.minimize_scalar(
            lambda level, x=x, length=length, f=with_noise: np.abs(f(level) - x[:length]).max(),
            bounds=(-3.2, -0.5), method="bounded", options={"xatol": 1e-6},
        )  # fmt: skip
        assert found.fun < 1e-3
        assert (x[length:] == 0).all()
        levels.append(found.x)
    assert -3 <= min(levels) < -2.5
    assert -1.2 < max(levels) <= -0.7


def test_noise_is_drawn_anew_for_each_clip_frame_and_bin():
    x = train.add_noise(torch.full((2, 50, 80), -9.0), torch.tensor([50, 50]))  # silence: what is left is the noise
    assert len(x.unique()) > 7000
    assert x.std() == pytest.approx(1, abs=0.01)


def test_noise_leaves_silence_and_nothing_else_finite():
    assert train.add_noise(torch.zeros(1, 1, 80), torch.tensor([1])).isfinite().all()


def test_some_characters_are_misheard_but_never_the_start_or_padding():
    tokens = torch.tensor([[START, *range(UNKNOWN, 35), STOP, EMPTY]] * 500)
    heard = train.misheard(tokens)
    special = tokens < UNKNOWN
    assert torch.equal(heard[special], tokens[special])
    changed = (heard != tokens)[~special].double().mean()
    assert changed == pytest.approx(0.1 * 31 / 32, abs=0.01)  # one replacement in 32 is the same character
    assert set(heard[~special].tolist()) == set(range(UNKNOWN, 35))


@pytest.mark.parametrize("name", ["spec_augment", "stretch", "add_noise", "misheard"])
def test_augmentation_is_on_in_training_and_off_in_evaluation(name, corpus_dir, monkeypatch):
    seen, original = [], getattr(train, name)
    monkeypatch.setattr(train, name, lambda features, *rest: seen.append(len(features)) or original(features, *rest))
    config = train.Config(data=str(corpus_dir), hidden_dim=16, num_blocks=1, epochs=1, out="x", device="cpu")
    corpus = load_corpus(corpus_dir, Features())
    model = SpeechRecognizer("lstm", hidden_dim=16, num_blocks=1)
    train.evaluate_part(model, corpus.test)
    assert seen == []
    train.train(config, corpus)
    assert sum(seen) == len(corpus.train)


def test_learning_rate_rises_then_falls():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 2.0)
    scheduler, rates = train.warmup_then_cosine(optimizer, steps=100, warmup=0.1), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[55] == pytest.approx(2 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert all(later <= sooner for sooner, later in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.01


def test_loss_of_evaluation_is_the_mean_over_tokens_without_smoothing(corpus_dir):
    corpus = load_corpus(corpus_dir, Features())
    model = SpeechRecognizer("transformer", hidden_dim=16, num_blocks=1).eval()
    losses = []
    for i in range(len(corpus.validation)):
        features = torch.from_numpy(np.asarray(corpus.validation.features(i), dtype=np.float32))
        tokens = corpus.validation.tokens[i]
        with torch.no_grad():
            logits, _ = model(features[None], torch.tensor([len(features)]), torch.tensor([tokens[:-1]]))
        losses += [-logits[0].log_softmax(-1)[n, token].item() for n, token in enumerate(tokens[1:])]
    assert train.mean_loss(model, corpus.validation) == pytest.approx(np.mean(losses), rel=1e-4)


# --- training ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_eight_short_clips_are_learnt_by_heart(decoder, tmp_path, monkeypatch):
    (tmp_path / "texts.csv").write_text("".join(f"{i}|x|{text}\n" for i, text in enumerate(
        ["good morning", "where is the cat?", "it rains today", "open the door",
         "two red apples", "a quiet night", "she sings well", "time to go home", "yes", "no"])))  # fmt: skip
    root = write_corpus(tmp_path / "short", seed=0, texts=tmp_path / "texts.csv", workers=1)
    monkeypatch.setattr(train, "spec_augment", lambda features: features)
    config = train.Config(decoder=decoder, data=str(root), out=str(tmp_path), device="cpu")
    corpus = load_corpus(root, Features())
    part = corpus.train.first(8)
    model = SpeechRecognizer(decoder)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4)
    for _ in range(10):
        utils.fit(
            model,
            train.SpeechBatches(part, 8, 0),
            optimizer,
            augment=train.augment,
            loss_fn=lambda model, batch: train.training_loss(config, model, batch),
            evaluate=lambda model: {},
            epochs=50,
            seed=0,
            clip_norm=1.0,
            device="cpu",
        )  # 50 steps, for 500 in all
        if train.transcribe_part(model, part) == list(part.transcripts):
            return
    assert train.transcribe_part(model, part) == list(part.transcripts)


@pytest.fixture(scope="module")
def trained(corpus_dir, tmp_path_factory):
    """The folder of one short run for each decoder, from the command line."""
    out = tmp_path_factory.mktemp("out")
    for decoder in ("lstm", "transformer"):
        flags = ["--data", str(corpus_dir), "--decoder", decoder, "--epochs", "2", "--out", str(out), *SMALL]
        assert main(["train", *flags]) == 0
    return out


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_training_leaves_a_result_and_a_checkpoint(decoder, trained, corpus_dir):
    result = json.loads((trained / "q3" / f"spoken-{decoder}-seed0.json").read_text())
    assert result["data"]["source"] == "synthetic"
    assert [record["epoch"] for record in result["history"]] == [1, 2]
    assert result["budget"]["clips_seen"] == 2 * result["budget"]["clips"] == 2 * result["data"]["sizes"]["train"]
    test = result["metrics"]["test"]
    scores = {"jaccard", "cosine", "damerau_levenshtein", "wer", "cer"}
    assert set(test) == {"loss", "frames", "transcripts", *scores}
    size = result["data"]["sizes"]["test"]
    assert len(test["transcripts"]) == len(test["frames"]) == len(test["cer"]["values"]) == size
    assert {f"validation_{name}" for name in ("loss", *scores)} < result["history"][0].keys()
    model, features = load_model(trained / "q3" / f"spoken-{decoder}-seed0.safetensors")
    corpus = load_corpus(corpus_dir, features)
    again = train.evaluate_part(model, corpus.test)
    assert again["loss"] == pytest.approx(test["loss"], rel=1e-4)  # what was scored is what was saved
    assert [t["heard"] for t in again["transcripts"]] == [t["heard"] for t in test["transcripts"]]


def test_both_decoders_share_the_plots(trained, tmp_path):
    sources = [trained / "q3" / f"spoken-{decoder}-seed0.json" for decoder in ("lstm", "transformer")]
    assert speech_plots.main([*map(str, sources), "--out", str(tmp_path)]) == 0
    subject = " ".join(f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}" for source in sources)
    for name in ("loss", "scores", "length", "attention"):
        assert Image.open(tmp_path / "q3" / f"spoken-{name}.png").text["Subject"] == subject
        assert (tmp_path / "q3" / f"spoken-{name}.pdf").exists()
    assert not (tmp_path / "q3" / "spoken-joined.pdf").exists()


def test_seeds_and_joined_clips_share_the_plots_of_their_experiment(trained, tmp_path):
    first = json.loads((trained / "q3" / "spoken-lstm-seed0.json").read_text())
    second = first | {"run": "spoken-lstm-seed1"}
    joined = {"run": "spoken-lstm-seed0-on-spoken-test-join2", "config": first["config"] | {"join": 2}}
    joined = {key: value for key, value in first.items() if key != "history"} | joined
    alone = joined | {"run": "other-lstm-seed0-on-spoken-test-join2"}  # of a run that is not among the files
    for result in (first, second, joined, alone):
        (tmp_path / f"{result['run']}.json").write_text(json.dumps(result))
    assert speech_plots.main([*map(str, tmp_path.glob("*.json")), "--out", str(tmp_path)]) == 0
    names = {path.stem for path in (tmp_path / "q3").glob("*.png")}
    assert names == {f"spoken-{name}" for name in ("loss", "scores", "length", "attention", "joined")}
    count = lambda name: Image.open(tmp_path / "q3" / f"spoken-{name}.png").text["Subject"].count("sha256")  # noqa: E731
    assert (count("length"), count("joined")) == (2, 3)
    lengths, errors = speech_plots.lengths_and_errors([first, second])
    assert len(lengths) == len(errors) == 2 * len(first["metrics"]["test"]["frames"])


def test_plots_of_other_results_are_refused_in_one_line(capsys):
    assert speech_plots.main([str(records.ROOT / "results" / "q1" / "demo.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_error_by_length_by_hand():
    frames, errors = [100] * 12 + [160] * 10 + [260] * 9, [0.5] * 6 + [1.0] * 6 + [0.25] * 10 + [1.0] * 9
    result = {
        "config": {"decoder": "lstm", "hop_ms": 10.0},
        "data": {"name": "x", "source": "synthetic"},
        "budget": {"clips": 1},
        "metrics": {"test": {"frames": frames, "cer": {"values": errors}}},
    }
    (axes,) = speech_plots.plot_length([result]).axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [1.5]  # nine clips of 2.6 s are too few
    assert line.get_ydata().tolist() == pytest.approx([100 * (6 * 0.5 + 6 * 1 + 10 * 0.25) / 22])


def test_evaluate_gives_what_training_reported(trained, corpus_dir, capsys):
    flags = ["--checkpoint", str(trained / "q3" / "spoken-lstm-seed0.safetensors"), "--data", str(corpus_dir)]
    assert main(["evaluate", *flags, "--out", str(trained)]) == 0
    assert "recognised:" in capsys.readouterr().out
    expected = json.loads((trained / "q3" / "spoken-lstm-seed0.json").read_text())["metrics"]["test"]
    found = json.loads((trained / "q3" / "spoken-lstm-seed0-on-spoken-test.json").read_text())["metrics"]["test"]
    assert found["cer"]["mean"] == pytest.approx(expected["cer"]["mean"])
    assert main(["evaluate", *flags, "--out", str(trained), "--beam", "2", "--part", "validation"]) == 0
    assert main(["evaluate", *flags, "--out", str(trained), "--join", "3"]) == 0
    joined = json.loads((trained / "q3" / "spoken-lstm-seed0-on-spoken-test-join3.json").read_text())["metrics"]["test"]
    assert len(joined["frames"]) == len(expected["frames"]) // 3
    assert joined["frames"][0] == sum(expected["frames"][:3])
    assert main(["evaluate", *flags, "--out", str(trained), "--ctc"]) == 0
    ctc = json.loads((trained / "q3" / "spoken-lstm-seed0-on-spoken-test-ctc.json").read_text())["metrics"]["test"]
    assert "loss" not in ctc
    assert ctc["cer"]["values"] != expected["cer"]["values"]
    assert main(["evaluate", *flags, "--join", "99"]) == 2


def test_a_resumed_run_ends_as_the_uninterrupted_one(corpus_dir, trained, tmp_path, monkeypatch):
    flags = ["train", "--data", str(corpus_dir), "--epochs", "2", *SMALL, "--out", str(tmp_path)]
    save = utils._Run.save

    def save_then_stop(run, path):
        save(run, path)
        if len(run.history) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(utils._Run, "save", save_then_stop)
        assert main(flags) == 130
    assert main([*flags, "--resume"]) == 0
    results = [json.loads((folder / "q3" / "spoken-lstm-seed0.json").read_text()) for folder in (trained, tmp_path)]
    losses = [[record["train_loss"] for record in result["history"]] for result in results]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # threads may differ in the last digits


def test_a_checkpoint_of_other_settings_is_refused_in_one_line(corpus_dir, trained, capsys):
    flags = ["--data", str(corpus_dir), "--epochs", "2", *SMALL, "--out", str(trained), "--num_heads", "4"]
    assert main(["train", *flags, "--resume"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "num_heads" in error
    assert "--overwrite" in error


def test_other_data_or_weights_under_the_same_name_are_refused(trained, corpus_dir, tmp_path, capsys):
    other = write_corpus(tmp_path / "other" / corpus_dir.name, n=40, seed=1, workers=1)
    shutil.copytree(trained / "q3", tmp_path / "q3")
    before = {path: path.read_bytes() for path in (tmp_path / "q3").iterdir()}
    flags = ["train", "--data", str(other), "--epochs", "2", *SMALL, "--out", str(tmp_path)]
    for more in ([], ["--resume"]):
        assert main([*flags, *more]) == 2
        assert "other data" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "q3" / "spoken-lstm-seed0.json").unlink()  # of a run that was stopped, there is the checkpoint
    assert main([*flags, "--resume"]) == 2
    assert "spoken-lstm-seed0.ckpt was made with other data" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "q3" / "spoken-lstm-seed0.json").write_bytes(before[tmp_path / "q3" / "spoken-lstm-seed0.json"])
    assert {path: path.read_bytes() for path in (tmp_path / "q3").iterdir()} == before

    weights = tmp_path / "weights" / "spoken-lstm-seed0.safetensors"
    weights.parent.mkdir()
    shutil.copy(trained / "q3" / "spoken-lstm-seed0.safetensors", weights)
    evaluate = ["evaluate", "--checkpoint", str(weights), "--data", str(corpus_dir), "--out", str(tmp_path / "scores")]
    assert main(evaluate) == 0
    shutil.copy(trained / "q3" / "spoken-transformer-seed0.safetensors", weights)
    assert main(evaluate) == 2
    assert "other settings (decoder, digest)" in capsys.readouterr().err.splitlines()[-1]
    assert main([*evaluate, "--overwrite"]) == 0


def test_training_that_diverges_leaves_no_model(corpus_dir, tmp_path, capsys):
    flags = ["--data", str(corpus_dir), "--epochs", "2", *SMALL, "--out", str(tmp_path), "--learning_rate", "1e30"]
    assert main(["train", *flags]) == 3
    assert "diverged in epoch 1" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "q3").iterdir()] == ["spoken-lstm-seed0.ckpt"]
    state = torch.load(tmp_path / "q3" / "spoken-lstm-seed0.ckpt", weights_only=True)
    assert state["history"] == []
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["train", "--epochs", "0"], "--epochs"),
        (["train", "--ctc_weight", "1"], "--ctc_weight"),
        (["train", "--hidden_dim", "201", "--num_heads", "3"], "--hidden_dim"),
        (["train", "--num_heads", "0"], "--num_heads"),
        (["train", "--num_blocks", "0"], "--num_blocks"),
        (["train", "--clip_norm", "-1"], "--clip_norm"),
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--decoder", "gru"], "--decoder"),
        (["evaluate", "--checkpoint", "none.safetensors"], "none.safetensors"),
        (["transcribe", "a.wav", "--checkpoint", "none.safetensors"], "none.safetensors"),
        (["transcribe", "a.wav", "--checkpoint", "none.safetensors", "--beam", "0"], "--beam"),
        (["evaluate", "--checkpoint", "none.safetensors", "--ctc", "--beam", "8"], "--ctc"),
        (["evaluate", "--checkpoint", "none.safetensors", "--ctc", "--ctc_weight", "0.3"], "--ctc"),
        (["transcribe", "a.wav", "--ctc_weight", "1"], "--ctc_weight is 1"),
        (["sing"], "sing"),
        (["train", "--name", "../../x"], "--name is ../../x"),
        (["train", "--hop_ms", "0.01"], "--hop_ms is 0.01, but must be from 1 to 25"),
        (["train", "--hop_ms", "nan"], "--hop_ms"),
        (["train", "--hidden_dim", "1000000"], "--hidden_dim"),
        (["train", "--num_blocks", "100000000"], "--num_blocks"),
        (["train", "--num_heads", "3"], "--num_heads"),
        (["train", "--seed", "99999999999999999999"], "from 0 to 4,294,967,295"),
        (["train", "--epochs", str(10**12)], "--epochs"),
        (["train", "--batch_size", str(10**12)], "--batch_size"),
        (["train", "--clips", str(10**12)], "--clips"),
        (["train", "--learning_rate", "inf"], "--learning_rate"),
        (["train", "--data", "/"], "--data"),
        (["train", "--init", "none.safetensors"], "none.safetensors"),
        (["evaluate", "--join", str(10**12)], "--join"),
        (["transcribe", "a.wav", "--beam", str(10**12)], "--beam is 1000000000000, but must be from 1 to 100"),
        (["transcribe", "a.wav", "--ctc_weight", "nan"], "--ctc_weight"),
    ],
)
def test_wrong_input_is_one_line(flags, message, capsys):
    try:
        code = main(flags)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert message in error


def test_the_epoch_with_the_fewest_wrong_characters_is_kept(corpus_dir, tmp_path, monkeypatch):
    rates, weights = iter([0.5, 0.2, 0.3]), []

    def evaluate(model):
        weights.append({name: x.clone() for name, x in model.state_dict().items()})
        return {"validation_loss": 1.0 / len(weights), "validation_cer": next(rates)}  # the loss falls on

    monkeypatch.setattr(train, "epoch_metrics", lambda corpus, part: evaluate)
    settings = train.Config(
        data=str(corpus_dir), epochs=3, hidden_dim=16, num_blocks=1, out=str(tmp_path), device="cpu"
    )
    model, history = train.train(settings, load_corpus(corpus_dir, Features()))
    assert [record["validation_cer"] for record in history] == [0.5, 0.2, 0.3]
    torch.testing.assert_close(dict(model.state_dict()), weights[1], rtol=0, atol=0)


def test_training_starts_from_another_models_weights(trained, corpus_dir, tmp_path, capsys):
    source = trained / "q3" / "spoken-lstm-seed0.safetensors"
    flags = ["--data", str(corpus_dir), "--epochs", "1", "--out", str(tmp_path), "--init", str(source), "--overwrite"]
    assert main(["train", *flags, *SMALL, "--learning_rate", "1e-9"]) == 0
    before, after = load_model(source)[0], load_model(tmp_path / "q3" / "spoken-lstm-seed0.safetensors")[0]
    torch.testing.assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=1e-6)
    result = json.loads((tmp_path / "q3" / "spoken-lstm-seed0.json").read_text())
    assert result["config"]["init"] == source.name
    for other in (["--decoder", "transformer"], ["--hop_ms", "10"], ["--num_heads", "4"]):
        capsys.readouterr()
        assert main(["train", *flags, *SMALL, *other]) == 2
        assert "another network" in capsys.readouterr().err.splitlines()[-1]


def test_another_corpus_is_rehearsed_beside_the_first(trained, corpus_dir, tmp_path, capsys):
    other = write_corpus(tmp_path / "other", n=40, seed=1, workers=1)
    flags = ["--data", str(corpus_dir), "--epochs", "1", "--out", str(tmp_path), *SMALL]
    assert main(["train", *flags, "--rehearse", str(other)]) == 0
    rehearsed, alone = (json.loads((out / "q3" / "spoken-lstm-seed0.json").read_text()) for out in (tmp_path, trained))
    assert (rehearsed["config"]["rehearse"], alone["config"]["rehearse"]) == ("other", None)
    assert rehearsed["data"] == alone["data"]  # its own test part is what it is scored on
    assert rehearsed["history"][0]["train_loss"] != alone["history"][0]["train_loss"]
    config = train.Config(rehearse=str(other), batch_size=8)
    part, rehearsed_corpus = load_corpus(corpus_dir, Features()).train, load_corpus(other, Features())
    assert len(list(train.training_batches(config, part, rehearsed_corpus).epoch(1))) == 2 * math.ceil(len(part) / 8)
    capsys.readouterr()
    assert main(["train", *flags, "--rehearse", str(tmp_path / "nowhere")]) == 2
    assert "there is no" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("processor", "device", "expected"),
    [
        ({"avx512_bf16": True}, "cpu", "bf16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "auto", "bf16"),
        ({"avx2": True}, "cpu", "no"),
        ({}, "auto", "no"),
        ({"avx512_bf16": True}, "mps", "no"),
    ],
)
def test_automatic_precision_follows_the_processor(processor, device, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = train.Config(device=device)
    assert config.precision == config.settings()["mixed_precision"] == expected
    assert train.Config(device=device, mixed_precision="bf16").precision == "bf16"
    assert train.Config(device=device, mixed_precision="no").precision == "no"


# --- transcription -----------------------------------------------------------------------------------


def test_recordings_are_cut_at_pauses():
    rate = 1000
    sound = torch.sin(torch.arange(25 * rate) / 3)
    for second in (7, 15, 21):
        sound[second * rate : second * rate + 300] = 0
    pieces = cut_at_pauses(sound, rate)
    assert torch.equal(torch.cat(pieces), sound)
    assert all(len(piece) <= 10 * rate for piece in pieces)
    ends = [end / rate for end in np.cumsum([len(piece) for piece in pieces])[:-1]]
    assert ends == pytest.approx([7.15, 15.15], abs=0.2)
    assert [len(piece) for piece in cut_at_pauses(sound[:5000], rate)] == [5000]


def test_transcribe_reads_any_rate_and_several_files(trained, corpus_dir, tmp_path, capsys):
    checkpoint = trained / "q3" / "spoken-transformer-seed0.safetensors"
    source = sorted((corpus_dir / "wavs").iterdir())[0]
    samples, rate = soundfile.read(source)
    soundfile.write(tmp_path / "stereo.flac", np.stack([samples, samples], 1), rate)
    capsys.readouterr()
    assert main(["transcribe", str(source), str(tmp_path / "stereo.flac"), "--checkpoint", str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(source), str(tmp_path / "stereo.flac")]
    assert lines[0].split(": ", 1)[1] == lines[1].split(": ", 1)[1]


def test_log_mel_of_what_transcribe_hears_is_what_training_saw(corpus_dir):
    """The cached features of a clip are those of its sound file."""
    corpus = load_corpus(corpus_dir, Features())
    from common.speech.audio import read_audio

    features = log_mel(read_audio(corpus.train.paths[0]), Features())
    np.testing.assert_allclose(np.asarray(corpus.train.features(0), np.float32), features.numpy(), atol=5e-3)


# --- the shipped checkpoints -------------------------------------------------------------------------

SHIPPED = {name: records.ROOT / "checkpoints" / f"ljspeech-345-tuned-{name}.safetensors" for name in speech_plots.NAMES}


def test_without_a_checkpoint_the_shipped_one_transcribes(tmp_path, capsys):
    (tmp_path / "texts.csv").write_text("a|x|he opened the door of the old house, and went away.\n")
    clip = write_corpus(tmp_path / "spoken", texts=tmp_path / "texts.csv", workers=1) / "wavs" / "a.wav"
    capsys.readouterr()
    assert main(["transcribe", str(clip)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert score(["he opened the door of the old house, and went away."], [line.split(": ")[1]])["cer"]["mean"] < 0.5


@pytest.mark.parametrize("decoder", SHIPPED)
def test_shipped_checkpoints_are_small(decoder):
    assert SHIPPED[decoder].stat().st_size < 6e6
    assert load_model(SHIPPED[decoder])[0].settings["decoder"] == decoder


@pytest.mark.real_data
@pytest.mark.parametrize("decoder", SHIPPED)
def test_shipped_checkpoints_score_as_reported(decoder):
    """Of the seeds that were tuned, the one with the lowest validation error rate."""
    corpus_dir = records.ROOT.parent / "shared" / "data" / "LJSpeech-1.1"
    if not corpus_dir.exists():
        pytest.skip("needs the recorded clips in ../shared/data")
    paths = (records.ROOT / "results" / "q3").glob(f"ljspeech-345-rehearsed-{decoder}-seed?.json")
    seeds = [json.loads(path.read_text())["metrics"] for path in paths]
    reported = min(seeds, key=lambda metrics: metrics["validation"]["cer"]["mean"])["test"]
    model, features = load_model(SHIPPED[decoder])
    found = train.evaluate_part(model, load_corpus(corpus_dir, features).test)
    assert found["loss"] == pytest.approx(reported["loss"], rel=1e-3)
    assert found["cer"]["mean"] == pytest.approx(reported["cer"]["mean"], abs=0.01)  # a near tie may fall otherwise
