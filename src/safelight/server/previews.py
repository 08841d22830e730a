"""What a half-drawn picture looks like, for next to nothing: latents to colours by one matrix.

Where there is a tiny decoder for the same latents, it shows them at full size.

Shapes: C latent channels, h w latent height and width, H W pixels, N samples.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.engines.sentinel import watch
from safelight.model import Placement
from safelight.models.autoencoder import Codec
from safelight.models.taesd import TinyAutoencoder
from safelight.tasks.picture import to_uint8

SIDE = 128  # of the pictures that the matrix is fitted to
LARGEST = 512  # of a preview
DECODED = 256 * 256  # pixels up to which a tiny decoder is asked: it must cost less than a step
QUALITY = 80
RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class Preview:
    """An affine map from latents to colours in [-1, 1]: colours = matrix · (latents, 1).

    tiny: a decoder of the same latents that shows more, at a small price; None if there is none.
    """

    matrix: Tensor  # (3, C + 1) float32 on the CPU
    factor: int  # pixels in a latent's width
    tiny: Codec | None = None

    def pixels(self, latents: Tensor) -> NDArray[np.uint8]:
        """The look of one picture's latents (C, h, w): (h, w, 3)."""
        x = latents.detach().float().cpu()
        flat = self.matrix[:, :-1] @ x.flatten(1) + self.matrix[:, -1:]  # (3, h w)
        colours = flat.view(3, *x.shape[1:]).nan_to_num().clamp(-1, 1)
        return ((colours + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()

    @torch.no_grad()
    def picture(self, latents: Tensor) -> NDArray[np.uint8]:
        """One picture's latents as the tiny decoder shows them, (H, W, 3); or as `pixels`."""
        area = latents.shape[1] * latents.shape[2] * self.factor**2
        if self.tiny is None or area > DECODED:
            return self.pixels(latents)
        x = latents.detach()[None].to(next(self.tiny.autoencoder.parameters()).device)
        found: NDArray[np.uint8] = to_uint8(self.tiny.decode(x).nan_to_num())[0]
        return found

    def jpeg(self, latents: Tensor, *, quick: bool = False) -> bytes:
        """That as a small JPEG of up to `LARGEST` pixels a side, smoothed. quick: by the matrix."""
        pixels = self.pixels(latents) if quick else self.picture(latents)
        image = Image.fromarray(pixels, "RGB")
        width, height = (side * self.factor for side in (latents.shape[2], latents.shape[1]))
        shrink = min(1.0, LARGEST / max(width, height))
        size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
        buffer = BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()


@torch.no_grad()
def fitted(
    codec: Codec, placement: Placement | None = None, *, tiny: Codec | None = None
) -> Preview:
    """The map that fits a codec best on made-up pictures, by least squares.

    One encoding of four pictures: colours of soft shapes, and plain fields, some on white. A
    decoder alone is asked what latents at random look like.
    placement: what brings the codec's weights, where parts come and go. tiny: see `Preview`; a
    codec that is tiny itself is its own.
    """
    coder: object = codec.autoencoder
    assert isinstance(coder, nn.Module)
    device = next(coder.parameters()).device
    small = coder if isinstance(coder, TinyAutoencoder) else None
    side = max(SIDE // codec.factor, 1)
    with watch(placement) as sentinel:
        if small is not None and not small.config.encodes:
            found = _random(4, codec.channels, side).to(device)
            images = sentinel.run("VAE decoder", coder, lambda: codec.decode(found))
        else:
            images = samples(side * codec.factor).to(device)  # (N, 3, H, W)
            found = sentinel.run("VAE encoder", coder, lambda: _encoded(codec, images))
    latents = found.float().cpu()
    colours = F.adaptive_avg_pool2d(images.float().cpu(), (latents.shape[2], latents.shape[3]))
    channels = latents.shape[1]
    x = latents.permute(0, 2, 3, 1).reshape(-1, channels).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)  # (N h w, C + 1)
    y = colours.permute(0, 2, 3, 1).reshape(-1, 3).double()
    # a little ridge: latents of odd codecs may hold channels that say nothing of colour
    scale = x.square().mean().clamp_min(1e-12) * len(x)
    gram = x.T @ x + RIDGE * scale * torch.eye(channels + 1, dtype=x.dtype)
    matrix = torch.linalg.solve(gram, x.T @ y).T.float()
    return Preview(matrix, codec.factor, codec if small is not None and placement is None else tiny)


def _encoded(codec: Codec, images: Tensor) -> Tensor:
    """One after another: memory must do for pictures of any number."""
    return torch.cat([codec.encode(image[None]).mode() for image in images])


def _random(count: int, channels: int, side: int) -> Tensor:
    """Latents (count, channels, side, side) of unit size, the same for a few places around."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, channels, -(-side // 4), -(-side // 4), generator=generator)
    return F.interpolate(coarse, (side, side), mode="nearest")


def samples(side: int) -> Tensor:
    """Four pictures (4, 3, side, side) in [-1, 1] with colours of all kinds; always the same."""
    generator = torch.Generator().manual_seed(0)

    def fields(cells: int, mode: str) -> Tensor:
        small = torch.rand(1, 3, cells, cells, generator=generator)
        corners = None if mode == "nearest" else False
        return F.interpolate(small, (side, side), mode=mode, align_corners=corners)

    soft, rough = fields(4, "bilinear"), fields(16, "bilinear")
    plain = fields(8, "nearest")
    shape = F.interpolate(
        (torch.rand(1, 1, 6, 6, generator=generator) > 0.5).float(), (side, side), mode="nearest"
    )
    on_white = shape * fields(6, "nearest") + (1 - shape)
    return torch.cat([soft, rough, plain, on_white]).clamp(0, 1) * 2 - 1
