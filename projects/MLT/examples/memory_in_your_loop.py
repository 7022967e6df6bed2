"""Only MemoryBank and TripletLoss, in a training loop of your own."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mlt.modeling import MemoryBank, TripletLoss


def train(net: nn.Module, images: Tensor, labels: Tensor, steps: int = 100) -> list[float]:
    """Adapt a net to images with cluster labels.

    Args:
        net: images [B, ...] -> features [B, C].
        images: [N, ...], all of them.
        labels: int64 [N], -1 for an outlier.
        steps: of 32 images each.

    Returns:
        the loss of every step
    """
    with torch.no_grad():
        channels = net(images[:2]).shape[1]
    memory = MemoryBank(channels, num_prototypes=0, queue_size=len(images))  # no source identities
    triplet = TripletLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    known = (labels >= 0).nonzero().flatten()
    history = []
    for _ in range(steps):
        indices = known[torch.randint(len(known), (32,))]
        features = net(images[indices])
        targets = labels[indices]
        loss = triplet(normalize(features), targets) + memory.instance_loss(features, targets, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        none = features.new_empty(0, channels), labels[:0]  # source rows
        memory.update(*none, features.detach(), indices, labels)
        history.append(loss.item())
    return history
