"""Steps in PyTorch for a worker process."""

from __future__ import annotations

import torch

from benchmarks import peer_networks, peer_pytorch
from benchmarks.peak_memory import HostPeak
from benchmarks.step_settings import StepTask, images
from benchmarks.step_worker import Kind, Stepper
from benchmarks.timing import host as host_machine


def make(kind: Kind, task: StepTask, cache: str) -> Stepper:
    """The steps of a kind; `cache` is ignored, and PyTorch's own caches are not changed."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    host = HostPeak()
    torch.manual_seed(0)
    network = peer_networks.create(task.network, task.classes, coupled=kind.coupled).to(device)
    trainer = peer_pytorch.Trainer(
        network,
        task.random_passes if kind.coupled else 0,
        peer_pytorch.Constants(idm=0.01 if kind.idm else 0.0),
        compiled=kind.way == "compiled",
        dtype=getattr(torch, task.precision),
    )
    batches = images(task, task.batch)

    def step() -> None:
        batch = next(batches)
        pixels = torch.from_numpy(batch["image"]).to(device, non_blocking=True)
        trainer(pixels, torch.from_numpy(batch["label"]).to(device, torch.long))
        if on_gpu:
            torch.cuda.synchronize()

    return Stepper(
        step=step,
        images=task.batch,
        restart_peak=torch.cuda.reset_peak_memory_stats if on_gpu else host.restart,
        peak=torch.cuda.max_memory_allocated if on_gpu else host.bytes,
        machine=_machine(on_gpu),
    )


def _machine(on_gpu: bool) -> dict:
    return host_machine() | {
        "torch": torch.__version__,
        "torch_device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }
