"""One rank's gradients of a tiny CLIP to a file: clip_rank.py LOSS FILE RANK RANKS STORE."""

import os
import sys
from dataclasses import fields

import torch
import torch.distributed as dist

from clip_tiny import tiny_batch, tiny_clip
from safelight.training.clip.task import PLAYER, ClipBatch, ClipSettings, ClipTask
from safelight.training.draw import Draw

loss, path, rank, ranks, store = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5]), sys.argv[5]
torch.set_num_threads(1)
if ranks > 1:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
network = tiny_clip().train()
if loss == "sigmoid":
    network.for_sigmoid_loss()
whole, count = tiny_batch(), 8 // ranks
mine = slice(rank * count, (rank + 1) * count)
values = {field.name: getattr(whole, field.name) for field in fields(whole)}
batch = ClipBatch(
    **{name: value if value is None else value[mine] for name, value in values.items()}
)
task = ClipTask(network, ClipSettings(loss=loss))
result = task.loss(PLAYER, batch, Draw(5, 3, total=8, start=rank * count, count=count))
result.total.backward()
found = {n: w.grad for n, w in network.named_parameters() if w.grad is not None}
torch.save({"total": result.total.detach(), **result.figures, **found}, path)
if ranks > 1:
    dist.destroy_process_group()
    # PyTorch's threads at times abort an interpreter that ends; what is tested here is over.
    os._exit(0)
