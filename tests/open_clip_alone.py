"""OpenCLIP's model without its package, which imports all of torchvision for one norm."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

ALONE = "open_clip_modules_alone"


@contextmanager
def _norms() -> Iterator[None]:
    """Stand in for the one class of torchvision that the towers' module names but never uses."""
    names = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[names[-1]].FrozenBatchNorm2d = nn.BatchNorm2d  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def open_clip_model():
    """The module `open_clip.model`."""
    if ALONE not in sys.modules:
        found = importlib.util.find_spec("open_clip")
        assert found is not None and found.submodule_search_locations, "install open_clip_torch"
        package = types.ModuleType(ALONE)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[ALONE] = package
    with _norms():
        return importlib.import_module(f"{ALONE}.model")


def tiny_open_clip(*, quick_gelu: bool = False, custom: bool = False, seed: int = 0):
    """A CLIP of OpenCLIP's, every weight at random: two blocks each, heads 16 wide."""
    model = open_clip_model()
    seen = model.CLIPVisionCfg(layers=2, width=64, head_width=16, mlp_ratio=2.5, patch_size=8,
                               image_size=32)  # fmt: skip
    told = model.CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=4, layers=2)
    kind = model.CustomTextCLIP if custom else model.CLIP
    made = kind(24, seen, told, quick_gelu=quick_gelu)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            values = torch.randn(weight.shape, generator=rng)
            if name == "logit_scale":
                weight.fill_(3.0)
            elif weight.ndim > 1:
                weight.copy_(values * weight[0].numel() ** -0.5)
            else:
                weight.copy_(0.2 * values + (1.0 if name.endswith("weight") else 0.0))
    return made.eval()
