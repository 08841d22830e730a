"""The table of preprocessors: what each is called, what it takes and whom it serves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from safelight.errors import RequestError
from safelight.preprocessors import edges, given, shuffle, tones
from safelight.preprocessors.filters import Pixels
from safelight.preprocessors.kinds import KINDS
from safelight.preprocessors.option import Option, Value
from safelight.printable import shown

Doubts = Callable[[Pixels], tuple[str, ...]]


@dataclass(frozen=True)
class Preprocessor:
    """What a caller needs to know of a preprocessor.

    serves: kinds of control (of `kinds.KINDS`) whose networks know its maps.
    scaled: whether the size at which it looks changes what it finds, so that it takes a resolution.
    hard: whether its maps have few values, so that none may arise between them by resizing.
    doubts: warnings about a picture that is given as a finished map.
    masked: whether it needs the mask of what is to be painted.
    empty: what to do if its map is black everywhere.
    """

    name: str
    label: str
    meaning: str
    run: Callable[..., Pixels]  # (pixels (H, W, 3) uint8, **options) -> the same shape
    serves: tuple[str, ...]
    options: tuple[Option, ...] = ()
    scaled: bool = False
    hard: bool = False
    doubts: Doubts | None = None
    masked: bool = False
    empty: str | None = None
    extra: str | None = None  # the extra of the package that it needs
    aliases: tuple[str, ...] = ()  # other programs' names for the same map

    def checked(self, options: Mapping[str, object]) -> dict[str, Value]:
        """All options, defaults where nothing is given. Raises RequestError by name and range."""
        known = {option.name: option for option in self.options}
        for name in options:
            if name not in known:
                raise RequestError(
                    f"the preprocessor {self.name} has no option {shown(name, 40)!r}; "
                    f"its options: {', '.join(known) or 'none'}"
                )
        return {
            name: option.checked(options.get(name, option.default), self.name)
            for name, option in known.items()
        }


_ALL = (
    Preprocessor(
        "none",
        "None",
        "the picture as it is: a finished map, or for a network that takes pictures",
        tones.unchanged,
        tuple(KINDS),
        aliases=("identity",),
    ),
    Preprocessor(
        "invert",
        "Invert (from white ground and black lines)",
        "a black drawing on white becomes white on black",
        tones.inverted,
        ("canny", "soft_edge", "lineart", "scribble", "mlsd", "depth"),
        aliases=("invert (from white bg & black line)",),
        empty="the picture was white everywhere",
    ),
    Preprocessor(
        "canny",
        "Canny",
        "thin edges by Canny's rule",
        edges.canny,
        ("canny",),
        (
            Option("low", "steepness down to which an edge goes on", 100, 1, 1000),
            Option("high", "steepness at which an edge begins", 200, 1, 1000),
        ),
        scaled=True,
        hard=True,
        empty="lower high and low, or give another picture",
        extra="control",
    ),
    Preprocessor(
        "soft_edge",
        "Soft edge",
        "soft ridges along what bounds things, at three scales",
        edges.soft_edge,
        ("soft_edge",),
        (
            Option("detail", "pixels of the finest scale; the others are 2 and 4 times it",
                   1.0, 0.3, 16.0),
            Option("gain", "how bright; 2 makes a step of half the range white", 2.0, 0.1, 20.0),
        ),
        scaled=True,
        empty="raise gain, or give another picture",
    ),
    Preprocessor(
        "lineart",
        "Lineart (standard)",
        "lines of a drawing against their surroundings",
        edges.lineart,
        ("lineart",),
        (
            Option("width", "pixels of the surroundings", 6.0, 0.5, 64.0),
            Option("lines", "whether the lines are darker or lighter", "dark",
                   choices=("dark", "light")),
        ),
        scaled=True,
        empty="the picture has no lines of that kind: try lines = light, or canny",
        aliases=("lineart_standard", "lineart_standard (from white bg & black line)"),
    ),
    Preprocessor(
        "scribble",
        "Scribble (XDoG)",
        "thick strokes by a difference of Gaussians",
        edges.scribble,
        ("scribble",),
        (
            Option("threshold", "how much darker a stroke is, doubled", 32, 1, 128),
            Option("width", "pixels of the surroundings", 5.0, 0.6, 64.0),
        ),
        scaled=True,
        hard=True,
        empty="lower threshold, or give a picture with darker strokes",
        aliases=("scribble_xdog",),
    ),
    Preprocessor(
        "threshold",
        "Threshold",
        "white where every channel is above a level",
        tones.thresholded,
        ("scribble", "lineart", "brightness"),
        (Option("level", "above which it is white", 127, 0, 254),),
        hard=True,
        empty="lower level",
    ),
    Preprocessor(
        "tile",
        "Tile (resample)",
        "the picture without its detail",
        tones.tile,
        ("tile",),
        (Option("factor", "by what its sides are divided; 1 changes nothing",
                1.0, 1.0, 64.0),),
        aliases=("tile_resample",),
    ),
    Preprocessor(
        "blur",
        "Blur (Gaussian)",
        "the picture seen through a Gaussian",
        tones.blurry,
        ("tile",),
        (Option("sigma", "pixels", 9.0, 0.01, 256.0),),
        scaled=True,
        aliases=("blur_gaussian",),
    ),
    Preprocessor(
        "colour",
        "Colour grid",
        "a grid of mean colours",
        tones.colour,
        ("colour",),
        (Option("cell", "pixels of a cell's side", 64, 1, 2048),),
        scaled=True,
        hard=True,
        aliases=("color", "t2ia_color_grid"),
    ),
    Preprocessor(
        "shuffle",
        "Shuffle",
        "colours and textures without layout",
        shuffle.shuffled,
        ("shuffle",),
        (
            Option("seed", "of the flow", 0, 0, 2**63 - 1),
            Option("patches", "waves of the flow along the shorter side", 2, 1, 64),
        ),
    ),
    Preprocessor(
        "inpaint",
        "Inpaint",
        "the picture with a hole where it is to be painted",
        tones.unchanged,
        ("inpaint",),
        (
            Option("hole", "what the network is told there: unknown (-1, ControlNet 1.1) or black",
                   "unknown", choices=("unknown", "black")),
        ),
        masked=True,
        aliases=("inpaint_only", "inpaint_global_harmonious"),
    ),
    Preprocessor(
        "depth",
        "Depth map (given)",
        "a depth map that is given as a picture",
        given.depth,
        ("depth",),
        (
            Option("nearest", "what is nearest in the map", "white", choices=("white", "black")),
        ),
        doubts=given.depth_doubts,
    ),
    Preprocessor(
        "normal",
        "Normal map (given)",
        "a map of normals that is given as a picture",
        tones.unchanged,
        ("normal",),
        doubts=given.normal_doubts,
    ),
    Preprocessor(
        "pose",
        "Pose (given)",
        "a drawn pose that is given as a picture",
        tones.unchanged,
        ("pose",),
        doubts=given.pose_doubts,
    ),
    Preprocessor(
        "segmentation",
        "Segmentation (given)",
        "a map of segments that is given as a picture",
        tones.unchanged,
        ("segmentation",),
        hard=True,
        doubts=given.segment_doubts,
    ),
)  # fmt: skip
PREPROCESSORS: Mapping[str, Preprocessor] = MappingProxyType({how.name: how for how in _ALL})
"""All preprocessors by name."""
