"""What A1111's clients list: samplers, models, upscalers and the like, in its names and types."""

from collections.abc import Mapping

from safelight.diffusion.samplers import SAMPLERS
from safelight.diffusion.schedules import SCHEDULES
from safelight.preprocessors.kinds import KINDS
from safelight.preprocessors.table import PREPROCESSORS
from safelight.server.registry import Listed
from safelight.server.service import Service
from safelight.tasks.large import LATENT_UPSCALERS
from safelight.upscalers.pixels import RESAMPLERS

Item = dict[str, object]
HASH = 10  # digits of a short hash


def title_of(item: Listed) -> str:
    """A model's title: its name, and the beginning of its hash if that is known."""
    return f"{item.name} [{item.sha256[:HASH]}]" if item.sha256 else item.name


def samplers() -> list[Item]:
    return [
        {"name": info.label, "aliases": [info.name, *info.aliases], "options": {}}
        for info in SAMPLERS.values()
    ]


def schedulers() -> list[Item]:
    automatic: Item = {"name": "automatic", "label": "Automatic"}
    found: list[Item] = [{"name": one.name, "label": one.label} for one in SCHEDULES.values()]
    usual: Item = {"aliases": [], "default_rho": -1.0, "need_inner_model": False}
    return [{**one, **usual} for one in (automatic, *found)]


def upscalers(service: Service) -> list[Item]:
    """ "None" first: clients put the latent modes after it."""
    names = sorted(RESAMPLERS, key=lambda name: name != "None")
    found: list[Item] = [{"name": name, "model_path": None, "scale": 4} for name in names]
    found += [
        {"name": item.name, "model_path": None, "scale": 4}
        for item in service.registry.on("upscaler")
    ]
    return [{**one, "model_name": None, "model_url": None} for one in found]


def latent_modes() -> list[Item]:
    return [{"name": name} for name in LATENT_UPSCALERS]


def models(service: Service) -> list[Item]:
    return [
        {
            "title": title_of(item),
            "model_name": item.name,
            "hash": item.sha256[:HASH] if item.sha256 else None,
            "sha256": item.sha256,
            "filename": item.name,
            "config": None,
        }
        for item in service.registry.on("model")
    ]


def vaes(service: Service) -> list[Item]:
    return [{"model_name": i.name, "filename": i.name} for i in service.registry.on("vae")]


def loras(service: Service) -> list[Item]:
    return [
        {"name": i.stem, "alias": i.stem, "path": i.name, "metadata": {}}
        for i in service.registry.on("lora")
    ]


def embeddings(service: Service) -> Item:
    unknown = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
    found = {
        i.stem: {**unknown, "shape": 0, "vectors": 0} for i in service.registry.on("embedding")
    }
    return {"loaded": found, "skipped": {}}


def hypernetworks(service: Service) -> list[Item]:
    return [{"name": i.stem, "path": i.name} for i in service.registry.on("hypernetwork")]


def options(service: Service) -> Item:
    """Those of A1111's options that mean something here."""
    item = None if service.model is None else service.registry.find("model", service.model)
    return {
        "sd_model_checkpoint": title_of(item) if item is not None else None,
        "sd_checkpoint_hash": item.sha256 if item is not None else None,
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "eta_noise_seed_delta": 0,
        "randn_source": "CPU",
        "samples_format": "png",
        "show_progress_every_n_steps": service.settings.previews,
        "live_previews_enable": service.settings.previews > 0,
    }


def control_models(service: Service) -> list[str]:
    return [title_of(item) for item in service.registry.on("control")]


def control_modules() -> list[str]:
    return [how.name for how in PREPROCESSORS.values()]


def control_details() -> dict[str, Item]:
    return {
        how.name: {
            "model_free": False,
            "sliders": [
                {
                    "name": option.name,
                    "value": option.default,
                    "min": option.low,
                    "max": option.high,
                }
                for option in how.options
                if isinstance(option.default, int | float) and not isinstance(option.default, bool)
            ],
        }
        for how in PREPROCESSORS.values()
    }


def control_types(service: Service) -> Mapping[str, Item]:
    """Kinds of control with the preprocessors that serve them, and every network."""
    names = control_models(service)
    found: dict[str, Item] = {"All": _type(control_modules(), names)}
    for kind in KINDS:
        modules = [how.name for how in PREPROCESSORS.values() if kind in how.serves]
        found[kind.replace("_", " ").title()] = _type(modules, names)
    return found


def _type(modules: list[str], names: list[str]) -> Item:
    return {
        "module_list": modules,
        "model_list": ["None", *names],
        "default_option": modules[0] if modules else "none",
        "default_model": names[0] if names else "None",
    }
