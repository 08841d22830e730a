"""What clients send to txt2img and img2img, and the settings of a request that it comes to.

Names, defaults and the meaning of numbers are A1111's. Fields that it has and that mean nothing
here are told as warnings, if they were set to something; fields that nobody knows are left alone,
for clients send those of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safelight.diffusion.samplers import resolve_sampler_and_schedule
from safelight.errors import RequestError
from safelight.printable import shown
from safelight.server.a1111.controls import controls_of
from safelight.server.a1111.pasted import pasted
from safelight.server.refusals import NotAllowed, Unknown
from safelight.upscalers.pixels import RESAMPLERS

Values = Mapping[str, Any]
RESIZE = ("just", "crop", "fill", "latent")
FILL = ("fill", "original", "noise", "nothing")
NO_UPSCALER = frozenset({"", "none", "use same upscaler"})
SAME = frozenset({"", "none", "use same sampler", "use same scheduler", "use same checkpoint"})
# Fields of A1111's that do nothing here, and the value at which clients send them unasked
WITHOUT_MEANING: Mapping[str, tuple[object, ...]] = {
    "restore_faces": (None, False),
    "styles": (None, [], ""),
    "s_min_uncond": (None, 0, 0.0),
    "firstpass_image": (None, ""),
    "firstphase_width": (None, 0),
    "firstphase_height": (None, 0),
    "hr_checkpoint_name": (None, "", "Use same checkpoint"),
    "initial_noise_multiplier": (None, 0, 1, 1.0),
    "disable_extra_networks": (None, False),
    "distilled_cfg_scale": (None, 3.5),
}
KNOWN_SCRIPTS = ("controlnet",)
NAMED = 20  # options that one warning names


@dataclass(frozen=True)
class Drawing:
    """A request's settings; pictures in it are places in `pictures`, base64 as they came.

    send: whether pictures go into the answer. maps: controls whose maps go after the pictures.
    task: the client's name for the job.
    """

    settings: dict[str, object]
    pictures: dict[str, str] = field(default_factory=dict)
    send: bool = True
    maps: tuple[int, ...] = ()
    task: str = ""
    notes: tuple[str, ...] = ()


def text_to_image(given: Values) -> Drawing:
    """What txt2img asks for. Raises NotAllowed, Unknown or RequestError."""
    told = pasted(given, on_picture=False)
    given = told.given
    settings, notes = _common(given, told.settings)
    others = settings.pop("hires", {})
    assert isinstance(others, dict)
    if given.get("enable_hr"):
        settings["hires"] = others | _second_pass(given)
    return _with_scripts(given, settings, {}, [*notes, *told.notes])


def image_to_image(given: Values) -> Drawing:
    """What img2img asks for. Raises NotAllowed, Unknown or RequestError."""
    images = given.get("init_images")
    if not isinstance(images, list) or not images or not isinstance(images[0], str):
        raise Unknown("Init image not found")
    told = pasted(given, on_picture=True)
    given = told.given
    settings, notes = _common(given, told.settings)
    notes += told.notes
    if len(images) > 1:
        notes.append("init_images: only the first picture is drawn on.")
    source: dict[str, object] = {
        "picture": "source",
        "strength": _number(given, "denoising_strength", 0.75),
        "resize": _choice(given, "resize_mode", RESIZE, 0),
    }
    if source["resize"] == "latent":
        source.pop("upscaler", None)
    pictures = {"source": images[0]}
    settings["source"] = source
    if given.get("image_cfg_scale") is not None:
        settings["image_cfg_scale"] = given["image_cfg_scale"]
    if given.get("mask"):
        pictures["mask"] = str(given["mask"])
        settings["mask"] = _mask(given)
    return _with_scripts(given, settings, pictures, notes)


def _common(given: Values, told: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """The settings that both calls have, and notes. told: settings of less weight."""
    notes = [
        f"{name} does nothing here."
        for name, idle in WITHOUT_MEANING.items()
        if name in given and given[name] not in idle
    ]
    rounds, batch = _whole(given, "n_iter", 1), _whole(given, "batch_size", 1)
    settings: dict[str, object] = {
        "prompt": _text(given, "prompt"),
        "negative_prompt": _text(given, "negative_prompt"),
        "steps": _whole(given, "steps", 50),
        "cfg_scale": _number(given, "cfg_scale", 7.0),
        "width": _whole(given, "width", 512),
        "height": _whole(given, "height", 512),
        "count": rounds * batch,
    }
    seed, subseed = _whole(given, "seed", -1), _whole(given, "subseed", -1)
    if seed >= 0:
        settings["seed"] = seed
    strength = _number(given, "subseed_strength", 0.0)
    if strength > 0:
        settings["subseed_strength"] = strength
        if subseed >= 0:
            settings["subseed"] = subseed
    wide, high = (_whole(given, f"seed_resize_from_{side}", -1) for side in "wh")
    if wide > 0 and high > 0:
        settings["resize_from"] = [wide, high]
    if given.get("tiling"):
        settings["seamless"] = "both"
    settings = {**told, **settings, **_sampling(given, told)}
    refiner = given.get("refiner_checkpoint")
    if isinstance(refiner, str) and refiner.lower() not in SAME:
        switch = given.get("refiner_switch_at")
        settings["refiner"] = {
            "model": _file(refiner),
            **({} if switch is None else {"switch": switch}),
        }
    overrides, said = overridden(_object(given, "override_settings"))
    return settings | overrides, notes + said


def overridden(options: Values) -> tuple[dict[str, object], list[str]]:
    """The settings that A1111's options come to, and what of them does nothing here."""
    settings: dict[str, object] = {}
    idle: list[str] = []
    for name, value in options.items():
        match name:
            case "sd_model_checkpoint":
                settings["model"] = _file(str(value))
            case "sd_vae":
                if str(value).lower() not in ("automatic", "none", ""):
                    settings["vae"] = _file(str(value))
            case "CLIP_stop_at_last_layers":
                settings["clip_skip"] = value
            case "eta_noise_seed_delta":
                settings["ensd"] = value
            case "randn_source":
                settings["noise_source"] = "nv" if str(value).upper() == "NV" else "cpu"
            case _:
                idle.append(shown(name, 60))
    if not idle:
        return settings, []
    more = f" and {len(idle) - NAMED} more" if len(idle) > NAMED else ""
    return settings, [f"override_settings: {', '.join(idle[:NAMED])}{more} do nothing here."]


