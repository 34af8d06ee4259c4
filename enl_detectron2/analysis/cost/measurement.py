"""The memory and time of an inference, measured in a process of its own."""

import functools
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode

from enl_detectron2.training.config import load_config
from enl_detectron2.utils.imports import IMPORTED, import_modules

from .random_model import build_random_model, fixed_regions, random_image

TIMED_RUNS = 5


@dataclass(frozen=True)
class Measurement:
    """One inference on random weights, in a process of its own, on ``device``.

    ``memory_before`` and ``memory_peak`` are bytes right before the process's first inference and
    at its peak: on the CPU the process's resident memory, with Python and PyTorch in it; on a GPU
    what PyTorch has allocated there. ``seconds`` is the median of the ``TIMED_RUNS`` next
    inferences.
    """

    device: str
    memory_before: int
    memory_peak: int
    seconds: float


def measure(config_file: str, opts: Sequence[str], image_size: tuple[int, int]) -> Measurement:
    """Memory and time of an inference on one image, in a new process that does nothing else.

    It runs on the configuration's device, or on the CPU if that is a GPU and there is none.

    Args:
        config_file, opts, image_size: as in :func:`analyze`.

    Raises:
        RuntimeError: if the process dies, as one that runs out of memory does, or if this isn't
            Linux, which alone tells a process's peak memory.
    """
    with ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=import_modules,
        initargs=(IMPORTED,),
    ) as pool:
        try:
            return pool.submit(_measure_here, config_file, list(opts), image_size).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{config_file}: the process that measures it died, perhaps for lack of memory"
            ) from error


def _measure_here(config_file: str, opts: list[str], image_size: tuple[int, int]) -> Measurement:
    cfg = load_config(config_file, opts)
    device = torch.device(cfg.MODEL.DEVICE if isinstance(cfg, CfgNode) else cfg.train.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        device = torch.device("cpu")
    model = build_random_model(cfg, str(device))
    infer = functools.partial(model, [{"image": random_image(image_size, len(model.pixel_mean))}])
    on_gpu = device.type == "cuda"
    with torch.no_grad(), fixed_regions(model, image_size):
        if on_gpu:
            infer = functools.partial(_finished, infer, device)
        before, peak = _gpu_memory(infer, device) if on_gpu else _resident_memory(infer)
        seconds = statistics.median(_seconds(infer) for _ in range(TIMED_RUNS))
    if on_gpu:
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {torch.get_num_threads()} thread(s)"
    return Measurement(name, before, peak, seconds)


def _resident_memory(run: Callable[[], Any]) -> tuple[int, int]:
    """The process's resident memory before ``run`` and at its peak, in bytes."""
    # Not getrusage's ru_maxrss: a new process inherits it from its parent, and it can't be reset.
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts anew
    except OSError as error:
        raise RuntimeError(f"the CPU's peak memory needs Linux's /proc: {error}") from error
    before = _proc_status("VmRSS")
    run()
    return before, _proc_status("VmHWM")


def _proc_status(key: str) -> int:
    """A size of this process, in bytes."""
    with open("/proc/self/status") as file:
        sizes = dict(line.split(":", 1) for line in file)
    return int(sizes[key].split()[0]) * 1024


def _gpu_memory(run: Callable[[], Any], device: torch.device) -> tuple[int, int]:
    """What PyTorch has allocated on the GPU before ``run`` and at its peak, in bytes."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return before, torch.cuda.max_memory_allocated(device)


def _finished(run: Callable[[], Any], device: torch.device) -> None:
    """``run``, until the GPU has done all of it."""
    run()
    torch.cuda.synchronize(device)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
