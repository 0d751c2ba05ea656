"""Echoes: what is to be said, who says it, and how it is scored."""

import pytest
import torch

from assignments.hw2 import echo


@pytest.mark.parametrize("delay", [0, 4, 14, 15, 40])
def test_what_is_to_be_said_is_the_sequence_after_silence(delay):
    for sequence, said in echo.EchoDataset(delay, seq_length=15, size=5, seed=0):
        assert sequence.shape == (15, 27)
        assert (sequence.sum(1) == 1).all()
        heard = sequence.argmax(1)
        assert heard.min() >= 1  # no silence in what is read
        assert said[:delay].tolist() == [0] * min(delay, 15)
        assert said[delay:].tolist() == heard[: max(0, 15 - delay)].tolist()


def test_delays_vary_from_none_to_the_longest():
    pairs = list(echo.VariableDelayEchoDataset(max_delay=3, seq_length=6, size=200, seed=0))
    assert len(pairs) == len(echo.VariableDelayEchoDataset(size=200)) == 200
    assert {delay for _, delay, _ in pairs} == {0, 1, 2, 3}
    for sequence, delay, said in pairs[:20]:
        assert said.tolist() == [0] * delay + sequence.argmax(1).tolist()[: 6 - delay]


def test_two_data_sets_of_one_seed_are_equal_and_of_two_differ():
    first, again, other = (
        torch.stack([sequence for sequence, _ in echo.EchoDataset(size=3, seed=seed)]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Parrot(echo.GRUMemory):
    """Repeats after `delay`, without any learning."""

    def __init__(self, delay):
        super().__init__(4)
        self.delay = delay

    def forward(self, x):
        moved = torch.stack([echo.delayed(sequence.argmax(1), self.delay) for sequence in x])
        return echo.idx_to_onehot(moved)


def test_a_perfect_echo_scores_one_and_a_late_one_by_chance():
    assert Parrot(4).test_run("abcdefg") == "    abc"
    assert echo.test_model(Parrot(4).test_run, delay=4) == 1
    assert echo.test_model(Parrot(5).test_run, delay=4) == pytest.approx(1 / 26, abs=0.02)
    assert echo.test_model(Parrot(0).test_run, delay=0, lengths=(1, 3), count=9) == 1


def test_strings_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 characters were said for"):
        echo.test_model(lambda s: s[:2], delay=1)
    with pytest.raises(ValueError, match="'aB' is not made of the letters"):
        echo.GRUMemory(3).test_run("aB")


def test_both_memories_give_a_logit_for_each_symbol_and_step():
    torch.manual_seed(0)
    x = echo.idx_to_onehot(torch.randint(1, 27, (5, 11)))
    assert echo.GRUMemory(8)(x).shape == (5, 11, 27)
    model = echo.VariableDelayGRUMemory(8, max_delay=6)
    delays = torch.tensor([0, 6, 1, 2, 3])
    logits = model(x, delays)
    assert logits.shape == (5, 11, 27)
    # each sequence by itself, and with another delay another answer
    torch.testing.assert_close(model(x[1:2], delays[1:2])[0], logits[1])
    assert not torch.allclose(model(x[1:2], delays[:1])[0], logits[1])
    assert len(model.test_run("hello", 2)) == 5
    with pytest.raises(ValueError, match="delays must be from 0 to 6"):
        model(x, delays + 1)


def test_an_untrained_delay_line_holds_what_was_read_and_a_usual_gru_does_not():
    """Read out by least squares, eight steps later: the share of letters on 500 new strings."""
    torch.manual_seed(0)
    symbols = torch.randint(1, 27, (2500, 12))
    answers = symbols[:, 3]
    scores = []
    for gru in (echo.GRUMemory(128).gru, torch.nn.GRU(27, 128, batch_first=True)):
        with torch.no_grad():
            states = gru(echo.idx_to_onehot(symbols))[0][:, 11].double()  # (2500, 128)
        read_out = torch.linalg.lstsq(states[:2000], torch.nn.functional.one_hot(answers[:2000], 27).double()).solution
        scores.append(((states[2000:] @ read_out).argmax(1) == answers[2000:]).double().mean().item())
    assert scores[0] > 0.9 > 0.3 > scores[1], scores


def test_the_gates_of_a_delay_line_begin_open_and_its_matrix_keeps_lengths():
    torch.manual_seed(0)
    gru = echo.make_delay_line(torch.nn.GRU(5, 16))
    matrix = gru.weight_hh_l0[32:]
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16))
    cell = torch.nn.GRUCell(5, 16)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in gru.state_dict().items()})
    state = torch.randn(1, 16) / 100
    moved = cell(torch.zeros(1, 5), state)
    torch.testing.assert_close(moved.norm(), state.norm(), rtol=0.06, atol=0)  # sigmoid(4) = 0.982, twice
    assert (moved - state).norm() > state.norm()
