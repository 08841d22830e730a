"""The step of Diffusers' `examples/text_to_image/train_text_to_image.py`, to be timed.

With `LoraTrainer`, that of `train_text_to_image_lora.py`: the U-Net is frozen and in the type of
mixed precision, PEFT adds rank-r changes to queries, keys, values and outputs, and only these are
optimised and clipped.

The same libraries do the same work in the same order, with the example's defaults: Accelerate's
preparation and mixed precision, a DataLoader in the main process, the autoencoder and the text
encoder in every step, `UNet2DConditionModel`, mean squared error, clipping at 1, AdamW as the
example builds it, and `EMAModel` if asked for. Two reads of the loss a step are the example's, too.
Left out, in its favour: the progress bar and the trackers. Read from Diffusers at commit 000280f;
written anew.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from peft import LoraConfig
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTokenizer

Row = Mapping[str, Tensor]
TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


@dataclass(frozen=True)
class PictureFiles(Dataset[Row]):
    """Pictures of a folder with their captions: decoded, resized and cropped when asked for."""

    files: tuple[Path, ...]
    captions: tuple[str, ...]
    tokenizer: CLIPTokenizer
    resolution: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Row:
        ids = self.tokenizer(
            [self.captions[index]],
            max_length=self.tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids[0]
        with Image.open(self.files[index]) as image:
            return {"pixel_values": self._framed(image.convert("RGB")), "input_ids": ids}

    def _framed(self, image: Image.Image) -> Tensor:
        """The shorter side to the resolution, a random crop, numbers in [-1, 1]."""
        scale = self.resolution / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left = int(torch.randint(width - self.resolution + 1, ()))
        top = int(torch.randint(height - self.resolution + 1, ()))
        box = (left, top, left + self.resolution, top + self.resolution)
        pixels = torch.from_numpy(np.array(image.crop(box))).permute(2, 0, 1).contiguous()
        return (pixels.float() / 255 - 0.5) / 0.5


@dataclass(frozen=True)
class Encoded(Dataset[Row]):
    """Latents and text states that are at hand, for the step without encoders."""

    latents: Tensor
    states: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> Row:
        return {"latents": self.latents[index], "states": self.states[index]}


class Trainer:
    """One run of the example; `steps` takes some and gives the last loss."""

    def __init__(
        self,
        folder: Path,
        data: Callable[[CLIPTokenizer], Dataset[Row]],
        *,
        batch: int,
        bf16: bool,
        ema: bool,
        device: torch.device,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            mixed_precision="bf16" if bf16 else "no",
            cpu=device.type == "cpu",
            dynamo_backend="inductor" if compile else "no",
        )
        self.batch = batch
        self.scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        text = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
        vae.requires_grad_(False)
        text.requires_grad_(False)
        unet.train()
        self.average = None
        if ema:
            self.average = EMAModel(
                UNet2DConditionModel.from_pretrained(folder, subfolder="unet").parameters(),
                model_cls=UNet2DConditionModel,
                model_config=unet.config,
            )
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8
        )
        # the example's collate function stacks; a partial batch at the end of an epoch would
        # be timed as a whole one, so the number of examples is a multiple of the batch
        loader = DataLoader(data(tokenizer), shuffle=True, batch_size=batch, num_workers=0)
        assert len(loader.dataset) % batch == 0  # type: ignore[arg-type]
        schedule = get_scheduler(
            "constant", optimizer=optimizer, num_warmup_steps=500, num_training_steps=100_000
        )
        self.unet, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            unet, optimizer, loader, schedule
        )
        if self.average is not None:
            self.average.to(self.accelerator.device)
        self.weight_dtype = torch.bfloat16 if bf16 else torch.float32
        self.text = text.to(self.accelerator.device, dtype=self.weight_dtype)
        self.vae = vae.to(self.accelerator.device, dtype=self.weight_dtype)
        self._batches = self._endless()

    def steps(self, count: int) -> float:
        """Take so many steps. Gives the mean loss; returns when the device is done."""
        losses = [self._step(next(self._batches)) for _ in range(count)]
        return float(np.mean(losses))

    def _endless(self) -> Iterator[Row]:
        while True:
            yield from self.loader

    def _step(self, batch: Row) -> float:
        with self.accelerator.accumulate(self.unet):
            latents, states = encoded(self, batch)
            noise = torch.randn_like(latents)
            count = self.scheduler.config.num_train_timesteps
            timesteps = torch.randint(0, count, (len(latents),), device=latents.device).long()
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
            target = noise
            if self.scheduler.config.prediction_type == "v_prediction":
                target = self.scheduler.get_velocity(latents, noise, timesteps)
            predicted = self.unet(noisy, timesteps, states).sample
            loss = F.mse_loss(predicted.float(), target.float(), reduction="mean")
            told = float(self.accelerator.gather(loss.repeat(self.batch)).mean().item())
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.unet.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients and self.average is not None:
            self.average.step(self.unet.parameters())
        loss.detach().item()
        return told


class LoraTrainer:
    """One run of the example; `step` takes one and gives its loss."""

    def __init__(
        self,
        folder: Path,
        data: Callable[[CLIPTokenizer], Dataset[Row]],
        *,
        batch: int,
        rank: int,
        bf16: bool,
        checkpointing: bool,
        device: torch.device,
    ) -> None:
        torch.manual_seed(0)
        AcceleratorState._reset_state(reset_partial_state=True)
        precision = "bf16" if bf16 else "no"
        self.accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
        self.scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        text = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
        for part in (text, vae, unet):
            part.requires_grad_(False)
        self.weight_dtype = torch.bfloat16 if bf16 else torch.float32
        unet.to(self.accelerator.device, dtype=self.weight_dtype)
        self.vae = vae.to(self.accelerator.device, dtype=self.weight_dtype)
        self.text = text.to(self.accelerator.device, dtype=self.weight_dtype)
        unet.add_adapter(
            LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS
            )
        )
        if checkpointing:
            unet.enable_gradient_checkpointing()
        self.learning = [weight for weight in unet.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            self.learning, lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8
        )
        loader = DataLoader(data(tokenizer), shuffle=True, batch_size=batch, num_workers=0)
        schedule = get_scheduler(
            "constant", optimizer=optimizer, num_warmup_steps=0, num_training_steps=100_000
        )
        unet.train()
        self.unet, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            unet, optimizer, loader, schedule
        )
        self._batches = self._endless()

    def _endless(self) -> Iterator[Row]:
        while True:
            yield from self.loader

    def step(self) -> float:
        batch = next(self._batches)
        with self.accelerator.accumulate(self.unet):
            latents, states = encoded(self, batch)
            noise = torch.randn_like(latents)
            count = self.scheduler.config.num_train_timesteps
            timesteps = torch.randint(0, count, (len(latents),), device=latents.device).long()
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
            target = noise
            if self.scheduler.config.prediction_type == "v_prediction":
                target = self.scheduler.get_velocity(latents, noise, timesteps)
            predicted = self.unet(noisy, timesteps, states, return_dict=False)[0]
            loss = F.mse_loss(predicted.float(), target.float(), reduction="mean")
            told = float(self.accelerator.gather(loss.repeat(len(latents))).mean().item())
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.learning, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        return told


@torch.no_grad()
def encoded(trainer: "Trainer | LoraTrainer", batch: Row) -> tuple[Tensor, Tensor]:
    """Latents and text states of a batch, made now unless they are at hand."""
    if "latents" in batch:
        return batch["latents"], batch["states"].to(trainer.weight_dtype)
    pixels = batch["pixel_values"].to(trainer.weight_dtype)
    latents = trainer.vae.encode(pixels).latent_dist.sample() * trainer.vae.config.scaling_factor
    return latents, trainer.text(batch["input_ids"])[0]


@torch.no_grad()
def predicted(folder: Path, latents: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
    """What the U-Net of a model folder answers in float32, to compare it with another's."""
    network = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    answer: Tensor = network(latents, timesteps, states).sample
    return answer
