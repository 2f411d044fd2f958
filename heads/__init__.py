"""Few-shot heads: one file per method, encode then match; `examples/one_head.py` shows the use of one alone."""

from heads.base import HEADS, EpisodeBatch, EpisodeShape, Head, HeadOutput, Task
from heads.clip_fsar import ClipFsar, ClipFsarConfig
from heads.clip_mdmf import ClipMdmf, ClipMdmfConfig
from heads.gslta import Gslta, GsltaConfig
from heads.moments import BdcPooling, CovariancePooling
from heads.otam import Otam, OtamConfig
from heads.protonet import ProtoNet, ProtoNetConfig
from heads.tamt import Tamt, TamtConfig
from heads.trx import Trx, TrxConfig

__all__ = [
    "HEADS",
    "BdcPooling",
    "CovariancePooling",
    "ClipFsar",
    "ClipFsarConfig",
    "ClipMdmf",
    "ClipMdmfConfig",
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
    "Tamt",
    "TamtConfig",
    "Task",
    "Trx",
    "TrxConfig",
]
