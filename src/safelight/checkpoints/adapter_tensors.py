"""A change of one layer as the tensors that files hold, by the ending of their names.

kohya's endings, which are LyCORIS' too, say every kind but those that PEFT alone has. PEFT's say
LoRA, DoRA, LoHa, LoKr, IA3, OFT and BOFT; no strength stands beside them, so it is within them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from safelight.adapters.deltas import (
    Delta,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
    NormDifference,
)
from safelight.adapters.rescalings import Decomposed, Generalised, Scaled
from safelight.adapters.rotations import Butterfly, Orthogonal
from safelight.checkpoints.adapter_bias import WithBias
from safelight.checkpoints.keymap import Shape
from safelight.errors import RequestError

Named = Mapping[str, Tensor]


def kohya_tensors(delta: Delta, shape: Shape) -> dict[str, Tensor]:
    """The tensors of a change by kohya's endings; shape: of the layer's weight.

    Raises RequestError for kinds that have no such endings.
    """
    if isinstance(delta, WithBias):
        return {**kohya_tensors(delta.inner, shape), "diff_b": delta.bias}
    if isinstance(delta, Decomposed):
        size = (1, -1) if delta.over == "input" else (-1, 1)
        magnitude = delta.magnitude.reshape(*size, *[1] * (len(shape) - 2))
        return {**kohya_tensors(delta.inner, shape), "dora_scale": magnitude}
    match delta:
        case LowRank():
            up, down, mid = _layered(delta, shape)
            named = {"lora_up.weight": up, "lora_down.weight": down, "alpha": _number(delta.alpha)}
            return named if mid is None else {**named, "lora_mid.weight": mid}
        case Hadamard():
            return {**_prefixed(delta, "hada_"), "alpha": _number(delta.alpha)}
        case Kronecker():
            return _kronecker(delta)
        case NormDifference():
            return _present({"w_norm": delta.weight, "b_norm": delta.bias})
        case Difference():
            return _present({"diff": delta.weight, "diff_b": delta.bias})
        case Generalised():
            named = {f"{name}.weight": p for name, p in delta.named_parameters()}
            return {**named, "alpha": _number(delta.alpha)}
        case Scaled() if not delta.scales_bias:
            weight = delta.weight.flatten()
            if len(shape) == 4:
                weight = weight.reshape(1, -1, 1, 1)
            return {"weight": weight, "on_input": torch.tensor(int(delta.on == "input"))}
        case Orthogonal() if delta.side == "output" and delta.terms is None:
            return _rotation(delta)
        case Butterfly() if delta.side == "output" and delta.order == "lycoris":
            return _rotation(delta)
    raise RequestError(
        f"an {delta.kind} as PEFT defines it has no names in kohya's layout; save it as diffusers"
    )


def peft_tensors(delta: Delta, shape: Shape) -> dict[str, Tensor]:
    """The tensors of a change by PEFT's endings; shape: of the layer's weight.

    Raises RequestError for kinds that have no such endings.
    """
    if isinstance(delta, WithBias) and isinstance(delta.inner, LowRank):
        # PEFT has a strength of 1 then, so that of the bias is 1, too.
        return {**peft_tensors(delta.inner, shape), "lora_B.bias": delta.bias}
    if isinstance(delta, Decomposed) and delta.over == "output":
        magnitude = delta.magnitude.flatten()
        if len(shape) == 4:
            magnitude = magnitude.reshape(1, -1, 1, 1)
        return {**peft_tensors(delta.inner, shape), "lora_magnitude_vector": magnitude}
    match delta:
        case LowRank():
            up, down, mid = _layered(_without_core(delta, shape), shape)
            assert mid is None, "the core went into the other two"
            return {"lora_A.weight": down, "lora_B.weight": delta.scale * up.float()}
        case Hadamard():
            named = _prefixed(delta, "hada_")
            return {**named, "hada_w1_a": delta.scale * delta.w1_a.float()}
        case Kronecker():
            return _kronecker(delta, own_alpha=False)
        case Scaled() if delta.scales_bias or delta.on == "input":
            factors = 1 + delta.weight.float().flatten()
            if len(shape) == 2:
                size = (1, -1) if delta.on == "input" else (-1, 1)
                return {"ia3_l": factors.reshape(size)}
        case Orthogonal() if delta.side == "input" and not delta.constraint:
            skew = delta.blocks.float() - delta.blocks.float().mT
            rows, columns = torch.triu_indices(skew.shape[1], skew.shape[2], 1)
            sign = 1 if delta.terms is None else -1
            return {"oft_R.weight": sign * skew[:, rows, columns]}
        case Butterfly() if delta.order == "peft" and not delta.constraint:
            assert delta.rescale is not None, "PEFT's has one"
            return {"boft_R": 2 * delta.blocks.mT, "boft_s": delta.rescale.reshape(-1, 1)}
    raise RequestError(
        f"the kind {delta.kind or type(delta).__name__} has no names in Diffusers' and PEFT's "
        "layout; save it as kohya, or merge it"
    )


def _layered(delta: LowRank, shape: Shape) -> tuple[Tensor, Tensor, Tensor | None]:
    """up, down and mid with as many dimensions as the layer that they are for."""
    ones, kernel = (1,) * (len(shape) - 2), shape[2:]
    up = delta.up.reshape(*delta.up.shape[:2], *ones)
    if delta.mid is None:
        return up, delta.down.reshape(delta.rank, shape[1], *kernel), None
    mid = delta.mid.reshape(*delta.mid.shape[:2], *kernel)
    return up, delta.down.reshape(*delta.down.shape[:2], *ones), mid


def _without_core(delta: LowRank, shape: Shape) -> LowRank:
    """The same change without the core of a Tucker form, of the same rank."""
    if delta.mid is None:
        return delta
    mid, down = delta.mid.float(), delta.down.float().flatten(1)
    whole = torch.einsum("rs...,si->ri...", mid, down)
    return LowRank(
        delta.up.detach(), whole.reshape(len(whole), *shape[1:]).detach(), None, delta.scale
    )


def _kronecker(delta: Kronecker, *, own_alpha: bool = True) -> dict[str, Tensor]:
    named = _prefixed(delta, "lokr_")
    if own_alpha and delta.rank is not None:
        return {**named, "alpha": _number(delta.scale * delta.rank)}
    if delta.scale == 1:
        return named
    # Without a rank an alpha says nothing, so the strength goes into the first factor.
    first = "lokr_w1" if delta.w1 is not None else "lokr_w1_a"
    return {**named, first: delta.scale * named[first].float()}


def _rotation(delta: Orthogonal | Butterfly) -> dict[str, Tensor]:
    features = delta.blocks.shape[-3] * delta.blocks.shape[-2]
    named = {"oft_blocks": delta.blocks, "rescale": delta.rescale}
    return {**_present(named), "alpha": _number(delta.constraint / features)}


def _prefixed(delta: Delta, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: parameter for name, parameter in delta.named_parameters()}


def _present(named: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)
