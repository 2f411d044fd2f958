"""Few-shot heads: one file per method, encode then match; `examples/every_head.py` shows the use of each alone."""

from heads.base import HEADS, EpisodeBatch, EpisodeShape, Head, HeadOutput, Task
from heads.clip_fsar import ClipFsar, ClipFsarConfig
from heads.clip_mdmf import ClipMdmf, ClipMdmfConfig
from heads.gslta import Gslta, GsltaConfig
from heads.moments import BdcPooling, CovariancePooling
from heads.otam import Otam, OtamConfig
from heads.protonet import ProtoNet, ProtoNetConfig
from heads.ta2n import Ta2n, Ta2nConfig
from heads.ta2n_blocks import ACM, TTM, timewise_cos
from heads.ta2n_network import TA2N
from heads.tamt import Tamt, TamtConfig
from heads.tmal import Tmal
from heads.tmal_config import TmalConfig
from heads.trx import Trx, TrxConfig

__all__ = [
    "ACM",
    "HEADS",
    "TA2N",
    "TTM",
    "BdcPooling",
    "ClipFsar",
    "ClipFsarConfig",
    "ClipMdmf",
    "ClipMdmfConfig",
    "CovariancePooling",
    "EpisodeBatch",
    "EpisodeShape",
    "Gslta",
    "GsltaConfig",
    "Head",
    "HeadOutput",
    "Otam",
    "OtamConfig",
    "ProtoNet",
    "ProtoNetConfig",
    "Ta2n",
    "Ta2nConfig",
    "Tamt",
    "TamtConfig",
    "Task",
    "Tmal",
    "TmalConfig",
    "Trx",
    "TrxConfig",
    "timewise_cos",
]
