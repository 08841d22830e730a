"""Networks that look at a large picture through overlapping windows, or at a part of it only.

A network wrapped so is still a network, so guidance, regions and samplers need not know of it.
What several windows say of a place is averaged; that is the same average for the estimates of the
clean latents, which are the same linear function of the network's output in every window.

Shapes: B pictures, C latent channels, h w latent height and width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Literal, NamedTuple, NoReturn

import torch
from torch import Tensor

from safelight.condition import Condition, Control, expand, stack
from safelight.diffusion.denoiser import Network
from safelight.errors import RequestError

Weighting = Literal["uniform", "gaussian"]

_VARIANCE = 0.01  # of the Gaussian, in squared sides of a window; Mixture of Diffusers' own


class Window(NamedTuple):
    """A part of the latents; it goes on at the other side if it reaches beyond the end."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Windows:
    """How a large picture is divided: windows of height x width latents that share `overlap`.

    They are spaced evenly, share at least `overlap`, and are fewer and smaller where the picture
    is no larger. weighting: "uniform" counts all that a window says alike (MultiDiffusion, Bar-Tal
    et al. 2023, arXiv:2302.08113), "gaussian" less towards its edges (Mixture of Diffusers,
    Jimenez 2023, arXiv:2302.02412). batch: windows of one network call. wrap_x, wrap_y: the
    picture continues at its other side, and windows go round.
    Raises RequestError for an overlap that leaves no step, or a batch below 1.
    """

    height: int = 64
    width: int = 64
    overlap: int = 16
    weighting: Weighting = "uniform"
    batch: int = 1
    wrap_x: bool = False
    wrap_y: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < min(self.height, self.width):
            raise RequestError(
                "windows must overlap by 0 or more and by less than their sides; got "
                f"{self.width} x {self.height} with overlap {self.overlap}. Try 64 x 64 with 16."
            )
        if self.batch < 1:
            raise RequestError(f"a call takes 1 window or more; got {self.batch}.")

    def over(self, height: int, width: int) -> list[Window]:
        """The windows over latents of this size, from the top left, row by row."""
        rows = _starts(height, self.height, self.overlap, self.wrap_y)
        columns = _starts(width, self.width, self.overlap, self.wrap_x)
        sides = (min(self.height, height), min(self.width, width))
        return [Window(top, left, *sides) for top, left in product(rows, columns)]

    def ends_meet(self, height: int, width: int) -> tuple[bool, bool]:
        """Whether the network itself must continue at the other side: along x, along y.

        That is where the picture wraps and one window covers it; elsewhere the windows do it.
        """
        return (self.wrap_x and width <= self.width, self.wrap_y and height <= self.height)


