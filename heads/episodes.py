"""What every head does with an episode's labels: check them, average by class, encode clip by clip, and the episodic loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fsar_cache.errors import UsageError
from heads.base import Clips, EpisodeBatch, Head, HeadOutput, Role, Task


def require_labels(labels: Tensor, shape: tuple[int, ...], high: int, what: str) -> None:
    """Raise UsageError unless `labels` are integers of this shape in [0, high)."""
    if tuple(labels.shape) != shape:
        raise UsageError(f"{what} must have shape {list(shape)}, got {list(labels.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(f"{what} must be integers, got {labels.dtype}")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= high):
        raise UsageError(f"{what} must lie in 0..{high - 1}, got {int(labels.min())}..{int(labels.max())}")


def averaging(task: Task, support: Tensor) -> Tensor:
    """The matrix [E, W, S] that averages over the shots of each class; shots may be unequal, in any order.

    support: an encoded tensor [E, S, ...]. UsageError where a label is out of range or a class has no support clip.
    """
    require_labels(task.support_labels, tuple(support.shape[:2]), task.way, "support labels [episodes, clips]")
    member = F.one_hot(task.support_labels.long(), task.way).to(support).transpose(1, 2)
    count = member.sum(-1, keepdim=True)
    if not bool(count.all()):
        episode, label = (count[..., 0] == 0).nonzero()[0].tolist()
        raise UsageError(
            f"class {label} of episode {episode} has no support clip (way {task.way}, labels "
            f"{task.support_labels[episode].tolist()})",
            hint="give every class 0..way-1 at least one support clip, or lower the way",
        )
    return member / count


def class_means(support: Tensor, average: Tensor) -> Tensor:
    """Class prototypes [E, W, ...] from clips [E, S, ...] and `averaging`'s matrix [E, W, S]."""
    return torch.bmm(average, support.flatten(2)).view(*average.shape[:2], *support.shape[2:])


def require_pair(head: Head, support: Tensor, query: Tensor, *, same_frames: bool) -> None:
    """Raise UsageError unless encoded support and query [E, N, T, D] belong together."""
    name = type(head).__name__
    shapes = f"support {list(support.shape)}, query {list(query.shape)}"
    if support.ndim != query.ndim or support.shape[0] != query.shape[0]:
        raise UsageError(
            f"{name} matches support [E, S, ...] with query [E, Q, ...] of the same E episodes, got {shapes}"
        )
    if not support.shape[0] or not query.shape[1]:
        raise UsageError(f"{name} needs at least one episode and one query clip, got {shapes}")
    if support.shape[-1] != query.shape[-1]:
        raise UsageError(f"{name} needs support and query features of the same width, got {shapes}")
    if same_frames and support.shape[2] != query.shape[2]:
        raise UsageError(f"{name} compares frame by frame and needs as many support as query frames, got {shapes}")


def finite(head: Head, logits: Tensor) -> Tensor:
    """`logits`, or a UsageError if some are NaN or infinite; features were checked by `Head.check` before, so they are not to blame."""
    if not bool(torch.isfinite(logits).all()):
        raise UsageError(
            f"{type(head).__name__}'s logits are not finite (training diverged?)",
            hint="the clips went in finite but their codes are not, or too large: train with a smaller learning rate, "
            "or use an earlier checkpoint",
        )
    return logits


def class_text(head: Head, task: Task, width: int) -> Tensor:
    """The task's text features float32 [E, W, width]; UsageError naming expected and got where they are absent, misshapen or not finite."""
    want = [len(task.support_labels), task.way, width]
    got = None if task.class_text is None else list(task.class_text.shape)
    if task.class_text is None or got != want:
        raise UsageError(
            f"{type(head).__name__} needs a text feature of every class of the episodes, {want}, got {got or 'none'}",
            hint="text features of class names: fsar-cache extract DATASET --kind text",
        )
    if not bool(torch.isfinite(task.class_text).all()):
        raise UsageError(f"{type(head).__name__} got class text with NaN or infinite values")
    return task.class_text


def one_by_one(head: Head, batch: EpisodeBatch, step: int) -> HeadOutput:
    """`head.forward` of every episode by itself, for heads whose batch norms in training may see one episode only.

    Logits [E, Q, W]; losses are summed over the episodes; what an output shows is concatenated along the episodes.
    """
    outs = [head(one, step) for one in batch.episodes()]
    losses = {
        name: (torch.stack([out.losses[name][0] for out in outs]).sum(), weight)
        for name, (_, weight) in outs[0].losses.items()
    }
    shows = {name: torch.cat([out.shows[name] for out in outs]) for name in outs[0].shows}
    return HeadOutput(torch.cat([out.logits for out in outs]), losses, shows)


def encode_clips(head: Head, clips: Clips, role: Role) -> dict[str, Tensor]:
    """`head.encode` of the clips of episodes, {kind: [E, N, ...]}, as {name: [E, N, ...]}."""
    head.check(clips, role)
    sizes = next(iter(clips.values())).shape[:2]
    flat = head.encode({kind: clip.flatten(0, 1) for kind, clip in clips.items()}, role)
    return {name: code.view(*sizes, *code.shape[1:]) for name, code in flat.items()}


def query_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every query, [E, Q], from logits [E, Q, W] and labels int64 [E, Q] in 0..W-1."""
    require_labels(labels, tuple(logits.shape[:2]), logits.shape[-1], "query labels [episodes, clips]")
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten().long(), reduction="none").view(labels.shape)


def train_matching(head: Head, batch: EpisodeBatch, tasks_per_batch: int) -> HeadOutput:
    """Encode and match whole episodes; the loss "meta" is the mean cross-entropy over queries / tasks_per_batch, summed over E."""
    support = encode_clips(head, batch.support, "support")
    out = head.match(support, encode_clips(head, batch.query, "query"), batch.task)
    loss = query_losses(out.logits, batch.query_labels).mean(1).sum() / tasks_per_batch
    return HeadOutput(out.logits, {"meta": (loss, 1.0)}, out.shows)
