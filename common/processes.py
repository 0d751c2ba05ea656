"""Several processes that train one model, as torchrun or accelerate launch start them (docs/several-processes.md).

Each computes its share of every batch; the step that follows is that of one process with the whole batch.
"""

from __future__ import annotations

import atexit
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    broadcast_object_list,
    gather_object,
    get_cpu_distributed_information,
    parse_flag_from_env,
    slice_tensors,
)
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.overrides import TorchFunctionMode

PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


def precision_of(mixed_precision: str, device: str) -> str:
    """bf16 or no; auto means bf16 where the device computes in it, not only emulates it."""
    if mixed_precision != "auto":
        return mixed_precision
    if device != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        processor = torch.cpu.get_capabilities()
        native = device != "mps" and (processor.get("avx512_bf16") or processor.get("amx_bf16"))
    return "bf16" if native else "no"


def connect(device: str, mixed_precision: str, tensorboard: Path | None) -> Accelerator:
    """Join the processes of the launch, each with a device of its own: GPUs where there are any, or the CPU.

    Raises ValueError where there is no such device, or not one for each process.
    """
    if mixed_precision not in ("no", "bf16"):
        raise ValueError(f"mixed_precision is {mixed_precision}, but must be no or bf16")
    launch, gpus = get_cpu_distributed_information(), torch.cuda.device_count()
    several = launch.world_size > 1
    if several and device == "mps":
        raise ValueError("several processes cannot share mps: run it without torchrun, or with --device cpu")
    # left to itself, Accelerate connects processes over NCCL or not at all
    cpu = device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU") or (several and device == "auto" and not gpus)
    if several and not cpu and 0 < gpus < launch.local_world_size:
        raise ValueError(
            f"{launch.local_world_size} processes need a GPU each, but this machine has {gpus}: "
            f"use --nproc_per_node={gpus}, or --device cpu"
        )
    joined = torch.distributed.is_initialized()  # by an earlier training in these processes, which stay connected
    AcceleratorState._reset_state(reset_partial_state=not joined)  # or a second one would have the first's settings
    threads = torch.get_num_threads()
    log_with = "tensorboard" if tensorboard else None
    accelerator = Accelerator(cpu=cpu, mixed_precision=mixed_precision, log_with=log_with, project_dir=tensorboard)
    torch.set_num_threads(min(threads, torch.get_num_threads()))  # Accelerate may have raised it
    if torch.distributed.is_initialized() and not joined:
        atexit.register(torch.distributed.destroy_process_group)  # not sooner: torchrun's cannot be joined twice
    if device not in ("auto", accelerator.device.type):
        raise ValueError(f"there is no {device} device here, only {accelerator.device.type}: use --device auto")
    if accelerator.num_processes != launch.world_size or accelerator.distributed_type not in PLAIN:
        raise ValueError(
            f"{launch.world_size} processes cannot share a run this way ({accelerator.device.type}, "
            f"{accelerator.distributed_type.value}): start them with torchrun, on NVIDIA GPUs or with --device cpu"
        )
    return accelerator


def from_main_process(value):
    """What the main process has, in all of them."""
    return broadcast_object_list([value])[0]


def check_same_settings(settings: dict) -> None:
    """Raise ValueError where another process was started with other settings."""
    every = gather_object([settings])
    different = sorted({name for other in every for name in other if other[name] != settings.get(name)})
    if different:
        raise ValueError(f"the processes differ in {', '.join(different)}: start all of them with the same command")


class GlobalBatch(TorchFunctionMode):
    """While it is active, dropout and batch normalisation act on a share of a batch as they would on the whole.

    Each process draws the random numbers of the whole batch, since all have one seed, and uses those of its rows.
    Normalisation's statistics are summed over the processes.
    """

    def __init__(self, rank: int, world: int):
        super().__init__()
        self.rows, self.world, self.size = slice(rank, None, world), world, 0

    @property
    def shared(self) -> bool:
        """Whether each process has rows of its own; each computes the whole of a batch that is too small for that."""
        return self.size >= self.world > 1

    def share(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.size = len(batch[0])
        return slice_tensors(batch, self.rows) if self.shared else batch

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if self.shared and function in DROPOUTS:
            return self._dropout(function, *args, **kwargs)
        if self.shared and function is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        return function(*args, **(kwargs or {}))

    def _dropout(self, function, x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        if not training:
            return x
        whole = x.new_zeros(self.size, *x.shape[1:])
        whole[self.rows] = x
        return function(whole, p, training)[self.rows]

    def _batch_norm(self, x, running_mean, running_var, weight, bias, training, momentum, eps) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        others = [dim for dim in range(x.ndim) if dim != 1]
        count = self.size * x[0, 0].numel()  # of each channel
        column = (-1, *[1] * (x.ndim - 2))  # a value for each channel, as (C, 1, 1)
        mean = all_reduce(values.sum(others)).view(column) / count
        variance = all_reduce((values - mean).square().sum(others)).view(column) / count
        if running_mean is not None:
            running_mean.lerp_(mean.detach().flatten().to(running_mean), momentum)
            running_var.lerp_(variance.detach().flatten().to(running_var) * count / (count - 1), momentum)
        y = (values - mean) * (variance + eps).rsqrt()
        if weight is not None:
            y = y * weight.view(column) + bias.view(column)
        return y.to(x.dtype)