def _starts(length: int, size: int, overlap: int, wrap: bool) -> list[int]:
    if length <= size:
        return [0]
    if wrap:
        count = -(-length // (size - overlap))
        return [i * length // count for i in range(count)]
    count = -(-(length - overlap) // (size - overlap))
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


@dataclass(frozen=True)
class Tiled:
    """The network that asks another one window by window and averages what it says.

    Windows of a call are stacked along the batch; each is told the condition as it is there (see
    `within`), changed by `told` if that is given: SDXL may be told where a window was cropped.
    only: (h, w), 0 where nobody will look; windows that lie there altogether are left out, and
    such places are 0. If one window covers the picture the result is the network's own, bit for
    bit.
    """

    network: Network
    windows: Windows
    only: Tensor | None = None
    told: Callable[[Condition, Window], Condition] | None = None

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        height, width = x.shape[2:]
        windows = self.windows.over(height, width)
        condition = expand(condition, x.shape[0])
        if len(windows) == 1:
            return self.network(x, time, self._there(condition, windows[0]))
        total = torch.zeros_like(x, dtype=torch.float32)
        weights = torch.zeros(height, width, device=x.device)
        weight = window_weight(self.windows.weighting, *windows[0][2:]).to(x.device)
        for group in self._groups(windows, height, width):
            for window, said in self._said(group, x, time, condition):
                rows, columns = _places(window, height, width, x.device)
                total[:, :, rows, columns] += weight * said
                weights[rows, columns] += weight
        return torch.where(weights > 0, total / weights, 0.0).to(x.dtype)

    def with_attention(
        self, x: Tensor, time: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """Raises RequestError: no one window sees where all of the picture looks."""
        raise RequestError(
            "self-attention guidance needs one view of the whole picture, which tiled diffusion "
            "has not; use perturbed-attention guidance, or draw without tiles."
        )

    def with_deep(
        self, x: Tensor, time: Tensor, condition: Condition, *, blocks: int, kept: object
    ) -> NoReturn:
        """Raises RequestError: what is kept of a call would have to be told apart by window."""
        raise RequestError(
            "deep features are kept of a picture that is seen as a whole; draw without tiles, or "
            "leave reuse.every out."
        )

    def _said(
        self, windows: Sequence[Window], x: Tensor, time: Tensor, condition: Condition
    ) -> Iterator[tuple[Window, Tensor]]:
        """What the network says of each window, in float32; asked once for all."""
        size = (x.shape[2], x.shape[3])
        parts = [crop(x, window, *size) for window in windows]
        told = [self._there(within(condition, window, *size), window) for window in windows]
        times = time.expand(x.shape[0]).repeat(len(windows))
        said = self.network(torch.cat(parts), times, stack(told))
        return zip(windows, said.float().chunk(len(windows)), strict=True)

    def _there(self, condition: Condition, window: Window) -> Condition:
        return condition if self.told is None else self.told(condition, window)

    def _groups(self, windows: list[Window], height: int, width: int) -> Iterator[list[Window]]:
        """The windows in which somebody will look, as many together as share a call."""
        if self.only is not None:
            seen = self.only.reshape(1, 1, height, width)
            windows = [window for window in windows if crop(seen, window, height, width).any()]
        batch = self.windows.batch
        return (windows[i : i + batch] for i in range(0, len(windows), batch))


@dataclass(frozen=True)
class Part:
    """The network that sees a part of the picture as if it were all; elsewhere it says 0.

    For a prompt with an area of its own, drawn as a picture by itself (ComfyUI's "conditioning set
    area"); give its denoiser a mask that is 0 outside, in `regions`.
    """

    network: Network
    window: Window

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        size = (x.shape[2], x.shape[3])
        told = within(expand(condition, x.shape[0]), self.window, *size)
        said = torch.zeros_like(x)
        rows, columns = _places(self.window, *size, x.device)
        seen = self.network(crop(x, self.window, *size), time, told)
        said[:, :, rows, columns] = seen.to(x.dtype)
        return said


def within(condition: Condition, window: Window, height: int, width: int) -> Condition:
    """The condition as it is in a window of latents of height x width.

    Extra channels, pictures of controls and masks of image prompts are cropped; what has no place,
    such as the text, stays. Raises RequestError for a picture that does not lie on the latents.
    """
    return replace(
        condition,
        concat=None if condition.concat is None else crop(condition.concat, window, height, width),
        controls=tuple(_control_within(c, window, height, width) for c in condition.controls),
        image_prompts=tuple(
            p if p.mask is None else replace(p, mask=crop(p.mask, window, height, width))
            for p in condition.image_prompts
        ),
    )


def _control_within(control: Control, window: Window, height: int, width: int) -> Control:
    """What was computed of the picture beforehand is kept if it lies on the latents one to one."""
    on_latents = all(t.shape[2:] == (height, width) for t in control.seen)
    seen = tuple(crop(t, window, height, width) for t in control.seen) if on_latents else ()
    return replace(control, image=crop(control.image, window, height, width), seen=seen)


def crop(picture: Tensor, window: Window, height: int, width: int) -> Tensor:
    """A window of a picture (B, K, H, W) that lies on latents of height x width.

    H and W may be whole multiples of them, as pixels are. Raises RequestError if they are not.
    """
    zoom = picture.shape[2] // height
    if zoom < 1 or picture.shape[2:] != (zoom * height, zoom * width):
        raise RequestError(
            f"a picture of {picture.shape[3]} x {picture.shape[2]} does not lie on latents of "
            f"{width} x {height}; tiled diffusion needs control pictures and masks of the size "
            "that is drawn."
        )
    top, left, high, wide = (zoom * number for number in window)
    if top + high <= picture.shape[2] and left + wide <= picture.shape[3]:
        return picture[:, :, top : top + high, left : left + wide]
    larger = Window(top, left, high, wide)
    rows, columns = _places(larger, picture.shape[2], picture.shape[3], picture.device)
    return picture[:, :, rows, columns]


def window_weight(weighting: Weighting, height: int, width: int) -> Tensor:
    """How much a window counts at each of its places: (height, width), the largest is 1."""
    return (
        _bell(height)[:, None] * _bell(width) if weighting == "gaussian" else _flat(height, width)
    )


@cache
def _flat(height: int, width: int) -> Tensor:
    return torch.ones(height, width)


@cache
def _bell(length: int) -> Tensor:
    """exp(-d² / (2 · 0.01)) of the distance d from the middle, in sides of the window."""
    distance = (torch.arange(length) - (length - 1) / 2) / length
    return torch.exp(-distance.square() / (2 * _VARIANCE))


def _places(window: Window, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column numbers (window height, 1) and (window width), round the ends."""
    rows = torch.arange(window.top, window.top + window.height, device=device) % height
    columns = torch.arange(window.left, window.left + window.width, device=device) % width
    return rows[:, None], columns