def _sampling(given: Values, told: Mapping[str, object]) -> dict[str, object]:
    """Sampler and schedule, and those options of A1111's that the sampler has.

    told: other settings, whose options stay where these are not given.
    """
    asked = given.get("sampler_name") or given.get("sampler_index") or "Euler"
    try:
        info, carried = resolve_sampler_and_schedule(str(asked))
    except RequestError:
        raise Unknown("Sampler not found") from None
    settings: dict[str, object] = {"sampler": info.label}
    schedule = str(given.get("scheduler") or "")
    if schedule.lower() not in (*SAME, "automatic"):
        settings["schedule"] = schedule
    elif carried is not None:
        settings["schedule"] = carried
    known = {option.name for option in info.parameters}
    options = {
        name: given[name]
        for name in ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise")
        if given.get(name) is not None and name in known
    }
    others = told.get("sampler_options")
    if isinstance(others, Mapping):
        options = {**others, **options}
    if options:
        settings["sampler_options"] = options
    return settings


def _second_pass(given: Values) -> dict[str, object]:
    hires: dict[str, object] = {
        "strength": _number(given, "denoising_strength", 0.75),
        "steps": _whole(given, "hr_second_pass_steps", 0),
    }
    wide, high = _whole(given, "hr_resize_x", 0), _whole(given, "hr_resize_y", 0)
    if wide or high:
        hires["size"] = [wide, high]
    else:
        hires["scale"] = _number(given, "hr_scale", 2.0)
    upscaler = given.get("hr_upscaler")
    if isinstance(upscaler, str) and upscaler.lower() not in NO_UPSCALER:
        hires["upscaler"] = upscaler
    for name, ours in (("hr_prompt", "prompt"), ("hr_negative_prompt", "negative_prompt")):
        if given.get(name):
            hires[ours] = str(given[name])
    for name, ours in (("hr_sampler_name", "sampler"), ("hr_scheduler", "schedule")):
        value = given.get(name)
        if isinstance(value, str) and value.lower() not in (*SAME, "automatic"):
            hires[ours] = value
    return hires


