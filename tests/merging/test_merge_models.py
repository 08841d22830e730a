"""Models of the published families merge from every layout, and of different ones never."""

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from on_disk import OnDisk
from safelight.errors import CheckpointError
from safelight.merging.merge import merge
from safelight.merging.plan import Taken, checked_plan
from safelight.merging.sources import Reader
from safelight.merging.weights import Weights

pytestmark = pytest.mark.slow

Families = Callable[..., OnDisk]
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


def merged(target: str, *models: Path | Taken, **settings: object) -> dict[str, Tensor]:
    """The tensors of a merge written as one file."""
    taken = [model if isinstance(model, Taken) else Taken(model) for model in models]
    named = {name: settings.pop(name) for name in ("method", "base", "density") if name in settings}
    merge(checked_plan(taken, **named), Path(target), "ldm", **settings)  # type: ignore[arg-type]
    return load_file(target)


@pytest.mark.parametrize(
    "name", ["tiny-sd", "sdxl-refiner", pytest.param("sd2-v", marks=pytest.mark.slow)]
)
def test_every_layout_of_a_model_merges_alike(families: Families, place: Path, name: str) -> None:
    a, b = families(name, 0), families(name, 50)
    before = [tiny.original_state(model.made) for model in (a, b)]
    third = Weights(weight=0.25)
    for number, other in enumerate((b.folder, b.single.with_suffix(".ckpt"))):
        result = merged(f"{number}.safetensors", a.single, Taken(other, third))
        assert result
        for key, tensor in result.items():
            wanted = torch.lerp(before[0][key], before[1][key], 0.25)
            assert torch.allclose(tensor, wanted, atol=1e-6), key


def test_a_folder_first_or_second_is_the_same_model(families: Families, place: Path) -> None:
    a, b = families("tiny-sd", 0), families("tiny-sd", 50)
    third = Weights(weight=0.25)
    one = merged("one.safetensors", a.single, Taken(b.single, third))
    two = merged("two.safetensors", a.folder, Taken(b.folder, third))
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize(
    ("first", "other", "said"),
    [
        ("sd2-base", "tiny-sd", ("in the manner of Stable Diffusion 1.x", "Stable Diffusion 2.x")),
        ("sdxl", "sd2-base", ("Stable Diffusion XL", "Stable Diffusion 2.x base")),
        ("sd2-base", "sd2-v", ("predicts v", "predicts eps")),
        ("sd15", "sd15-inpaint", ("9 input channels", "4 input channels")),
        ("sdxl", "sdxl-refiner", ("refiner", "Stable Diffusion XL (")),
    ],
)
def test_families_do_not_mix(
    families: Families, place: Path, first: str, other: str, said: tuple[str, ...]
) -> None:
    one, two = families(first).folder, families(other).folder
    with pytest.raises(CheckpointError) as error:
        merged("m.safetensors", one, two)
    message = str(error.value)
    assert all(text in message for text in (*said, str(one), str(two))), message
    assert list(place.iterdir()) == []


def test_an_inpainting_model_learns_what_another_learned(families: Families, place: Path) -> None:
    wide, tuned, base = families("sd15-inpaint"), families("sd15", 50), families("sd15")
    result = merged(
        "m.safetensors", wide.single, tuned.folder, method="difference", base=base.single
    )
    w, t, b = (load_file(model.single) for model in (wide, tuned, base))
    assert torch.allclose(result[CONV_IN][:, :4], w[CONV_IN][:, :4] + t[CONV_IN] - b[CONV_IN])
    assert torch.equal(result[CONV_IN][:, 4:], w[CONV_IN][:, 4:])
    name = CONV_IN.replace("0.0.weight", "0.0.bias")
    assert torch.allclose(result[name], w[name] + t[name] - b[name])


def test_the_averaged_weights_may_be_merged(families: Families, place: Path) -> None:
    a, b = families("tiny-sd"), families("tiny-sd", 50)
    state, unet = load_file(b.single), "model.diffusion_model."
    live = [name for name in state if name.startswith(unet)]
    averaged = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": name for name in live}
    other = load_file(a.single)
    save_file(state | {ema: 2 * other[name] for ema, name in averaged.items()}, "both.safetensors")
    with pytest.raises(CheckpointError, match="holds no EMA weights"):
        merged("m.safetensors", Path("both.safetensors"), b.single, ema=True)
    result = merged("m.safetensors", Path("both.safetensors"), Path("both.safetensors"), ema=True)
    assert not any(name.startswith("model_ema") for name in result)
    assert all(torch.equal(result[name], 2 * other[name]) for name in live)


def test_no_more_than_one_tensor_of_each_model_is_in_memory(
    families: Families, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0
    read = Reader.read

    def watched(self: Reader, name: str) -> Tensor:
        nonlocal most
        tensor = read(self, name)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    monkeypatch.setattr(Reader, "read", watched)
    models = [families("tiny-sd", seed).folder for seed in (0, 50)]
    for method in ("sum", "slerp"):
        merged(f"{method}.safetensors", *models, method=method)
        assert most == 2
    for method in ("difference", "ties", "dare-ties"):
        merged(f"{method}.safetensors", *models, method=method, base=models[0])
        assert most == 3


GROWTH = """
import resource, sys, torch
from pathlib import Path
from safelight.merging.merge import merge
from safelight.merging.plan import Taken, checked_plan

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

torch.set_num_threads(1)
small, large = ([Path(p) for p in arg.split(",")] for arg in sys.argv[2:])
for models, target in ((small, "warm"), (large, "m")):
    base = models[0] if sys.argv[1] != "sum" else None
    plan = checked_plan([Taken(m) for m in models], sys.argv[1], base=base)
    before = peak()
    merge(plan, Path(target + ".safetensors"), "ldm")
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sum", "ties"])
def test_memory_grows_by_a_few_tensors_and_not_by_the_models(
    families: Families, place: Path, method: str
) -> None:
    from cli_tiny import tiny_model
    from memory_models import many_layers
    from safelight.checkpoints.save import save

    for seed in (0, 1):
        save(tiny_model(seed), place / f"small{seed}", "diffusers")
        save(many_layers(seed), place / f"large{seed}", "diffusers")
    size = sum(f.stat().st_size for f in Path("large0").rglob("*.safetensors"))
    assert size > 240e6
    args = [",".join(f"{name}{seed}" for seed in (0, 1)) for name in ("small", "large")]
    ran = subprocess.run(
        [sys.executable, "-c", GROWTH, method, *args],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert int(ran.stdout) < 0.4 * size, f"{int(ran.stdout) / 1e6:.0f} of {size / 1e6:.0f} MB"
