"""From any config to its job."""

from safelight.training.config.configs import (
    AutoencoderRun,
    ClipRun,
    Config,
    ControlRun,
    DiffusionRun,
    InversionRun,
    LcmRun,
    LoraRun,
    TinyDecoderRun,
)
from safelight.training.recipes.job import Job, Workshop


def job_of(config: Config, workshop: Workshop) -> Job:
    """The job of a config. Raises what its recipe raises."""
    if isinstance(config, AutoencoderRun):
        from safelight.training.recipes.autoencoder import autoencoder_job

        return autoencoder_job(config, workshop)
    if isinstance(config, TinyDecoderRun):
        from safelight.training.recipes.tiny_decoder import tiny_decoder_job

        return tiny_decoder_job(config, workshop)
    if isinstance(config, ClipRun):
        from safelight.training.recipes.clip import clip_job

        return clip_job(config, workshop)
    if isinstance(config, DiffusionRun):
        from safelight.training.recipes.diffusion import diffusion_job

        return diffusion_job(config, workshop)
    if isinstance(config, InversionRun):
        from safelight.training.recipes.inversion import inversion_job

        return inversion_job(config, workshop)
    if isinstance(config, LoraRun):
        from safelight.training.recipes.lora import lora_job

        return lora_job(config, workshop)
    if isinstance(config, LcmRun):
        from safelight.training.recipes.lcm import lcm_job

        return lcm_job(config, workshop)
    if isinstance(config, ControlRun):
        from safelight.training.recipes.controlnet import controlnet_job

        return controlnet_job(config, workshop)
    from safelight.training.recipes.evaluator import evaluator_job

    return evaluator_job(config, workshop)
