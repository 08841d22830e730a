"""`safelight serve`: the server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from safelight.server.settings import SafetyAction

NETWORK = "Who may ask"
DRAWING = "What it draws with"
KEEPING = "What it keeps"
SAFETY = "What it gives out"
LIMITS = "Limits"


def number(least: int, most: int, help: str) -> Any:
    """An option of what the server draws with: a number within these bounds."""
    return typer.Option(help=help, min=least, max=most, rich_help_panel=DRAWING)


def serve(
    host: Annotated[
        str,
        typer.Option(
            "--host",
            "--listen",
            help="Where to listen; 0.0.0.0: everywhere.",
            rich_help_panel=NETWORK,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            help="The port; 0 takes a free one.", min=0, max=65535, rich_help_panel=NETWORK
        ),
    ] = 7860,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            help="A key that clients must give, or NAME=KEY; repeatable [SAFELIGHT_API_KEY].",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="A file with such a key on each line.", rich_help_panel=NETWORK),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Listen beyond this machine without a key.", rich_help_panel=NETWORK
        ),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name by which it is reached; repeatable.", rich_help_panel=NETWORK
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A further page that may ask, such as https://a.example; repeatable.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="What it draws with unless told [embedded].",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of models and LoRAs, such as A1111's; repeatable.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda, cuda:1, xpu or mps [the best there is].", rich_help_panel=DRAWING
        ),
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="fp32, bf16 or fp16 [fp32 on the CPU, fp16 elsewhere].", rich_help_panel=DRAWING
        ),
    ] = "auto",
    engine: Annotated[
        str, typer.Option(help="What computes the model.", rich_help_panel=DRAWING)
    ] = "eager",
    offload: Annotated[
        str,
        typer.Option(
            help="Less memory: auto, none, parts or sequential, as of generate.",
            rich_help_panel=DRAWING,
        ),
    ] = "auto",
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Draw in several processes, on Ray.", rich_help_panel=DRAWING),
    ] = False,
    replicas: Annotated[
        int | None,
        number(1, 1000, "Processes with models of their own [2]."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="A cluster to join [one of this machine alone].", rich_help_panel=DRAWING
        ),
    ] = None,
    silence: Annotated[
        float,
        number(10, 86400, "Seconds without a sign of life after which a replica is replaced."),
    ] = 60.0,
    threads: Annotated[
        int | None,
        number(1, 1024, "Threads of the CPU, of each replica [torch's choice, shared out]."),
    ] = None,
    batch: Annotated[
        int,
        number(1, 64, "Pictures computed at once, of whoever asks."),
    ] = 4,
    model_memory: Annotated[
        float, typer.Option(help="GB of models kept in memory.", min=0.01, rich_help_panel=DRAWING)
    ] = 12.0,
    preview_every: Annotated[
        int,
        typer.Option(
            help="Steps between previews; 0: none.", min=0, max=1000, rich_help_panel=DRAWING
        ),
    ] = 2,
    safety_checker: Annotated[
        Path | None,
        typer.Option(
            help="A safety checker (CompVis' or LAION's) that looks at every picture.",
            rich_help_panel=SAFETY,
        ),
    ] = None,
    safety_clip: Annotated[
        Path | None,
        typer.Option(help="The CLIP that LAION's checker is a head for.", rich_help_panel=SAFETY),
    ] = None,
    safety_action: Annotated[
        str,
        typer.Option(
            help="What becomes of a picture that it flags: withhold or label.",
            rich_help_panel=SAFETY,
        ),
    ] = "withhold",
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of pictures, history and queue.", rich_help_panel=KEEPING
        ),
    ] = Path("out"),
    metadata: Annotated[
        bool, typer.Option(help="Pictures carry their recipe.", rich_help_panel=KEEPING)
    ] = True,
    log_prompts: Annotated[
        bool,
        typer.Option("--log-prompts", help="Write prompts into the log.", rich_help_panel=KEEPING),
    ] = False,
    grace: Annotated[
        float,
        typer.Option(
            help="Seconds that a running job may go on after SIGTERM.",
            min=0,
            max=86400,
            rich_help_panel=KEEPING,
        ),
    ] = 30.0,
    max_side: Annotated[
        int, typer.Option(help="Largest width and height.", min=8, max=8192, rich_help_panel=LIMITS)
    ] = 4096,
    max_pixels: Annotated[
        int, typer.Option(help="Largest width x height.", min=64, rich_help_panel=LIMITS)
    ] = 2048 * 2048,
    max_steps: Annotated[
        int, typer.Option(help="Most steps.", min=1, max=1000, rich_help_panel=LIMITS)
    ] = 200,
    max_count: Annotated[
        int,
        typer.Option(help="Most pictures of one job.", min=1, max=10_000, rich_help_panel=LIMITS),
    ] = 100,
    max_queue: Annotated[
        int, typer.Option(help="Most jobs that wait.", min=1, rich_help_panel=LIMITS)
    ] = 256,
    max_queue_each: Annotated[
        int, typer.Option(help="Most jobs of one owner.", min=1, rich_help_panel=LIMITS)
    ] = 64,
    max_seconds: Annotated[
        float,
        typer.Option(
            help="Longest time of a job, waiting included.", min=1, rich_help_panel=LIMITS
        ),
    ] = 6 * 3600.0,
) -> None:
    """Serve drawing over HTTP: the native API, A1111's and OpenAI's, and a page.

    It listens on this machine alone unless --listen says otherwise. Ctrl-C or SIGTERM end it: what
    runs is finished, what waits is drawn after the next start.
    """
    from safelight.cli.serving import check_extra, keys_of, served
    from safelight.errors import RequestError

    check_extra()
    from safelight.server.limits import Limits
    from safelight.server.settings import ServerSettings

    limits = Limits(
        side=max_side,
        pixels=max_pixels,
        steps=max_steps,
        count=max_count,
        queue=max_queue,
        owner_queue=max_queue_each,
        seconds=max_seconds,
    )
    if not 0 < model_memory < 1e6:
        raise RequestError(f"--model-memory must be above 0; got {model_memory}.")
    served(
        ServerSettings(
            host=host,
            port=port,
            keys=keys_of(api_key or (), api_key_file),
            insecure=insecure,
            hosts=tuple(allow_host or ()),
            origins=tuple(allow_origin or ()),
            out=out,
            folders=tuple(models or ()),
            model=model,
            device=device,
            dtype=dtype,
            engine=engine,
            offload=offload,
            ray=ray,
            replicas=replicas,
            ray_address=ray_address,
            silence=silence,
            threads=threads,
            batch=batch,
            model_bytes=round(model_memory * 1e9),
            preview_every=preview_every,
            grace=grace,
            limits=limits,
            safety_checker=safety_checker,
            safety_clip=safety_clip,
            safety_action=cast("SafetyAction", safety_action),
            log_prompts=log_prompts,
            save_metadata=metadata,
        )
    )
