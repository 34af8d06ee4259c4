"""A simulated GPU: its tensors are on "cuda:0", compute on the CPU, and refuse what a GPU's refuse.

So a tensor that was left on the CPU, or has another type under autocast, is found on any machine.
There are forward passes only, as autograd's engine would ask the driver.
"""

import contextlib

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

GPU = torch.device("cuda", 0)
# A GPU's tensors take indices that are on the CPU.
INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}
MOVES = {torch.ops.aten.copy_, torch.ops.aten._to_copy}
# Under autocast a GPU's kernel makes float32 of float16 on the way; the CPU has no such kernel.
SOFTMAX = {torch.ops.aten._softmax.default, torch.ops.aten._log_softmax.default}


class OnGPU(torch.Tensor):
    """A tensor on "cuda:0"; ``values`` is what it holds, on the CPU."""

    @staticmethod
    def __new__(cls, values):
        # Autocast and the choice of kernels go by the keys, all else by what `compute` answers.
        return torch.Tensor._make_subclass(
            cls, values.detach(), dispatch_device=True, device_for_backend_keys=GPU
        )

    def __init__(self, values):
        self.values = values

    def numpy(self):
        raise TypeError("a tensor on a GPU has no NumPy array")

    def __repr__(self):
        return f"OnGPU({self.values})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def compute(function, args, kwargs):
    """A function's result, on the device where PyTorch has it."""
    if function is torch.ops.prim.device.default:
        return GPU
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, OnGPU)]
    packet = function.overloadpacket
    if there and packet not in MOVES:
        elsewhere = [each for each in tensors if not isinstance(each, OnGPU) and each.dim()]
        if packet in INDEXING and isinstance(args[0], OnGPU):
            elsewhere = [each for each in elsewhere if not any(each is index for index in args[1])]
        if elsewhere:
            shape = tuple(elsewhere[0].shape)
            raise RuntimeError(f"{function}: a tensor of shape {shape} is on the CPU")
    on_gpu = bool(there)  # whether the result is
    if packet is torch.ops.aten.copy_:
        on_gpu = isinstance(args[0], OnGPU)
    elif kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type == GPU.type
        kwargs = kwargs | {"device": torch.device("cpu")}
    args, kwargs = tree_map_only(OnGPU, lambda each: each.values, (args, kwargs))
    if function in SOFTMAX and args[2]:
        args = (args[0].float(), args[1], False)
    result = function(*args, **kwargs)
    if not on_gpu:
        return result
    itself = {id(each.values): each for each in there}  # what was changed in place

    def moved(each):
        if not isinstance(each, torch.Tensor):
            return each
        return itself[id(each)] if id(each) in itself else OnGPU(each)

    return tree_map(moved, result)


@contextlib.contextmanager
def simulated_gpu(monkeypatch, autocast=None):
    """While it is entered, "cuda:0" computes; ``autocast`` is a type, or None without."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)  # which looks for a driver
    with FakeTensorMode():  # from then on autograd takes a CUDA device for one without streams
        pass
    # A module's tensors become others as it moves, and aren't filled with others' values.
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    # torch.autocast("cuda") switches itself off where there is no GPU.
    torch.set_autocast_enabled("cuda", autocast is not None)
    torch.set_autocast_dtype("cuda", autocast or torch.float16)
    try:
        # Neither cuDNN nor a compiler of TorchScript's kernels is here.
        with (
            torch.backends.cudnn.flags(enabled=False),
            torch.jit.optimized_execution(False),
            _Mode(),
        ):
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()
        torch.__future__.set_swap_module_params_on_conversion(swap)
