"""Golden cases of second-moment poolings standing alone: mpncov (covariance and its root) and bdc (Brownian distance covariance)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from golden.golden import Case
from parity_models import Values, gradients, tensors

from fsar_cache.errors import UsageError
from heads import moments


def run_mpncov(case: Case) -> Values:
    """Covariance, root, its upper triangle, and the gradient of sum(root * given)."""
    config, given = case.config, tensors(case.inputs)
    x = given["x"].requires_grad_()
    pool = moments.CovariancePooling(config["iterations"], config["backward"], config["trace_epsilon"])
    root = pool.matrix(x)
    loss = (root * given["grad_sqrtm"]).sum()
    values = {"cov": moments.covariance(x.flatten(2)), "sqrtm": root, "triuvec": pool(x), "loss": loss}
    return values | gradients(loss, {"input": x}, "grad/")


def run_bdc(case: Case) -> Values:
    """The vector, and the gradients of sum(vector * given) by input and published key, and batch statistics after the step."""
    config, given = case.config, tensors(case.inputs)
    if config["activation"] != "relu":
        raise UsageError(f"{case.path}: a reduction with {config['activation']}, where there is relu only")
    x = given["x"].requires_grad_()
    places = config["height"] * config["width"]
    pool = moments.BdcPooling(config["channels"], config["reduce_dim"], places, config["sqrt_epsilon"])
    names = pool.published_names()
    pool.load_state_dict({name: torch.from_numpy(case.weights[key]) for name, key in names.items()})
    pool.train(config["batch_norm"] == "batch")
    vector = pool(x).view(given["grad_vec"].shape)  # the published one has no batch axis for a batch of one
    loss = (vector * given["grad_vec"]).sum()
    learnt = {names[name]: parameter for name, parameter in pool.named_parameters()}
    buffers = {f"buffer/{names[name]}": buffer for name, buffer in pool.named_buffers()}
    return {"vec": vector, "loss": loss} | gradients(loss, learnt | {"input": x}, "grad/") | buffers


RUNNERS = {"mpncov": run_mpncov, "bdc": run_bdc}
