"""Pictures to edit: a hilly landscape, a plain ground with a thing on it, blobs as masks."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]


def clouds(
    rng: np.random.Generator, width: int, height: int, steepness: float
) -> NDArray[np.float64]:
    """A random field with the spectrum 1 / frequency**steepness, mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = 1
    field = np.fft.fft2(rng.standard_normal((height, width))) / frequency**steepness
    field[0, 0] = 0
    made = np.fft.ifft2(field).real
    return made / made.std()


def landscape(width: int = 96, height: int = 80, seed: int = 0) -> Pixels:
    """A smooth sky above rough ground, with the horizon a little above the middle."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, height)[:, None]
    slope = clouds(rng, width, height, 2.0)
    sky = np.stack([90 + 90 * rows + 8 * slope, 140 + 70 * rows + 8 * slope, 225 + 0 * slope], -1)
    rough = clouds(rng, width, height, 1.0)
    ground = np.stack([80 + 22 * rough, 120 + 26 * rough, 45 + 12 * rough], -1)
    horizon = 0.45 + 0.03 * clouds(rng, width, 1, 1.2)[0]
    picture = np.where((rows > horizon)[..., None], ground, sky)
    return (picture + rng.normal(0, 1.5, picture.shape)).clip(0, 255).astype(np.uint8)


def thing(size: int = 64) -> Pixels:
    """A red disc with a dark rim on flat blue."""
    at = np.hypot(*(np.mgrid[:size, :size] - (size - 1) / 2))
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = (30, 100, 220)
    picture[at < size * 0.36] = (90, 20, 20)
    picture[at < size * 0.3] = (214, 38, 42)
    return picture


def blob(width: int, height: int, seed: int, share: float = 0.2) -> Mask:
    """A smooth random shape that covers a share of the picture."""
    rng = np.random.default_rng(seed)
    field = np.fft.fft2(rng.standard_normal((height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    made = np.fft.ifft2(field * np.exp(-((frequency * max(width, height) / 2.5) ** 2))).real
    return (made > np.quantile(made, 1 - share)).astype(np.float32)
