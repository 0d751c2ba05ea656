"""Training and evaluation of a speech recogniser: the loss, checkpoints, results.

Letters: B batch, T frames, F mel bins, N tokens, S encoder positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import mask_along_axis_iid
from tqdm import tqdm

import records
import utils
from asr.checkpoint import load_model, save_model
from asr.config import Config
from asr.generate import greedy
from asr.metrics import score
from asr.model import SpeechRecognizer, padding_mask
from asr.optimizer import Muon
from common.speech.audio import Features
from common.speech.data import Batch, Corpus, Part, RehearsalBatches, SpeechBatches, batches_in_order, load_corpus
from common.speech.text import EMPTY, UNKNOWN, VOCABULARY, decode

VALIDATION_CLIPS = 64  # that each epoch is scored on
TRAINING_CLIPS = 256  # whose plain loss each epoch reports, to set it beside that of the validation clips
SHOWN = 50  # transcripts of each part that a result file quotes
MAP_FRAMES = 256  # of the clip whose attention it holds


# --- the loss ----------------------------------------------------------------------------------------


def stretch(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The batch as if spoken faster or slower, by a longer or shorter vocal tract: other voices than the corpus has.

    Features (B, T, F), lengths (B,) -> (B, T', F), (B,). The time axis is resampled to 83 to 118 % (as by Ko et al.
    2015, but on the spectrogram), the mel axis to 93 to 107 % (as by Jaitly and Hinton 2013), in one factor each.
    """
    frames, bins = features.shape[1:]
    tempo, pitch = (float(torch.empty(()).uniform_(*bounds)) for bounds in ((1 / 1.2, 1.18), (0.93, 1.07)))
    size = (max(1, round(frames * tempo)), round(bins * pitch))
    x = F.interpolate(features[:, None], size, mode="bilinear", align_corners=False)[:, 0]  # (B, T', F')
    x = F.pad(x, (0, max(0, bins - size[1])))[..., :bins]  # (B, T', F)
    return x, (lengths * size[0] // frames).clamp_min(1)


def add_noise(features: Tensor, lengths: Tensor) -> Tensor:
    """Each clip with a steady noise of its own average spectrum, 10 to 45 dB below its mean, normalised as before.

    Features (B, T, F), lengths (B,) -> (B, T, F). Powers add: a unit of the features of speech is about 15 dB.
    """
    unit = 1.5 * math.log(10)
    level = features.new_empty(len(features), 1, 1).uniform_(-3, -0.7)
    x = torch.logaddexp(unit * features, unit * (level + 0.2 * torch.randn_like(features)))
    inside = ~padding_mask(lengths, features.shape[1])[..., None]  # (B, T, 1)
    frames = lengths[:, None, None]
    x = (x - (x * inside).sum(1, keepdim=True) / frames) * inside
    return x / (x.square().sum((1, 2), keepdim=True) / (frames * x.shape[2])).sqrt().clamp_min(1e-3)


def spec_augment(features: Tensor) -> Tensor:
    """SpecAugment (Park et al. 2019) without warping: for each clip two bands and two spans set to zero, its mean.

    (B, T, F) -> (B, T, F); a band is up to 15 mel bins wide, a span up to 25 frames or 20 % of the longest clip long.
    """
    x = features[:, None]  # (B, 1, T, F)
    for _ in range(2):
        x = mask_along_axis_iid(x, mask_param=15, mask_value=0.0, axis=3)
        x = mask_along_axis_iid(x, mask_param=min(25, features.shape[1] // 5), mask_value=0.0, axis=2)
    return x[:, 0]


def misheard(tokens: Tensor, share: float = 0.1) -> Tensor:
    """Tokens (B, N) of which a random share are random characters: what a decoder has written may be wrong, too."""
    characters = torch.randint_like(tokens, UNKNOWN, len(VOCABULARY))
    replaced = (torch.rand(tokens.shape, device=tokens.device) < share) & (tokens >= UNKNOWN)
    return torch.where(replaced, characters, tokens)


def token_losses(logits: Tensor, tokens: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each token after the first, padding left out: (B, N - 1, V), (B, N) -> (tokens that count,)."""
    targets = tokens[:, 1:]
    counted = targets != EMPTY
    return F.cross_entropy(logits[counted], targets[counted], label_smoothing=label_smoothing, reduction="none")


def ctc_loss(logits: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """Sum over clips of the CTC loss of the encoder (Graves et al. 2006); the empty token is its blank.

    Logits (B, S, V), of which (T + 1) // 2 positions count for a clip of `lengths` T frames; tokens (B, N) with start
    and stop, of which `token_lengths` count.
    """
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)  # (S, B, V)
    positions, characters = (lengths + 1) // 2, token_lengths - 2
    # a transcript that is longer than its clip has positions has no alignment: it counts for nothing
    return F.ctc_loss(log_probs, tokens[:, 1:], positions, characters, blank=EMPTY, reduction="sum", zero_infinity=True)


def augment(batch: Batch) -> tuple[Tensor, ...]:
    """A batch in another voice, with noise and gaps, and at its end what the decoder is given to read (B, N - 1)."""
    features, lengths, tokens, token_lengths = batch
    features, lengths = stretch(features, lengths)
    features = spec_augment(add_noise(features, lengths))
    return features, lengths, tokens, token_lengths, misheard(tokens[:, :-1])


def training_loss(config: Config, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Per token of an augmented batch: cross-entropy with label smoothing, mixed with a share of its CTC loss."""
    features, lengths, tokens, token_lengths, read = batch
    logits, ctc_logits = model(features, lengths, read)
    losses = token_losses(logits.float(), tokens, config.label_smoothing)
    if config.ctc_weight:
        share = ctc_loss(ctc_logits, lengths, tokens, token_lengths) / len(losses)
        losses = (1 - config.ctc_weight) * losses + config.ctc_weight * share
    return losses


def warmup_then_cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: float):
    """The learning rate rises linearly for `warmup` of the steps, then falls to zero as a cosine."""
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


# --- evaluation --------------------------------------------------------------------------------------


@torch.no_grad()
def mean_loss(model: SpeechRecognizer, part: Part) -> float:
    """Cross-entropy per token with teacher forcing: no smoothing, no padding, no CTC."""
    model.eval()
    device, total, count = next(model.parameters()).device, 0.0, 0
    for _, batch in batches_in_order(part, 32):
        features, lengths, tokens, _ = (x.to(device) for x in batch)
        losses = token_losses(model(features, lengths, tokens[:, :-1])[0].float(), tokens)
        total, count = total + losses.sum().item(), count + len(losses)
    return total / count


def transcribe_part(model: SpeechRecognizer, part: Part, search=greedy) -> list[str]:
    """What the model writes down of each clip, in the part's order."""
    model.eval()
    device, heard = next(model.parameters()).device, [""] * len(part)
    quiet = None if utils.is_main_process() else True
    batches = tqdm(batches_in_order(part, 32), "transcribing", math.ceil(len(part) / 32), leave=False, disable=quiet)
    for indices, (features, lengths, *_) in batches:
        for index, tokens in zip(indices.tolist(), search(model, features.to(device), lengths.to(device)), strict=True):
            heard[index] = decode(tokens)
    return heard


def score_part(model: SpeechRecognizer, part: Part, search=greedy) -> dict:
    """Every score of a part, the length of each clip, and what was said and written in the first of them."""
    heard, said = transcribe_part(model, part, search), list(part.transcripts)
    scores = score(said, heard)
    for entry in scores.values():
        entry["values"] = [round(value, 3) for value in entry["values"]]
    first = zip(part.ids, said, heard, strict=True)
    transcripts = [{"clip": clip, "said": a, "heard": b} for clip, a, b in itertools.islice(first, SHOWN)]
    return {**scores, "frames": part.frame_counts().tolist(), "transcripts": transcripts}


def evaluate_part(model: SpeechRecognizer, part: Part, search=greedy) -> dict:
    """The loss, and what score_part returns."""
    return {"loss": mean_loss(model, part), **score_part(model, part, search)}


def attention_map(model: SpeechRecognizer, part: Part) -> dict:
    """Where the decoder looks while it writes the first clip of a part that is short enough for a plot.

    The weights are the mean over the heads, a list for each token that is written, its stop token included; "own" are
    those of the Transformer decoder's self-attention.
    """
    lengths = part.frame_counts()
    index = next((i for i, length in enumerate(lengths) if length <= MAP_FRAMES), int(lengths.argmin()))
    device = next(model.parameters()).device
    features, length, tokens, _ = (x.to(device) for x in part.batch(np.array([index])))
    model.eval()

    def rows(weights: Tensor) -> list[list[float]]:
        return [[round(value, 3) for value in row] for row in weights[0].mean(0).tolist()]

    found = {"clip": part.ids[index], "text": part.transcripts[index], "frames": int(lengths[index])}
    found["weights"] = rows(model.cross_attention(features, length, tokens[:, :-1]))  # (N - 1, S)
    if model.settings["decoder"] == "transformer":
        found["own"] = rows(model.self_attention(features, length, tokens[:, :-1]))  # (N - 1, N - 1)
    return found


# --- a run -------------------------------------------------------------------------------------------


def epoch_metrics(corpus: Corpus, trained: Part):
    """What each epoch reports: the plain loss on some training clips and all validation clips, every score on some.

    Both losses are of the network as it is then: without dropout, changed features, smoothed labels or CTC.
    """
    part, few = corpus.validation, corpus.validation.first(VALIDATION_CLIPS)
    seen = trained.first(TRAINING_CLIPS)

    def evaluate(model: SpeechRecognizer) -> dict[str, float]:
        scores = score(list(few.transcripts), transcribe_part(model, few))
        means = {f"validation_{name}": entry["mean"] for name, entry in scores.items()}
        return {"plain_training_loss": mean_loss(model, seen), "validation_loss": mean_loss(model, part), **means}

    return evaluate


def initial_model(config: Config) -> SpeechRecognizer:
    """A new network, or that of `init`. Raises ValueError where the latter has other settings than asked for."""
    features = Features(hop_ms=config.hop_ms)
    sizes = {name: getattr(config, name) for name in ("hidden_dim", "num_heads", "num_blocks", "kernel")}
    model = SpeechRecognizer(config.decoder, features.mel_bins, **sizes)
    if config.init:
        trained, its_features = load_model(config.init)
        if its_features != features or trained.settings != model.settings:
            raise ValueError(f"{config.init} is another network: give the --decoder, sizes and --hop_ms it has")
        model.load_state_dict(trained.state_dict())
    return model


def training_batches(config: Config, part: Part, rehearsed: Corpus | None) -> SpeechBatches | RehearsalBatches:
    batches = SpeechBatches(part, config.batch_size, config.seed)
    if rehearsed is None:
        return batches
    return RehearsalBatches(batches, SpeechBatches(rehearsed.train, config.batch_size, config.seed))


def build_optimizer(config: Config, model: SpeechRecognizer) -> Muon:
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return Muon(model, config.learning_rate, config.weight_decay, dtype)


def train(config: Config, corpus: Corpus, rehearsed: Corpus | None = None) -> tuple[SpeechRecognizer, list[dict]]:
    """A trained model, the epoch that got the fewest characters of the validation clips wrong, and the history.

    Not the one with the lowest loss: tuned on few clips, a decoder grows too sure of itself while it errs less often.
    """
    utils.configure_seed(config.seed)
    model = initial_model(config)
    # without a part in the loss it has no gradient, for which several processes would wait
    model.ctc_head.requires_grad_(config.ctc_weight > 0)
    part = corpus.train if config.clips is None else corpus.train.first(config.clips)
    batches = training_batches(config, part, rehearsed)
    optimizer = build_optimizer(config, model)
    history = utils.fit(
        model,
        batches,
        optimizer,
        loss_fn=lambda model, batch: training_loss(config, model, batch),
        evaluate=epoch_metrics(corpus, part),
        epochs=config.epochs,
        seed=config.seed,
        augment=augment,
        scheduler=warmup_then_cosine(optimizer, config.epochs * len(batches), config.warmup),
        clip_norm=config.clip_norm,
        keep_best=lambda metrics: -metrics["validation_cer"],
        checkpoint=config.file(".ckpt"),
        config=all_settings(config, rehearsed) | {"data": corpus.digest},
        resume=config.resume,
        overwrite=config.overwrite,
        device=config.device,
        mixed_precision=config.precision,
        tensorboard=config.file("-tensorboard") if config.tensorboard else None,
    )
    return model, history


def all_settings(config: Config, rehearsed: Corpus | None) -> dict:
    """The settings, with the identity of what is rehearsed; that of the corpus stands with the data."""
    return config.settings() | {"rehearsed_digest": rehearsed and rehearsed.digest}


def run(config: Config) -> dict:
    """Train, then evaluate the kept epoch on validation and, once, on the test part ({} in torchrun's others)."""
    features = Features(hop_ms=config.hop_ms)
    corpus = load_corpus(config.data, features, config.cache)
    rehearsed = load_corpus(config.rehearse, features, config.cache) if config.rehearse else None
    head = {
        "question": "q3",
        "run": config.run_name,
        "config": all_settings(config, rehearsed),
        "seeds": [config.seed],
        "data": corpus.describe(),
    }
    main = utils.is_main_process()
    with records.claim(config.out, head, config.overwrite) if main else contextlib.nullcontext():
        model, history = train(config, corpus, rehearsed)
        if not main:
            return {}  # one process tests and reports
        model.half().float()  # as the checkpoint holds it: what is scored is what is saved
        if not utils.is_finite(model):  # float16 ends at 65,504
            raise utils.Diverged(len(history), history)
        save_model(config.file(".safetensors"), model, features)
        return head | evaluated(config, corpus, model, history)


def evaluated(config: Config, corpus: Corpus, model: SpeechRecognizer, history: list[dict]) -> dict:
    """What a result says of a trained model."""
    trained = len(corpus.train) if config.clips is None else min(config.clips, len(corpus.train))
    return {
        "budget": {"clips": trained, "epochs": config.epochs, "clips_seen": trained * len(history)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metrics": {name: evaluate_part(model, getattr(corpus, name)) for name in ("validation", "test")},
        "attention": attention_map(model, corpus.test),
        "history": history,
        "seconds": sum(record["seconds"] for record in history),  # of training: a resumed run has no other
    }
