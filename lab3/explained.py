"""What is explained: predictions about pictures, by their pixels, and about sentences, by their words.

What replaces a removed pixel is a choice: here the picture's own blur, which takes its shapes and leaves its colours;
black or grey spots would be shapes of their own, which no network was trained on. A removed word leaves its sentence,
so that the rest is a sentence still, and where none is left one unknown word stands.

Letters: N items, B batch, C channels, S pixels on a side, F pixels or words, M masks, L tokens,
D embedding, K classes.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from common.classification import predict
from lab3 import encoders, explanations, photographs, reviews, sentiment, transfer
from lab3.explanations import Value
from lab3.study import Settings
from lab3.transfer_networks import seen

# how lab3/transfer.py trains the networks for pictures, and lab3/sentiment.py those for sentences
PICTURES = {
    "digits": {"method": "scratch"},
    "pneumoniamnist": {"method": "partial"},
    "ants_bees": {"method": "partial", "image_size": 112},
}
SENTENCES = {"grammar": {}, "rotten_tomatoes": {"labels": 2048}}
DATASETS = (*PICTURES, *SENTENCES)
NOT_SHOWN = ("ants_bees",)  # whose pictures are for research use alone
AT_ONCE = 50  # masked pictures in a forward pass
BLUR = 1 / 8  # deviation of the blur, as a share of a picture's side
CELLS = 7  # on a side, in which pixels are occluded together
LIME_SAMPLES, SHAPLEY_ORDERS = 200, 10  # about as many forward passes for a sentence of 20 words
LARGEST_EXAMPLE, LONGEST_EXAMPLE = 56, 16  # pixels on the sides of maps, and words, that a result keeps as examples
TO_REDRAW = 100  # training pictures whose statistics normalisation takes in a network that is drawn anew


def flags_for(script: type, config: Settings, **flags):
    """The flags of the script that trains a network, with those that it shares with this one's."""
    same = ("dataset", "data_root", "epochs", "seed", "device", "tensorboard", "out", "resume", "overwrite")
    return script(**{name: getattr(config, name) for name in same}, **flags)


def evenly(available: int, count: int) -> Tensor:
    """So many places at most, evenly from all, since a part may go class by class."""
    return torch.linspace(0, available - 1, min(count, available)).round().long()


def value_of(subject: Pictures | Sentences, network: nn.Module, item: int, kind: int) -> Value:
    """The score of the class `kind` by what is kept of an item."""
    return lambda kept: subject.outputs(network, item, kept)[:, kind]


def in_percent(scores: Tensor) -> list[int]:
    """Of the largest score's size."""
    return (100 * scores / scores.abs().max().clamp(min=1e-30)).round().int().flatten().tolist()


def subject_of(config: Settings) -> Pictures | Sentences:
    """The test items of a set. Raises FileNotFoundError or ValueError where its data are missing or damaged."""
    return (Pictures if config.dataset in PICTURES else Sentences)(config)


# --- pictures ----------------------------------------------------------------------------------------


