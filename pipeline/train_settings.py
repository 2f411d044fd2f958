"""How a recipe trains: episodes, optimizer and learning rate, by the names that published settings have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from splits.episodes import UnlabelledSampling
from splits.types import Protocol


@dataclass(frozen=True)
class Train:
    """Training: one iteration is one episode; the gradients of tasks_per_batch episodes are summed before an optimizer step.

    first_step_early: step when (iteration + 1) is a multiple of tasks_per_batch and at the last iteration but one, as GSLTA, TRX, TA2N and
    CLIP-MDMF published it (with 16 the first step comes after 15 episodes); otherwise after every tasks_per_batch episodes and at the end.
    unlabelled_sampling: "uniform" over the unlabelled clips, or the faulty walk over classes that GSLTA "published".

    betas: of adam and adamw. no_decay: patterns ("*bn*") of the names of parameters that weight_decay spares.

    A learning rate is a function of the iteration alone (pipeline.optim.rate_at). Its time is counted in epochs of steps_iter iterations;
    with the default 1 they are iterations. processes: how many processes published runs had, each with an episode of its own, so that
    `processes` episodes here are one iteration of the schedule there. epoch_counting: "published" counts whole epochs twice, as CLIP-FSAR
    does, so the schedule runs about twice as fast as it reads.
    schedule: "constant"; "steps" (times gamma from each of `milestones`, in epochs, on); "cosine" (set at the start of each epoch, from lr
    to eta_min over t_max epochs and eta_min from then on; t_max 0: all that follow the warm-up).
    warmup: the first epochs, in which the rate grows linearly, iteration by iteration, from warmup_lr to where the schedule begins.

    validate_every: iterations between validations on `validate_part` of the source (0: never); the best one is kept as "best".
    Published code that chooses its checkpoint on the test classes says so by a setting "select_on"; here it is the validation partition.
    """

    way: int = 5
    shot: int = 5
    query: int = 5
    unlabelled: int = 0
    unlabelled_sampling: UnlabelledSampling = "uniform"
    iterations: int = 1000
    tasks_per_batch: int = 16
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    steps_iter: int = 1
    processes: int = 1
    epoch_counting: Literal["plain", "published"] = "plain"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    t_max: int = 0
    eta_min: float = 0.0
    warmup: int = 0
    warmup_lr: float = 0.0
    first_step_early: bool = False
    seed: int = 1896
    save_every: int = 500
    keep_every: int = 0
    validate_every: int = 0
    validate_part: str = "val"
    validate_episodes: int = 200

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "momentum", "gamma", "eta_min", "warmup_lr"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a number, got {getattr(self, name)}")
        for name in ("iterations", "tasks_per_batch", "save_every", "validate_episodes", "steps_iter", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "keep_every",
            "validate_every",
            "t_max",
            "eta_min",
            "warmup",
            "warmup_lr",
            "weight_decay",
            "momentum",
            "gamma",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        self._check_optimizer()
        self._check_schedule()
        self.protocol  # noqa: B018 - checks way, shot, query and unlabelled

    def _check_optimizer(self) -> None:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum is a setting of sgd, not of {self.optimizer}")
        if self.betas != (0.9, 0.999) and self.optimizer == "sgd":
            raise ValueError("betas are a setting of adam and adamw, not of sgd")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {list(self.betas)}")

    def _check_schedule(self) -> None:
        if bool(self.milestones) != (self.schedule == "steps"):
            raise ValueError(
                f"schedule {self.schedule!r} with milestones {list(self.milestones)}: 'steps' needs them, others none"
            )
        if self.schedule != "cosine" and (self.t_max or self.eta_min):
            raise ValueError(f"t_max and eta_min are settings of the schedule 'cosine', not of {self.schedule!r}")
        if self.eta_min > self.lr:
            raise ValueError(f"eta_min is where the rate ends, so it can't exceed lr: {self.eta_min} and {self.lr}")
        if self.warmup_lr and not self.warmup:
            raise ValueError("warmup_lr has no use without warmup")
        if self.schedule == "cosine" and not self.t_max and self.warmup >= self.epochs:
            raise ValueError(
                f"nothing is left for the cosine: warmup takes {self.warmup} epochs of the {self.epochs:g} that the training has"
            )
        if self.tasks_per_batch % self.processes:
            raise ValueError(
                f"a step takes as many episodes of each process: tasks_per_batch {self.tasks_per_batch} is no multiple of "
                f"processes {self.processes}"
            )

    @property
    def epochs(self) -> float:
        """How many epochs of the schedule the training has, counted plainly."""
        return self.iterations / self.processes / self.steps_iter

    @property
    def protocol(self) -> Protocol:
        """The training episodes as a protocol."""
        return Protocol(self.way, self.shot, self.query, self.iterations, self.unlabelled)

    def steps_at(self, iteration: int) -> bool:
        """Whether the optimizer steps after this iteration (counted from 1)."""
        if self.first_step_early:
            return (iteration + 1) % self.tasks_per_batch == 0 or iteration == self.iterations - 1
        return iteration % self.tasks_per_batch == 0 or iteration == self.iterations
