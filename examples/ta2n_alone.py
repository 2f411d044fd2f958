"""Use TA2N alone, as its authors show it, on maps of your own: no store, no recipe, no command line.

    python examples/ta2n_alone.py

With their sizes the same lines take some seconds on a CPU: C = 2048, T = 8, 7x7 maps of a ResNet-50.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from heads import ACM, TA2N, TTM, timewise_cos

C, T, WAY, QUERIES = 64, 8, 5, 10


def main() -> None:
    """Align five supports with ten queries, and train on these pairs."""
    torch.manual_seed(0)
    labels = torch.arange(WAY).repeat(QUERIES // WAY)
    classes = torch.rand(WAY, C, T, 1, 1)
    support = classes + 0.2 * torch.rand(WAY, C, T, 7, 7)  # [N, C, T, H, W], one shot of each class, in class order
    query = classes[labels] + 0.2 * torch.rand(QUERIES, C, T, 7, 7)

    ta2n = TA2N(T=T, shot=1, dim=(C, C), first_stage=TTM, second_stage=ACM)
    pairs, offsets = ta2n(support, query)  # [N, M, 2C, T, 1, 1], and where it looks: [N*M, T, (x, y)]
    aligned_support, aligned_query = pairs[:, :, :C, ...], pairs[:, :, C:, ...]
    dist = timewise_cos(aligned_support, aligned_query)  # [N, M]
    print("pairs", list(pairs.shape), "offsets", list(offsets.shape), "distances", list(dist.shape))

    # What stage 1 predicts (0.964 and 0 before training): clips are read at times a*u + b, u from -1 (first frame) to 1 (last).
    _, _, seen = ta2n(support, query, vis=True)
    print("scale and shift of the first query:", seen["first"]["theta_query"][0].tolist())

    # Several shots of a class come one after the other; `shot` tells how many. The first is the reference in time.
    two = TA2N(T=T, shot=2, dim=(C, C))
    print("two shots:", list(two(torch.cat([support, support], 1).view(-1, C, T, 7, 7), query)[0].shape))

    optimizer = torch.optim.Adam(ta2n.parameters(), lr=1e-3)
    for step in (1, 2, 3):
        pairs, _ = ta2n(support, query)
        loss = F.cross_entropy(-timewise_cos(*pairs.chunk(2, 2)).T, labels, reduction="sum") / 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step} loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