class Pictures:
    """Test pictures, of which pixels are explained and removed, and the network that classifies them."""

    METHODS = ("random", "contrast", "saliency", "integrated gradients", "Grad-CAM", "occlusion")

    def __init__(self, config: Settings):
        self.config = flags_for(transfer.Config, config, **PICTURES[config.dataset])
        read = photographs.read(config.dataset, config.data_root, round(transfer.MARGIN * self.config.pixels))
        self.data = photographs.select(read)
        self.class_names = self.data.class_names
        chosen = evenly(len(self.data.test[1]), config.items)
        self.labels = self.data.test[1][chosen]
        self.images = self.data.test[0][chosen]  # (N, C, S, S)
        side = min(self.images.shape[-1], self.config.pixels)  # of photographs the network sees the centre alone
        self.images = seen(self.images, self.images.shape[1], side).contiguous()
        self.blurred = gaussian_blur(self.images, kernel_size=2 * (side // 3) + 1, sigma=BLUR * side)
        cells = torch.arange(CELLS**2, dtype=torch.float).view(1, 1, CELLS, CELLS)
        self.cells = F.interpolate(cells, size=(side, side), mode="nearest").long().flatten()  # (F), each pixel's

    def train(self) -> tuple[nn.Module, dict]:
        network = transfer.build(self.config, self.data)
        found = transfer.adapt(self.config, self.data, network, {"validation": self.data.val, "test": self.data.test})
        return network, found["right"]

    def parts(self, item: int) -> int:
        return len(self.cells)

    def to_redraw(self) -> tuple[Tensor, ...]:
        return (self.data.train[0][evenly(len(self.data.train[1]), TO_REDRAW)],)

    def outputs(self, network: nn.Module, item: int, kept: Tensor) -> Tensor:
        """Class scores (M, K) of a picture with all but the pixels of each mask (M, F) blurred."""
        image, blurred = self.images[item], self.blurred[item]
        kept = kept.view(-1, 1, *image.shape[1:])  # (M, 1, S, S)
        return torch.cat([predict(network, torch.where(part, image, blurred)) for part in kept.split(AT_ONCE)])

    def explain(self, method: str, network: nn.Module, item: int, kind: int, generator: torch.Generator) -> Tensor:
        """The score (F) of each pixel of a picture, for the class `kind`."""
        image = self.images[item, None]  # (1, C, S, S)
        score = lambda images: network(images)[:, kind]  # noqa: E731
        return {
            "random": lambda: torch.rand(image.shape[2:], generator=generator),
            "contrast": lambda: explanations.contrast(image[0]),
            "saliency": lambda: explanations.saliency(score, image),
            "integrated gradients": lambda: explanations.integrated_gradients(
                score, image, self.blurred[item, None]
            ).sum(1),
            "Grad-CAM": lambda: explanations.grad_cam(score, image, network.stages[-1]),
            "occlusion": lambda: explanations.occlusion(value_of(self, network, item, kind), self.cells),
        }[method]().flatten()  # fmt: skip

    def shown(self, count: int) -> list[int]:
        """The items that are examples: none of photographs that nobody may publish."""
        return [] if self.config.dataset in NOT_SHOWN else evenly(len(self.images), count).tolist()

    def example(self, item: int, maps: dict[str, Tensor]) -> dict:
        """A picture (8 bits, channels last) and its maps (-100 to 100), as small as a plot shows them."""
        channels, side = self.images.shape[1:3]
        size = min(side, LARGEST_EXAMPLE)
        small = lambda image: F.adaptive_avg_pool2d(image, size)  # noqa: E731
        pixels = small(self.images[item]).add(1).mul(127.5).round().int().permute(1, 2, 0)
        return {
            "size": [size, size, channels],
            "pixels": pixels.flatten().tolist(),
            "maps": {method: in_percent(small(scores.view(1, side, side))) for method, scores in maps.items()},
        }


# --- sentences ---------------------------------------------------------------------------------------


class Sentences:
    """Test sentences, of which words are explained and removed, and the Transformer that classifies them."""

    METHODS = ("random", "rare words", "integrated gradients", "occlusion", "LIME", "Shapley values")

    def __init__(self, config: Settings):
        self.config = flags_for(sentiment.Config, config, **SENTENCES[config.dataset])
        self.data = reviews.load(config.dataset, config.data_root)
        self.class_names = reviews.CLASSES
        chosen = evenly(len(self.data.test.texts), config.items).tolist()
        self.labels = self.data.test.labels[chosen]
        self.words = [self.data.test.texts[index].split() for index in chosen]
        self.counts = Counter(word for text in self.data.train.texts for word in text.split())

    def train(self) -> tuple[nn.Module, dict]:
        single = self.config
        train = reviews.subset(self.data.train, single.labels, single.seed)
        self.tokenizer, network = sentiment.build(single, train.texts)
        batches = encoders.SentenceBatches(
            encoders.tokenize(self.tokenizer, train.texts), train.labels, single.batch_size, single.seed
        )
        sentiment.optimize(single, network, batches, self.tokenizer, self.data)
        single.file(".ckpt").unlink(missing_ok=True)
        network = network.cpu().eval()
        return network, {
            name: self.classify(network, part.texts).argmax(1) == part.labels
            for name, part in (("validation", self.data.val), ("test", self.data.test))
        }

    def parts(self, item: int) -> int:
        return len(self.words[item])

    def to_redraw(self) -> tuple[Tensor, ...]:
        tokens = encoders.tokenize(self.tokenizer, self.data.train.texts[:1])
        return tokens.ids, tokens.mask

    def classify(self, network: nn.Module, texts: list[str]) -> Tensor:
        return encoders.apply(network, encoders.tokenize(self.tokenizer, texts))  # (N, K)

    def outputs(self, network: nn.Module, item: int, kept: Tensor) -> Tensor:
        """Class scores (M, K) of a sentence without all but the words of each mask (M, F)."""
        words = self.words[item]
        texts = [" ".join(word for word, stays in zip(words, mask, strict=True) if stays) for mask in kept.tolist()]
        return self.classify(network, [text or self.tokenizer.unk_token for text in texts])

    def explain(self, method: str, network: nn.Module, item: int, kind: int, generator: torch.Generator) -> Tensor:
        """The score (F) of each word of a sentence, for the class `kind`."""
        words, value = self.words[item], value_of(self, network, item, kind)
        count = len(words)
        return {
            "random": lambda: torch.rand(count, generator=generator),
            "rare words": lambda: torch.tensor([1 / (1 + self.counts[word]) for word in words]),
            "integrated gradients": lambda: self.integrated_gradients(network, words, kind),
            "occlusion": lambda: explanations.occlusion(value, torch.arange(count)),
            "LIME": lambda: explanations.lime(value, count, LIME_SAMPLES, generator),
            "Shapley values": lambda: explanations.shapley(value, count, SHAPLEY_ORDERS, generator),
        }[method]()

    def integrated_gradients(self, network: nn.Module, words: list[str], kind: int) -> Tensor:
        """From padding in the place of the words to their embeddings; a word's score (F) is its tokens' sum."""
        tokens = self.tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=encoders.LONGEST, return_tensors="pt"
        )
        places = tokens.word_ids()  # (L), the word of each token; None of the tokens that begin and end a sentence
        of_words = torch.tensor([place is not None for place in places])
        embed, ids = network.encoder.get_input_embeddings(), tokens["input_ids"]  # (1, L)
        baseline = embed(torch.where(of_words, self.tokenizer.pad_token_id, ids)).detach()  # (1, L, D)

        def score(embeddings: Tensor) -> Tensor:
            hidden = network.encoder(inputs_embeds=embeddings).last_hidden_state  # (B, L, D), without padding
            return network.head(hidden.mean(1))[:, kind]

        found = explanations.integrated_gradients(score, embed(ids).detach(), baseline)[0].sum(-1)  # (L)
        scores = torch.zeros(len(words))
        return scores.index_add(0, torch.tensor([place for place in places if place is not None]), found[of_words])

    def shown(self, count: int) -> list[int]:
        """The items that are examples: not too long for a plot, where there are such."""
        items = [item for item, words in enumerate(self.words) if len(words) <= LONGEST_EXAMPLE] or [0]
        return [items[place] for place in evenly(len(items), count).tolist()]

    def example(self, item: int, maps: dict[str, Tensor]) -> dict:
        return {"words": self.words[item], "maps": {method: in_percent(scores) for method, scores in maps.items()}}
