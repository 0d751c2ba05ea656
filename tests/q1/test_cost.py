"""What linear attention costs: operations and memory, counted and not timed."""

import json
import math
import os
import subprocess
import sys
import textwrap
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import records
from q1 import chunked
from q1_linear_attention import softmax_attention
from tests.q1.reference import draw, monomials


class Counter(TorchDispatchMode):
    """Multiplications and additions of the matrix products, all numbers written, and the largest tensor made."""

    products: ClassVar = {"aten::bmm": (0, 1), "aten::mm": (0, 1), "aten::baddbmm": (1, 2), "aten::baddbmm_": (1, 2)}

    def __init__(self):
        super().__init__()
        self.flops = self.written = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in self.products:
            a, b = (args[i] for i in self.products[name])
            self.flops += 2 * a.numel() * b.shape[-1]
        else:
            assert "mm" not in name.split("::")[1], f"{name} is a matrix product that is not counted"
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.written += result.numel()
            self.largest = max(self.largest, result.numel())
        return result


def count(length, causal, backward, heads=4, dim=8, value_dim=6):
    # the passes themselves: a dispatch mode sees no further than the operator around them
    inputs, settings = draw(0, length, length, dim, value_dim, leading=(heads,)), (3, causal, dim**-0.5)
    with Counter() as forward:
        output, normaliser = chunked.attend(*inputs, None, *settings)
    if not backward:
        return forward
    with Counter() as counter:
        chunked.attend_backward(torch.ones_like(output), *inputs, None, output, normaliser, *settings)
    return counter


@pytest.mark.equation("eq:cost-linear")
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_more_tokens_cost_in_proportion(causal, backward):
    first, second, third = (count(length, causal, backward, heads=2) for length in (2048, 4096, 6144))
    # exactly so without causality; a causal pass reads no state in its first chunk, and gives none in its last
    if not causal:
        assert second.flops == 2 * first.flops > 0
    assert third.flops - second.flops == second.flops - first.flops > 0.9 * first.flops
    # numbers written: the block of features is a cost for each pass, all else is for each chunk
    assert third.written - second.written == second.written - first.written > 0


@pytest.mark.equation("eq:cost-linear")
def test_flops_are_those_of_the_formula():
    # for each head and token, a multiplication and an addition for each feature and value (or one, for the
    # normaliser): once to sum over the keys and once to read. 45 features, 6 + 1 values.
    assert len(monomials(8, 3)) == 45
    assert count(4096, causal=False, backward=False).flops == 4 * 4 * 4096 * 45 * 7
    # causal: the same less one chunk each, and within chunks of 256 the scores (8) and their sums (7)
    chunks = 4 * 4 * 4096 * 45 * 7 * 15 // 16 + 2 * 4 * 4096 * 256 * (8 + 7)
    assert count(4096, causal=True, backward=False).flops == chunks


@pytest.mark.equation("eq:crossover")
@pytest.mark.parametrize("dim", [4, 8, 16])
@pytest.mark.parametrize("value_dim", [4, 8])
def test_crossover_is_where_fewer_operations_are_counted(dim, value_dim):
    crossover = 2 * len(monomials(dim, 3)) * (value_dim + 1) / (dim + value_dim)
    for length in (math.floor(crossover), math.floor(crossover) + 1):
        query, key, value = draw(0, length, length, dim, value_dim, leading=())
        with Counter() as softmax:
            softmax_attention(query, key, value)
        linear = count(length, causal=False, backward=False, heads=1, dim=dim, value_dim=value_dim)
        assert (linear.flops < softmax.flops) == (length > crossover)


@pytest.mark.equation("eq:cost-linear")
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_no_tensor_of_the_pass_grows_beyond_inputs_and_a_block(causal, backward, monkeypatch):
    # at this length the features of all tokens are 45 / 8 times the query, and the matrix of weights 1024 times
    length = 2**13
    monkeypatch.setitem(chunked.BUFFER, "cpu", 2**18)
    found = count(length, causal, backward, heads=8)
    assert found.largest <= max(8 * length * 8, chunked.BUFFER["cpu"])
    assert 2 * found.largest < 8 * length * 45


MEMORY = textwrap.dedent("""
    import json, re, sys
    import torch
    from q1_linear_attention import linear_attention

    # ru_maxrss would not do: a process begins with the peak of the one that started it
    def resident(what):
        return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

    torch.set_num_threads(1)
    length, causal, backward = map(int, sys.argv[1:])

    def run(length):
        inputs = [torch.randn(4, length, 32, requires_grad=bool(backward)) for _ in range(3)]
        grad = torch.randn(4, length, 32)
        before = resident("VmRSS")
        open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
        output = linear_attention(*inputs, causal=bool(causal))
        if backward:
            output.backward(grad)
        made = [output] + [x.grad for x in inputs if backward]
        return resident("VmHWM") - before - sum(x.nbytes for x in made)

    run(2048)  # loads what is loaded at the first call
    print(json.dumps(run(length)))
""")


@pytest.mark.slow
@pytest.mark.equation("eq:cost-linear")
@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("causal", [0, 1])
def test_memory_beyond_inputs_and_outputs_does_not_grow(causal, backward):
    def extra(length):
        environment = os.environ | {
            "PYTHONPATH": str(records.ROOT),
            "MALLOC_MMAP_THRESHOLD_": "65536",
        }  # freed is given back
        command = [sys.executable, "-c", MEMORY, str(length), str(causal), str(backward)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        if "PermissionError" in result.stderr or "FileNotFoundError" in result.stderr:
            pytest.skip("the peak of memory can only be read on Linux")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    short, long = extra(16384), extra(65536)
    # the features of 65,536 tokens of 4 heads would be 561 MiB, and for a copy of one input in full 32 MiB
    assert long - short < 16 * 2**20
    assert long < 64 * 2**20
