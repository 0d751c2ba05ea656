"""Greedy and beam search over a decoder whose sentences can all be listed."""

import itertools
from typing import NamedTuple

import pytest
import torch

from common.search import Marks, beam_search, greedy

STOP, VOCABULARY, LIMIT = 1, 4, 4
MARKS = Marks(0, STOP)


class Bias(NamedTuple):
    """A memory of one number for each sentence."""

    value: torch.Tensor


class Table:
    """A decoder whose logits depend on all tokens so far, at random; its state is those tokens."""

    def __init__(self, seed):
        self.seed = seed

    def logits(self, tokens, bias):
        generator = torch.Generator().manual_seed(hash((self.seed, *tokens)) % 2**31)
        return 2 * torch.randn(VOCABULARY, generator=generator, dtype=torch.float64) + bias * torch.arange(VOCABULARY)

    def _forward(self, tokens, memory, state):
        seen = torch.cat([state["seen"], tokens], 1) if state else tokens
        rows = [self.logits(row, bias) for row, bias in zip(seen.tolist(), memory.value.tolist(), strict=True)]
        return torch.stack(rows)[:, None], {"seen": seen}

    @staticmethod
    def select(state, rows):
        return {"seen": state["seen"][rows]}


def log_prob(table, sentence, bias=0.0):
    """Of a sentence with its stop token, by its definition."""
    tokens = [0, *sentence, STOP]
    return sum(
        table.logits(tokens[:i], bias).log_softmax(0)[tokens[i]].item() for i in range(1, len(tokens))
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_a_wide_beam_finds_the_best_of_all_sentences(seed):
    table = Table(seed)
    others = [token for token in range(VOCABULARY) if token != STOP]
    every = [s for length in range(LIMIT) for s in itertools.product(others, repeat=length)]
    best = max(every, key=lambda s: log_prob(table, s) / (len(s) + 1))
    found = beam_search(table, Bias(torch.zeros(1)), width=200, limit=LIMIT, marks=MARKS)
    assert found == list(best)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_takes_the_most_probable_token_in_each_sentence(seed):
    table, biases = Table(seed), torch.tensor([0.0, 1.5, -1.0])
    found = greedy(table, Bias(biases), torch.tensor([6, 3, 1]), MARKS)
    for sentence, bias, limit in zip(found, biases.tolist(), (6, 3, 1), strict=True):
        expected = []
        while len(expected) < limit:
            token = table.logits([0, *expected], bias).argmax().item()
            if token == STOP:
                break
            expected.append(token)
        assert sentence == expected


def test_a_judge_decides_with_its_weight():
    class Sure:
        """Wants token 3, then the end."""

        def __init__(self):
            self.sums, self.length = torch.zeros(1, dtype=torch.float64), torch.zeros(1)

        def scores(self):
            wanted = torch.full((len(self.length), VOCABULARY), -50.0, dtype=torch.float64)
            wanted[self.length == 0, 3] = wanted[self.length == 1, STOP] = 0
            return self.sums[:, None] + wanted

        def extend(self, sentences, tokens):
            self.sums, self.length = self.scores()[sentences, tokens], self.length[sentences] + 1

    for weight, same in ((0.9, True), (0.0, False)):
        found = [beam_search(Table(s), Bias(torch.zeros(1)), 3, LIMIT, MARKS, Sure(), weight) for s in range(6)]
        assert all(sentence == [3] for sentence in found) == same
