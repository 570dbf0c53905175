"""A network's answers for stored images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

BATCH = 256


@torch.no_grad()
def evaluate(
    network: nn.Module,
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    batch: int = BATCH,
    device: str = "cpu",
) -> npt.NDArray[np.float32]:
    """Logits [len(rows), C] in eval mode and fp32, in the order of the rows; the network's mode is put back.

    Args:
        network: Takes normalised [B, C, H, W], gives logits [B, classes].
        images: uint8 [N, H, W, C], may be a memory map.
        rows: Which images.
        mean: Per channel, of images in [0, 1].
        std: Per channel.
        batch: Images a forward.
        device: Where the network is.
    """
    training = network.training
    network.eval()
    center = torch.tensor(mean, device=device).view(1, -1, 1, 1)
    scale = torch.tensor(std, device=device).view(1, -1, 1, 1)
    logits = []
    for start in range(0, len(rows), batch):
        block = torch.from_numpy(np.ascontiguousarray(images[rows[start : start + batch]])).to(device)
        given = (block.permute(0, 3, 1, 2).float() / 255 - center) / scale
        logits.append(network(given).float().cpu().numpy())
    network.train(training)
    return np.concatenate(logits)