def _mask(given: Values) -> dict[str, object]:
    blur = given.get("mask_blur")
    if blur is None:
        blur = max(_whole(given, "mask_blur_x", 4), _whole(given, "mask_blur_y", 4))
    return {
        "picture": "mask",
        "blur": blur,
        "edge": "across",
        "content": _choice(given, "inpainting_fill", FILL, 0),
        "area": "masked" if given.get("inpaint_full_res", True) else "whole",
        "padding": _whole(given, "inpaint_full_res_padding", 0),
        "invert": bool(_whole(given, "inpainting_mask_invert", 0)),
        "match_colour": False,
    }


def _with_scripts(
    given: Values, settings: dict[str, object], pictures: dict[str, str], notes: list[str]
) -> Drawing:
    if given.get("script_name"):
        raise NotAllowed(f"Script '{str(given['script_name'])[:60]}' not found")
    maps: tuple[int, ...] = ()
    for name, script in _object(given, "alwayson_scripts").items():
        if name.lower() not in KNOWN_SCRIPTS:
            if _is_off(script):
                continue
            raise NotAllowed(f"always on script {name[:60]} not found")
        units = script.get("args") if isinstance(script, Mapping) else script
        found = controls_of(units or [], has_source="source" in pictures)
        if found.controls:
            settings["controls"] = found.controls
            pictures = pictures | found.pictures
            maps = found.maps
        notes = [*notes, *found.notes]
    return Drawing(
        settings,
        pictures,
        send=given.get("send_images") is not False,
        maps=maps,
        task=str(given.get("force_task_id") or "")[:200],
        notes=tuple(notes),
    )


def _is_off(script: object) -> bool:
    """Whether a script's first argument says that it is not to run, as clients send unasked."""
    args = script.get("args") if isinstance(script, Mapping) else script
    return not args or (isinstance(args, list) and args[0] in (False, None, {}))


def upscaler_of(name: object) -> str | None:
    """An upscaler by A1111's name; None for "None"."""
    text = str(name or "None")
    if text.lower() in NO_UPSCALER:
        return None
    return next((known for known in RESAMPLERS if known.lower() == text.lower()), text)


def _file(name: str) -> str:
    """A checkpoint's title without the hash in brackets."""
    return name.partition(" [")[0].strip()


def _text(given: Values, name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NotAllowed(f"{name} must be a text.")
    return value


def _object(given: Values, name: str) -> Values:
    value = given.get(name) or {}
    if not isinstance(value, Mapping):
        raise NotAllowed(f"{name} must be an object.")
    return value


def _number(given: Values, name: str, usual: float) -> float:
    value = given.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotAllowed(f"{name} must be a number.")
    return value


def _whole(given: Values, name: str, usual: int) -> int:
    value = _number(given, name, usual)
    if value != int(value):
        raise NotAllowed(f"{name} must be a whole number.")
    return int(value)


def _choice(given: Values, name: str, choices: tuple[str, ...], usual: int) -> str:
    value = _whole(given, name, usual)
    if not 0 <= value < len(choices):
        raise NotAllowed(f"{name} must be from 0 to {len(choices) - 1}.")
    return choices[value]
