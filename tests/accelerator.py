"""A simulated accelerator: the device "sim", whose memory is the CPU's and whose rules are a GPU's.

Importing this module registers it with PyTorch for the whole process. Every operation is the CPU's,
on the same bytes. As on a GPU, tensors of two devices do not mix, the device draws its own random
numbers, and a copy to the CPU with `non_blocking=True` holds NaN until something waits.
`waits` lists what made the CPU wait. Speed, other rounding, full memory and streams are not
simulated, and neither are generators of the device, pinned memory and autocast.
"""

import ctypes
import os
import weakref
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register

waits: list[str] = []  # what made the CPU wait for the device, in order

ON_CPU, ON_SIM = 1, 12  # as DLPack numbers them
aten = torch.ops.aten
_late: list[tuple[weakref.ref, Tensor]] = []  # copies that have not arrived: target, values
_random = [torch.Generator().manual_seed(1).get_state()]  # the state of the device's generator
_used = [0]  # bytes that were ever taken on the device
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _seen_on(tensor: Tensor, place: int) -> Tensor:
    """Return a tensor of the same memory that says it is on another device."""
    with torch._C._AutoDispatchBelowAutograd():
        capsule = torch._C._to_dlpack(tensor.detach() if tensor.requires_grad else tensor)
    ctypes.c_int32.from_address(_address(capsule, b"dltensor") + 8).value = place
    return torch._C._from_dlpack(capsule)


def _to_cpu(value: object) -> object:
    """Return the memory of a tensor as the CPU sees it; anything else as it is."""
    return _seen_on(value, ON_CPU) if _on_sim(value) else value


def _to_sim(value: object) -> object:
    """Return the memory of a tensor as the device's; anything else as it is."""
    if not isinstance(value, Tensor) or _on_sim(value):
        return value
    _used[0] += value.nbytes
    return _seen_on(value, ON_SIM)


def _on_sim(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "sim"


def wait(what: str = "synchronize") -> None:
    """Wait for the device: note why, and let the late copies arrive."""
    waits.append(what)
    while _late:
        target, values = _late.pop()
        if (tensor := target()) is not None:
            tensor.copy_(values)


def _check_devices(op: object, arguments: list) -> None:
    """Refuse to mix; numbers without dimensions are let through, as on a GPU."""
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    strangers = [t for t in tensors if not _on_sim(t) and t.ndim]
    if strangers and len(strangers) < len(tensors):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"sim:0 and cpu! ({op})"
        )
    for value in arguments:
        if isinstance(value, torch.Generator):
            raise RuntimeError(f"Expected a 'sim' device type for generator but found 'cpu' ({op})")


WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


def _index_on_sim(op: object, args: tuple) -> tuple:
    """Move indices to the device, as PyTorch does; a copy and a mask make the CPU wait."""
    source, indices, *rest = args
    for index in indices:
        if index is not None and (not _on_sim(index) or index.dtype == torch.bool):
            wait(f"{op} by {'a mask' if _on_sim(index) else 'an index on the CPU'}")
    return (source, [_to_sim(index) for index in indices], *rest)


def _run(op: Callable, *args: object, **kwargs: object) -> object:
    """Run an operation of the CPU on the memory of the device."""
    name = op._schema.name.removeprefix("aten::")
    if name in INDEXING and _on_sim(args[0]):
        args = _index_on_sim(op, args)
    _check_devices(op, pytree.tree_leaves((args, kwargs)))
    if name in WAITING:
        wait(name)
    outs = {a.name: kwargs[a.name] for a in op._schema.arguments if a.is_out and a.name in kwargs}
    given, named = pytree.tree_map(_to_cpu, (args, kwargs))
    fresh = {k: torch.empty(0, dtype=out.dtype) for k, out in outs.items()}
    named |= fresh
    if "device" in named:
        named["device"] = torch.device("cpu")
    if torch.Tag.nondeterministic_seeded in op.tags:
        result = _draw(op, given, named)
    else:
        result = op(*given, **named)
    for k, out in outs.items():
        if out.shape == fresh[k].shape:  # it may be a view
            _to_cpu(out).copy_(fresh[k])
        else:
            out.set_(_to_sim(fresh[k]))
    return _returned(op, args, outs, result)


def _draw(op: Callable, given: tuple, named: dict) -> object:
    """Run an operation with the random numbers of the device."""
    before = torch.get_rng_state()
    torch.set_rng_state(_random[0])
    try:
        return op(*given, **named)
    finally:
        _random[0] = torch.get_rng_state()
        torch.set_rng_state(before)


