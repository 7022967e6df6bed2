"""Only MemoryBank and TripletLoss, in a loop of your own: python memory_in_your_loop.py images.npy labels.npy"""

import sys

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlt.modeling import MemoryBank, TripletLoss


def train(net: nn.Module, images: Tensor, labels: Tensor, steps: int = 100) -> list[float]:
    """Adapt a net, images [B, ...] -> [B, C], to images [N, ...] with cluster labels, int64 [N], -1 for an outlier.

    Returns the loss of every step, of 32 images each."""
    with torch.no_grad():
        channels = net(images[:2]).shape[1]
    memory = MemoryBank(channels, num_prototypes=0, queue_size=len(images))  # no source identities
    triplet, optimizer = TripletLoss(), torch.optim.Adam(net.parameters(), lr=1e-3)
    known = (labels >= 0).nonzero().flatten()
    history = []
    for _ in range(steps):
        indices = known[torch.randint(len(known), (32,))]
        features, targets = net(images[indices]), labels[indices]
        loss = triplet(normalize(features), targets) + memory.instance_loss(features, targets, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        none = features.new_empty(0, channels), labels[:0]  # source rows
        memory.update(*none, features.detach(), indices, labels)
        history.append(loss.item())
    return history


if __name__ == "__main__":
    images, labels = (torch.from_numpy(np.load(path)) for path in sys.argv[1:3])
    losses = train(nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 64)), images.float(), labels)
    print(f"loss {losses[0]:.2f} at the first step, {losses[-1]:.2f} at the last")
