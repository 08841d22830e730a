"""How a server is set up: where it listens, who may ask, what it draws with, what it keeps."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from safelight.errors import RequestError
from safelight.printable import shown
from safelight.server.limits import Limits

PORT = 7860  # where clients of A1111 look
SafetyAction = Literal["withhold", "label"]
SILENCE = 60.0  # seconds; a replica says every two that it is there
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the name of its holder, which stands in jobs and logs in its place."""

    name: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class ServerSettings:
    """All that `safelight serve` is told.

    host, port: where it listens; port 0 takes a free one. Beyond this machine it needs keys, or
        `insecure`.
    keys: who may ask; none: everybody who reaches it.
    hosts: further names under which it is reached (the Host header). origins: further pages that
        may ask, such as "https://pictures.example".
    out: pictures, history, uploads and the queue: one folder, made if it is missing.
    folders: where models lie, besides the known places. model: a name or file that is drawn with
        unless a request names another; None: the embedded one.
    device, dtype, engine, offload: as in a request; requests may not choose others.
    ray: whether replicas draw, each a process with models of its own. replicas: how many; None: 2.
        ray_address: of a cluster that is joined; None: one of this machine alone. silence: seconds
        without a sign of life after which one is killed, and another begun in its place.
    threads: of torch, in each replica if there are any; None: as torch decides, shared out.
    batch: pictures computed at once, of compatible requests of anybody.
    model_bytes: of models kept in memory. preview_every: steps between previews; 0: none.
    patience: seconds that a request for a model that is not loaded gives way to others.
    grace: seconds that a running job may go on after SIGTERM.
    hold_seconds: how long a job of hold "connection" lives without a connection.
    safety_checker: folder or file of the weights of one that looks at every finished picture; None:
        none does. safety_clip: the CLIP of one that is a head alone (LAION's).
    safety_action: what becomes of a picture that it flags. "withhold": it is neither kept nor given
        out, and no previews are, either; "label": its warnings say so.
    log_prompts: whether logs may hold prompts. save_metadata: whether files carry their recipe.
    docs: whether /docs shows the OpenAPI document. page: whether the page is served.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    keys: tuple[Key, ...] = ()
    insecure: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    out: Path = Path("out")
    folders: tuple[Path, ...] = ()
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    engine: str = "eager"
    offload: str = "auto"
    ray: bool = False
    replicas: int | None = None
    ray_address: str | None = None
    silence: float = SILENCE
    threads: int | None = None
    batch: int = 4
    model_bytes: int = 12 * 2**30
    preview_every: int = 2
    patience: float = 20.0
    grace: float = 30.0
    hold_seconds: float = 10.0
    limits: Limits = field(default_factory=Limits)
    safety_checker: Path | None = None
    safety_clip: Path | None = None
    safety_action: SafetyAction = "withhold"
    log_prompts: bool = False
    save_metadata: bool = True
    page: bool = True

    def __post_init__(self) -> None:
        """Raises RequestError for settings that cannot be, or would be unsafe unsaid."""
        if not self.is_local and not self.keys and not self.insecure:
            raise RequestError(
                f"--listen {self.host} lets others in: give --api-key, or --insecure if everybody "
                "who reaches this port may draw."
            )
        if any(len(key.secret) < 8 for key in self.keys):
            raise RequestError("an API key must have at least 8 characters.")
        if len({key.name for key in self.keys}) < len(self.keys):
            raise RequestError("two API keys have the same name.")
        if not 10 <= self.silence <= 86400:
            raise RequestError(f"silence must be from 10 to 86400 seconds; got {self.silence}.")
        rays = (self.replicas, self.ray_address, self.silence)
        if not self.ray and rays != (None, None, SILENCE):
            raise RequestError("--replicas, --ray-address and --silence are for Ray; add --ray.")
        if self.replicas is not None and not 1 <= self.replicas <= 1000:
            raise RequestError(f"replicas must be from 1 to 1000; got {self.replicas}.")
        for name, low in (("batch", 1), ("model_bytes", 1), ("preview_every", 0), ("port", 0)):
            if getattr(self, name) < low:
                raise RequestError(f"{name} must be at least {low}; got {getattr(self, name)}.")
        for name in ("grace", "patience", "hold_seconds"):
            if not 0 <= getattr(self, name) <= 86400:
                raise RequestError(f"{name} must be from 0 to 86400; got {getattr(self, name)}.")

        if self.safety_action not in get_args(SafetyAction):
            raise RequestError(
                f"safety_action must be one of {', '.join(get_args(SafetyAction))}; got "
                f"{shown(self.safety_action)}."
            )

        if self.safety_clip is not None and self.safety_checker is None:
            raise RequestError("--safety-clip belongs to a --safety-checker; give that, too.")

    @property
    def previews(self) -> int:
        """Steps between previews that are given out; 0: none are.

        A checker judges finished pictures, so what it might withhold must not be seen before.
        """
        withholds = self.safety_checker is not None and self.safety_action == "withhold"
        return 0 if withholds else self.preview_every

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
