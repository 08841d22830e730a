"""The step of Diffusers' `examples/text_to_image/train_text_to_image_lora.py`, to be timed.

As `diffusers_trainer`, with what differs in the example for LoRA: the U-Net is frozen and in the
type of mixed precision, PEFT adds rank-r changes to queries, keys, values and outputs, and only
these are optimised and clipped. Autoencoder and text encoder work in every step.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers_trainer import Row
from peft import LoraConfig
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTokenizer

TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


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
            pixels = batch["pixel_values"].to(dtype=self.weight_dtype)
            latents = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
            noise = torch.randn_like(latents)
            count = self.scheduler.config.num_train_timesteps
            timesteps = torch.randint(0, count, (len(latents),), device=latents.device).long()
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
            states = self.text(batch["input_ids"], return_dict=False)[0]
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
