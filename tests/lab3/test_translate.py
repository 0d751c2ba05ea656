"""Training and scoring of translators: losses, search, BLEU, studies."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import records
from lab3 import pairs, translate, translate_plots, translators
from lab3.pairs import PAD, START, STOP, Pairs
from lab3.translate import Config

TINY = {"dim": 8, "num_layers": 1, "mlp_dim": 8, "vocabulary": 300, "epochs": 1, "num_heads": 2}


def test_both_networks_have_as_many_parameters():
    for dataset, most in (("toy", 300_000), ("multi30k", 10_000_000)):
        counts = [
            sum(p.numel() for p in translate.build(Config(dataset=dataset, model=model)).parameters())
            for model in translate.MODELS
        ]
        assert max(counts) < most
        assert max(counts) / min(counts) < 1.05


def test_losses_count_no_padding():
    torch.manual_seed(0)
    model = translators.transformer(11, 8, 1, 2, 8, 0.0, "rotary").double().eval()
    sources = torch.tensor([[3, 4, 2], [5, 2, PAD]])
    targets = torch.tensor([[START, 9, 8, STOP], [START, 7, STOP, PAD]])
    found = translate.token_losses(model, (sources, targets))
    expected = []
    for source, target in (([3, 4, 2], [START, 9, 8, STOP]), ([5, 2], [START, 7, STOP])):
        logits = model(torch.tensor([source]), torch.tensor([target[:-1]]))[0]
        expected += [-logits[i].log_softmax(0)[token] for i, token in enumerate(target[1:])]
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-5, atol=1e-6)
    smooth = translate.token_losses(model, (sources, targets), 0.1)
    logits = model(sources, targets[:, :-1])
    uniform = -logits.log_softmax(-1).mean(-1)[targets[:, 1:] != PAD]
    torch.testing.assert_close(smooth.double(), 0.9 * found.double() + 0.1 * uniform, rtol=1e-5, atol=1e-6)
    mean = translate.mean_loss(model, [[3, 4, 2], [5, 2]], [[START, 9, 8, STOP], [START, 7, STOP]])
    assert mean == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


class Copier(torch.nn.Module):
    """An encoder and a decoder that repeat their source."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    @property
    def decoder(self):
        return self

    def encoder(self, tokens):
        return translators.Memory(tokens.float()[..., None], tokens == PAD)

    def _forward(self, tokens, memory, state):
        seen = state.get("seen", 0)
        places = torch.arange(seen, seen + tokens.shape[1]).clamp(max=memory.encoded.shape[1] - 1)
        return 9.0 * F.one_hot(memory.encoded[:, places, 0].long(), 40).float(), {"seen": seen + tokens.shape[1]}

    @staticmethod
    def select(state, rows):
        return state


@pytest.mark.parametrize("beam", [1, 3])
def test_translations_are_in_the_order_of_their_sources(beam):
    sources = [[*range(3, 3 + length), STOP] for length in (5, 1, 30, 3)]
    assert translate.translate(Copier(), sources, beam) == [source[:-1] for source in sources]


def test_bleu_by_length_and_a_known_score():
    part = Pairs(("a b c d", "a b c d e f g h i", " ".join("abcdefghijklmnopqrst")), ("one two three four five",) * 3)
    groups = translate.by_length(part, ["one two three four five", "one two three four six", "nothing of it at all"])
    assert [(group["from"], group["to"], group["sentences"]) for group in groups] == [
        (1, 8, 1),
        (9, 12, 1),
        (17, 20, 1),
    ]
    assert groups[0]["bleu"] == pytest.approx(100)
    # precisions 4/5, 3/4, 2/3, 1/2
    assert groups[1]["bleu"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert groups[2]["bleu"] < 10


def test_a_width_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="--dim is 20, but must be a multiple of 8"):
        Config(dim=20)


@pytest.fixture
def few(monkeypatch):
    """Few pairs, and few resamples."""
    monkeypatch.setattr(pairs, "TOY_SIZES", {"train": 60, "val": 10, "test": 12})
    monkeypatch.setattr(translate, "RESAMPLES", 20)


