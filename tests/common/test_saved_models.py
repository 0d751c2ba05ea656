import json
import os
import struct

import pytest
import torch
from torch import nn

from common.saved_models import check_like, read_weights, rebuild, write_weights


def header_of(data: bytes) -> dict:
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def test_what_is_written_is_read_back_with_its_header(tmp_path):
    weights = {"a": torch.randn(3, 2), "half": torch.randn(4).half(), "count": torch.tensor(7)}
    header = {"model": {"hidden_dim": 8, "names": ["ä", "b"]}, "features": {"hop_ms": 16.0}}
    write_weights(tmp_path / "m.safetensors", weights, header)
    # the file's own layout, read by hand: eight bytes of length, JSON, data
    stored = header_of((tmp_path / "m.safetensors").read_bytes())
    assert {key: json.loads(value) for key, value in stored.pop("__metadata__").items()} == header
    assert {name: entry["dtype"] for name, entry in stored.items()} == {"a": "F32", "half": "F16", "count": "I64"}
    read, found = read_weights(tmp_path / "m.safetensors")
    assert found == header
    assert read["half"].dtype == torch.float32
    assert all(torch.equal(read[name], tensor.to(read[name].dtype)) for name, tensor in weights.items())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, dtype):
    weights = {"good": torch.ones(3), "bad": torch.ones(5, dtype=dtype)}
    weights["bad"][3] = value
    write_weights(tmp_path / "m.safetensors", weights, {})
    with pytest.raises(ValueError, match=r"m\.safetensors holds weights that are not finite, in bad"):
        read_weights(tmp_path / "m.safetensors")


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    write_weights(tmp_path / "whole.safetensors", {"a": torch.ones(100)}, {})
    whole = (tmp_path / "whole.safetensors").read_bytes()
    deep = {"__metadata__": {"model": "[" * 100_000}}
    files = {
        "text": b"hello, world",
        "empty": b"",
        "cut": whole[:-1],
        "claims": struct.pack("<Q", 2**60) + b"{}",
        "deep": (lambda text: struct.pack("<Q", len(text)) + text)(json.dumps(deep).encode()),
        "no_json": (lambda text: struct.pack("<Q", len(text)) + text)(b'{"__metadata__": {"format": "pt"}}'),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} is no checkpoint") as caught:
            read_weights(tmp_path / name)
        assert len(str(caught.value).removeprefix(str(tmp_path))) < 200
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="folder"):
        read_weights(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="device"):
        read_weights(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*missing"):
        read_weights(tmp_path / "missing")


EXAMPLE = {"settings": {"epochs": 1, "rate": 0.1, "name": "sgd", "flag": False}, "mean": [0.5]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": None}, "mean is null"),
        ({"mean": 0.5}, "mean is 0.5, not like"),
        ({"mean": []}, "mean is empty"),
        ({"mean": [0.5, "x"]}, 'mean\'s item is "x"'),
        ({"mean": [float("nan")]}, "NaN"),
        ({"mean": [float("-inf")]}, "Infinity"),
        ({"mean": [10**400]}, "not within"),
        ({"settings": []}, "settings is"),
        ({"settings": {"epochs": 1, "rate": 0.1, "flag": True}}, "settings has no name"),
        ({"settings": {"epochs": True, "rate": 0.1, "name": "a", "flag": True}}, "epochs is true"),
        ({"settings": {"epochs": 1.0, "rate": 0.1, "name": "a", "flag": True}}, "epochs is 1.0"),
        ({"settings": {"epochs": 1, "rate": "0.1", "name": "a", "flag": True}}, "rate is"),
        ({"settings": {"epochs": 1, "rate": 0.1, "name": "a", "flag": 1}}, "flag is 1"),
    ],
)
def test_a_header_of_another_form_is_refused(change, words):
    check_like(EXAMPLE | {"mean": [1, 2.5], "more": None}, EXAMPLE)
    with pytest.raises(ValueError, match=words):
        check_like(EXAMPLE | change, EXAMPLE)


def test_weights_must_be_those_of_the_network_described():
    network = nn.Linear(3, 2)
    again = rebuild(lambda: nn.Linear(3, 2), network.state_dict())
    assert torch.equal(again.weight, network.weight)
    assert not again.training
    with pytest.raises(ValueError, match=r"bias is missing in the weights, \(2,\) in the network"):
        rebuild(lambda: nn.Linear(3, 2), {"weight": network.weight})
    with pytest.raises(ValueError, match=r"more is \(1,\) in the weights, missing in the network"):
        rebuild(lambda: nn.Linear(3, 2), network.state_dict() | {"more": torch.ones(1)})
    # terabytes that a header asks for are refused for their shape, not for want of memory
    with pytest.raises(ValueError, match=r"weight is \(2, 3\) in the weights, \(2000000, 3000000\)"):
        rebuild(lambda: nn.Linear(3_000_000, 2_000_000), network.state_dict())
