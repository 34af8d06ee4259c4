"""What the benchmarks share: interleaved times, memory, the machine, and the files of results."""

import ctypes
import datetime
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.autograd.profiler import profile

# The profiler's library greets at the start and the end of each profile, and misses a GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

RESULTS = Path(__file__).parent / "results"
WARM_UP_ROUNDS = 5  # of a GPU
Times = dict[str, list[float]]


# ---------------------------------------------------------------------------- time


def interleaved_times(
    functions: Mapping[str, Callable[[], Any]],
    *,
    seconds: float,
    rounds: tuple[int, int] = (7, 100),
    device: torch.device | str = "cpu",
) -> Times:
    """The times of several functions, taken in turn, so that a slower minute is one for them all.

    Each round calls each function once, in an order drawn anew: what a function finds in the caches
    is then not always left there by the same other one. A first round isn't counted, and on a GPU,
    which chooses its kernels and its clock, some more.

    Args:
        functions: by name.
        seconds: about how long the rounds may take together.
        rounds: the smallest and the largest number of them.
        device: where the functions work.

    Returns:
        for each function its time in each round, in seconds.
    """
    clock = _gpu_seconds if torch.device(device).type == "cuda" else _seconds
    for _ in range(WARM_UP_ROUNDS if clock is _gpu_seconds else 0):
        for function in functions.values():
            clock(function)
    first_round = sum(clock(function) for function in functions.values())
    fewest, most = rounds
    order = list(functions)
    shuffle = random.Random(0).shuffle
    times: Times = {name: [] for name in functions}
    for _ in range(min(max(int(seconds / first_round), fewest), most)):
        shuffle(order)
        for name in order:
            times[name].append(clock(functions[name]))
    return times


def ratio(times: Times, numerator: str, denominator: str) -> float:
    """The median of the ratios of two functions' times in the same round."""
    return statistics.median(a / b for a, b in zip(times[numerator], times[denominator]))


def milliseconds(times: Times) -> dict[str, float]:
    """The median time of each function."""
    return {name: 1e3 * statistics.median(own) for name, own in times.items()}


def keep_freed_memory() -> bool:
    """Lets this process keep the memory it frees, for its next calls, from now on.

    By default glibc returns large blocks to the system, and the next call pays for fresh pages: on
    large maps that costs more than the work in them. What keeps its memory, as PyTorch does on
    GPUs, pays once.

    Returns:
        whether it does; other C libraries have no such switch.
    """
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # glibc's malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(trim_threshold, 2**31 - 1)
        and mallopt(mmap_threshold, 2**30)
        and mallopt(mmap_max, 0)
    )


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _gpu_seconds(function: Callable[[], Any]) -> float:
    """Between two events on the GPU, which waits for nothing else."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def captured(function: Callable[[], Any]) -> Callable[[], None]:
    """The same work as a CUDA graph: the GPU is asked for it once, not for each operation.

    Its time is what the GPU itself needs, as in a program that always keeps it busy.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # what a first call does only once must not be in the graph
        for _ in range(WARM_UP_ROUNDS):
            function()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


# ---------------------------------------------------------------------------- memory


def peak_bytes(function: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """The most that PyTorch has allocated at one time for a call, its result included.

    On a GPU its allocator says so, what cuDNN and cuBLAS ask it for included. On the CPU each
    allocation and release is in PyTorch's own profile, so views and operations in place add
    nothing, and what an operation needs inside itself does. What MKL's products keep for
    themselves isn't PyTorch's, and isn't counted.
    """
    function()  # what a first call leaves behind for later ones isn't counted
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True) as profiler:
        result = function()
    del result  # it had to live until here
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def saved_bytes(function: Callable[[], Any], known: Iterable[Tensor]) -> int:
    """What autograd keeps for the backward pass of ``function``, each storage once.

    Args:
        function: what is differentiated.
        known: tensors that are there anyway, such as the input and the parameters, not counted.
    """
    excluded = {_storage(tensor) for tensor in known}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in excluded:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result  # as long as it lived, so did its graph, and no storage's address was used again
    return sum(kept.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# ---------------------------------------------------------------------------- what is measured


@contextmanager
def precision(name: str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within it PyTorch computes in "float32", in "TF32", or under autocast to "float16", which is
    what detectron2's ``SOLVER.AMP`` takes on a GPU."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = name == "TF32"
    try:
        with torch.autocast(torch.device(device).type, torch.float16, name == "float16"):
            yield
    finally:
        for backend, allowed in zip(backends, before):
            backend.allow_tf32 = allowed


def randomized(module: nn.Module) -> nn.Module:
    """The module in inference mode, with weights that make what it adds about as large as its
    input, which the small weights at the start of a training don't."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else parameter.numel()
        nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)
    return module.eval()


def random_map(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """(batch, channels, *size) of Gaussian noise, always the same."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------- results


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """On what, with what and when this runs; ``load`` is that of other processes, about 0 if idle.

    Linux tells processor and load; elsewhere they stay unknown.
    """
    try:
        lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines()]
        cpu = {key.strip(): value.strip() for key, value in (line for line in lines if line[1:])}
    except OSError:
        cpu = {}
    flags = cpu.get("flags", "").split()
    found = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "cpu": cpu.get("model name", platform.processor()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "native_bfloat16": "avx512_bf16" in flags or "amx_bf16" in flags,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.device(device).type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def describe(machine: dict[str, Any]) -> str:
    """One line about what :func:`machine` found."""
    bfloat16 = "native" if machine["native_bfloat16"] else "emulated"
    gpu = f"{machine['gpu']}, CUDA {machine['cuda']} · " if "gpu" in machine else ""
    return (
        f"{machine['date']} · {gpu}"
        f"{machine['cpu']} ({machine['instructions']}, bfloat16 {bfloat16}), "
        f"{machine['threads']} thread(s), load at the start {machine['load']} · "
        f"torch {machine['torch']}, Python {machine['python']}"
    )


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table under its title."""
    cells = [{key: _cell(value) for key, value in row.items()} for row in rows]
    body = tabulate(
        cells, headers="keys", tablefmt="github", disable_numparse=True, stralign="right"
    )
    return f"## {title}\n\n{body}\n"


def _cell(value: Any) -> str:
    """Numbers to three digits, larger ones whole; a dash for what wasn't measured."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def write_results(name: str, results: dict[str, Any], tables: Sequence[str]) -> None:
    """Prints the tables, and writes them to ``results/name.md`` and all numbers to ``.json``."""
    text = "\n".join([f"# {name}\n", describe(results["machine"]) + "\n", *tables])
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