@pytest.fixture
def one_by_one(few, monkeypatch):
    """Studies train in this process, small networks on few pairs."""
    trained = []

    def results(runs, head, keys):
        for single in runs:
            assert head(single)["config"] == single.settings()
            trained.append(replace(single, **TINY))
        paths = [records.save_results(single.out, translate.run(single)) for single in trained]
        return [records.load_result(path, *keys) for path in paths]

    monkeypatch.setattr("lab3.study.results_side_by_side", results)
    return trained


@pytest.mark.parametrize(
    ("study", "names"), [("models", ["transformer", "lstm"]), ("positions", list(translators.POSITIONS))]
)
def test_a_study(one_by_one, study, names, tmp_path, capsys):
    assert translate.main(["--study", study, "--seeds", "4", "5", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "lab3" / f"translate-{study}-toy.json").read_text())
    assert list(result["models"]) == names
    assert [run.seed for run in one_by_one] == [4, 5] * len(names)
    last = result["models"][names[-1]]
    assert last["seeds"] == [4, 5]
    assert len(last["metrics"]["test"]["bleu"]["values"]) == 2
    assert sum(group["sentences"] for group in last["by_length"]) == 12
    assert "BLEU by sacrebleu: nrefs:1" in capsys.readouterr().out
    axes = translate_plots.plot_lengths(result).axes[0]
    for container, model in zip(axes.containers, result["models"].values(), strict=True):
        assert list(container.lines[0].get_ydata()) == [group["bleu"]["mean"] for group in model["by_length"]]
    heads = translate_plots.plot_heads(result).axes
    weights = np.array(result["first"][names[0]]["attention"][0]["weights"][0][1])
    most = translate_plots.MOST_WORDS
    np.testing.assert_allclose(heads[1].images[0].get_array(), weights[:most, :most])


@pytest.mark.parametrize("model", translate.MODELS)
def test_the_board_has_scalars_graph_and_attention(model, few, tmp_path, capsys, recwarn):
    sizes = [word for name, value in (TINY | {"epochs": 2}).items() for word in (f"--{name}", str(value))]
    assert translate.main(["--model", model, *sizes, "--tensorboard", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(f"tensorboard --logdir {tmp_path}/lab3/tensorboard\n")
    assert not [warning for warning in recwarn if "Tracer" in warning.category.__name__]
    (run,) = (tmp_path / "lab3" / "tensorboard").iterdir()
    folders = {path.parent for path in run.rglob("events.out.tfevents*")}
    boards = [EventAccumulator(str(folder)).Reload() for folder in folders]
    history = json.loads((tmp_path / "lab3" / f"{run.name}.json").read_text())["history"]
    (scalars,) = (board for board in boards if board.Tags()["scalars"])
    assert [point.value for point in scalars.Scalars("val_loss")] == pytest.approx([e["val_loss"] for e in history])
    assert len(scalars.Scalars("learning_rate")) == 2
    (drawn,) = (board for board in boards if board.Tags()["images"])
    assert [image.step for image in drawn.Images("attention")] == [1, 2]
    (graphs,) = (board for board in boards if board.Tags()["graph"])
    assert any("decoder" in node.name and "cross_attention" in node.name for node in graphs.Graph().node)


@pytest.mark.slow
def test_the_invented_language_is_learnt(tmp_path, capsys):
    assert translate.main(["--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "lab3" / "translate-toy-transformer-rotary-seed0.json").read_text())
    assert result["metrics"]["test"]["exact"]["mean"] > 0.8
    assert result["metrics"]["test"]["bleu"]["mean"] > 90
    assert result["data"]["source"] == "synthetic"
    assert "(synthetic)" in capsys.readouterr().out
    records.load_result(tmp_path / "lab3" / "translate-toy-transformer-rotary-seed0.json", *translate_plots.TRIAL_KEYS)
