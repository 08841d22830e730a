"""Models whose weights stay in their files until they are needed, and go back there.

A part that is not in use takes no memory. Reading it again costs what loading did: about a second
for a gigabyte that the system still has cached.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from safelight.checkpoints.checkpoint import Checkpoint, checked
from safelight.checkpoints.filling import CPU, default_dtype, weights_of
from safelight.checkpoints.keymap import Link
from safelight.checkpoints.load import Pathlike, assembled, open_checkpoint, with_other_vae
from safelight.checkpoints.parts import Part
from safelight.checkpoints.vae_file import open_vae
from safelight.model import Model, Sink


class Form(NamedTuple):
    """What weights become when they are read.

    dtype: as `load` says. sink: is given those that it wants; settle: what is done to a layer of
    which it took one.
    """

    dtype: torch.dtype | None = None
    sink: Sink | None = None
    settle: Callable[[nn.Module], None] | None = None


class FileRest:
    """The weights of a module, which lie in a file while they are not in use.

    In memory they are what `load` would have read, bit for bit. Away, each parameter keeps shape,
    type and device but holds NaN, so that a use of weights that were not brought is found out. A
    weight that somebody changed in place stays where it is.
    """

    def __init__(
        self,
        module: nn.Module,
        part: Part,
        links: Sequence[Link],
        parameters: Mapping[str, nn.Parameter],
        form: "Form",
        *,
        root: nn.Module | None = None,
    ) -> None:
        """parameters: of the part's module, by the names that the links give them. root: that
        module, if this is one inside it."""
        self.module = module
        self.present = False
        self._root = module if root is None else root
        self._part, self._links, self._parameters = part, tuple(links), dict(parameters)
        self._form = form
        self._versions: dict[str, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in memory."""
        return sum(p.numel() * p.element_size() for p in self._parameters.values())

    def bring(self) -> None:
        """Read the weights. Raises FileError if the file is not what it was when it was opened."""
        if self.present:
            return
        self.present = True
        for link in self._links:
            if not self._taken(link):
                self._read(link)

    def let_go(self) -> None:
        """Give the weights' memory back."""
        if not self.present:
            return
        self.present = False
        for name, parameter in list(self._parameters.items()):
            if name not in self._versions:  # a sink took it, and put something in its place
                _put(self._root, name, parameter)
            elif parameter._version != self._versions[name]:
                del self._parameters[name]  # no longer what the file has
            else:
                parameter.data = away(parameter.shape, self._type(name, parameter))
        self._versions.clear()
        self._part.tensors.file.unmap()

    def split(self, inner: Iterable[tuple[str, nn.Module]]) -> list["FileRest"]:
        """Rests of inner modules, by their paths, and last of what is in none of them."""
        assert not self.present, "split a rest before it is brought"
        rests, links = [], list(self._links)
        for path, module in inner:
            prefix = f"{path}."
            own = [link for link in links if all(n.startswith(prefix) for n in link.ours)]
            links = [link for link in links if link not in own]
            rests.append(self._of(module, own))
        return [*rests, self._of(self.module, links)]

    def _of(self, module: nn.Module, links: Sequence[Link]) -> "FileRest":
        names = {name for link in links for name in link.ours}
        parameters = {n: p for n, p in self._parameters.items() if n in names}
        return FileRest(module, self._part, links, parameters, self._form, root=self._root)

    def _taken(self, link: Link) -> bool:
        """Whether the sink took these weights."""
        sink, names = self._form.sink, [n for n in link.ours if n in self._parameters]
        if sink is None or not all(sink.wants(self._part.role, self._root, n) for n in names):
            return False
        for name, tensor in weights_of(self._part, link, torch.float32, CPU, passing=True):
            if name in self._parameters:
                kept = self._parameters[name]
                _put(self._root, name, nn.Parameter(kept.data.to("meta"), requires_grad=False))
                sink.take(self._root, name, tensor)
                if self._form.settle is not None:
                    self._form.settle(self._root.get_submodule(name.rpartition(".")[0]))
        return True

    def _read(self, link: Link) -> None:
        for name, tensor in weights_of(self._part, link, self._form.dtype, CPU):
            if name in self._parameters:
                self._parameters[name].data = tensor
                self._versions[name] = self._parameters[name]._version

    def _type(self, name: str, parameter: nn.Parameter) -> torch.dtype:
        """The type as read: a part that made NaN may have been raised to another meanwhile."""
        if self._form.dtype is not None:
            return self._form.dtype
        for link in self._links:
            if name in link.ours:
                return default_dtype(self._part.tensors.info(link.theirs).dtype, CPU)
        return parameter.dtype


def away(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor of NaN of this shape and type on the CPU, without memory for its numbers."""
    return torch.full((), torch.nan, dtype=dtype).expand(shape)


def load_resting(
    path: Pathlike,
    *,
    dtype: torch.dtype | None = None,
    vae: Pathlike | None = None,
    prediction: str | None = None,
    zero_terminal_snr: bool | None = None,
    ema: bool = False,
    variant: str | None = None,
    sink: Sink | None = None,
    settle: Callable[[nn.Module], None] | None = None,
) -> tuple[Model, tuple[FileRest, ...]]:
    """The model that `load` gives on the CPU, with none of its weights read, and their rests.

    settle: done to a layer whenever the sink took its weight. The files stay open for as long as
    the model's U-Net lives. Settings and errors as `load`.
    """
    with ExitStack() as stack:
        checkpoint = stack.enter_context(
            open_checkpoint(
                path,
                prediction=prediction,
                zero_terminal_snr=zero_terminal_snr,
                ema=ema,
                variant=variant,
                own_vae=vae is None,
            )
        )
        if vae is not None:
            found = open_vae(Path(vae))
            stack.enter_context(found.file)
            checkpoint = with_other_vae(checkpoint, found, Path(vae))
        model, rests = _resting(checkpoint, Form(dtype, sink, settle))
        weakref.finalize(model.network.unet, stack.pop_all().close)
        return model, rests


def _resting(checkpoint: Checkpoint, form: Form) -> tuple[Model, tuple[FileRest, ...]]:
    reports = checked(checkpoint)
    rests = {part.role: _rest_of(part, form) for part in checkpoint.parts}
    modules = {role: rest.module for role, rest in rests.items()}
    return assembled(checkpoint, reports, modules), tuple(rests.values())


def _rest_of(part: Part, form: Form) -> FileRest:
    module, links = part.module(), part.links()
    parameters = {}
    for link in links:
        wanted = form.dtype or default_dtype(part.tensors.info(link.theirs).dtype, CPU)
        for name in link.ours:
            weight = away(module.get_parameter(name).shape, wanted)
            parameters[name] = nn.Parameter(weight, requires_grad=False)
            _put(module, name, parameters[name])
    return FileRest(module.eval().requires_grad_(False), part, links, parameters, form)


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, parameter)