def _returned(op: Callable, args: tuple, outs: dict, result: object) -> object:
    """Return what an operation gives: the very tensor that it wrote to, or new ones."""
    written = [
        args[i]
        for i, a in enumerate(op._schema.arguments)
        if i < len(args) and a.alias_info is not None and a.alias_info.is_write
    ]
    written += outs.values()
    changed_in_place = op._schema.returns and op._schema.returns[0].alias_info is not None
    if changed_in_place:
        return written[0] if len(op._schema.returns) == 1 else tuple(written)
    return pytree.tree_map(_to_sim, result)


def _empty(size: list, *, dtype: torch.dtype | None = None, **options: object) -> Tensor:
    layout = {"memory_format": options["memory_format"]} if options.get("memory_format") else {}
    return _to_sim(torch.empty(size, dtype=dtype, device="cpu", **layout))


def _empty_strided(
    size: list, stride: list, *, dtype: torch.dtype | None = None, **options: object
) -> Tensor:
    return _to_sim(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if not _on_sim(target):
        wait("copy to the CPU")
    elif not _on_sim(source) and not non_blocking:
        wait("copy to the device")
    _to_cpu(target).copy_(_to_cpu(source))
    return target


def _to_copy(source: Tensor, *, non_blocking: bool = False, **options: object) -> Tensor:
    """Copy from or to the device. If it does not wait, a copy to the CPU arrives late."""
    device = torch.device(options.pop("device", None) or source.device)
    options = {name: value for name, value in options.items() if value is not None}
    options.pop("pin_memory", None)
    copied = aten._to_copy.default(_to_cpu(source), **options)
    if device.type == "sim":
        if not _on_sim(source) and not non_blocking:
            wait("copy to the device")
        return _to_sim(copied)
    if not non_blocking:
        wait("copy to the CPU")
        return copied
    _late.append((weakref.ref(copied), copied.clone()))
    return copied.fill_(torch.nan if copied.is_floating_point() else 0)


def _resize(tensor: Tensor, size: list, **options: object) -> Tensor:
    return tensor.set_(torch.empty(size, dtype=tensor.dtype, device="sim"))


def _new_storage(kind: type, *args: object, device: object = None, **options: object) -> object:
    """Make a storage, as `copy.deepcopy` and `torch.load` do."""
    if device is not None and torch.device(device).type == "sim":
        return _empty([*args], dtype=torch.uint8).untyped_storage()
    return _storage_of_torch(kind, *args, device=device, **options)


def _as_on_cpu(op: Callable) -> Callable:
    """Return an operation that only looks at sizes and strides, and so is the CPU's."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return lambda *args, **kwargs: op.redispatch(keys, *args, **kwargs)


class Sim(type(torch)):
    """What `torch.sim` is."""

    _born = os.getpid()

    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    synchronize = staticmethod(lambda device=None: wait())
    get_device_name = staticmethod(lambda device=None: "Simulated accelerator")
    max_memory_allocated = staticmethod(lambda device=None: _used[0])
    get_rng_state = staticmethod(lambda device=None: _random[0].clone())
    device = staticmethod(nullcontext)  # there is but one
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])
    _is_in_bad_fork = staticmethod(lambda: os.getpid() != Sim._born)

    @staticmethod
    def set_rng_state(state: Tensor, device: object = None) -> None:
        """Set where the device's random numbers go on."""
        _random[0] = state.clone()

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Start the device's random numbers; from the same seed, they are not the CPU's."""
        _random[0] = torch.Generator().manual_seed(seed ^ 0x5DEECE66D).get_state()


_storage_of_torch = torch.UntypedStorage.__new__
torch.UntypedStorage.__new__ = staticmethod(_new_storage)
register("sim", backend_module=Sim("sim"))
torch.accelerator.synchronize = Sim.synchronize
_fallback = torch.library.Library("_", "IMPL")
_fallback.fallback(_run, "PrivateUse1")
_own = torch.library.Library("aten", "IMPL", "PrivateUse1")
for _op, _kernel in {
    "empty.memory_format": _empty,
    "empty_strided": _empty_strided,
    "_copy_from": _copy_from,
    "_copy_from_and_resize": lambda a, b: b.set_(_to_sim(_to_cpu(a).clone())),
    "_to_copy": _to_copy,
    "resize_": _resize,
    "_has_compatible_shallow_copy_type": lambda a, b: True,  # parameter.data = moved
}.items():
    _own.impl(_op, _kernel)
for _op in (
    aten.as_strided.default,
    aten.view.default,
    aten._reshape_alias.default,
    aten.unfold.default,
    aten.set_.source_Storage,
    aten.set_.source_Storage_storage_offset,
    aten.set_.source_Tensor,
):
    _own.impl(_op, _as_on_cpu(_op))
for _op in (aten.convolution.default, aten.convolution_backward.default):  # they ask for devices
    _own.impl(_op, (lambda op: lambda *args: _run(op, *args))(_op))
