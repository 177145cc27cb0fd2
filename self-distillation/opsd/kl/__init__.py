"""The exact KL (section 2.2 of arXiv:2604.12002): `exact_kl`. README.md beside this file has the map."""

from opsd.kl.divergences import KLConfig
from opsd.kl.exact import KLOutput, exact_kl
from opsd.kl.logit_transform import IDENTITY, LogitTransform

__all__ = ["IDENTITY", "KLConfig", "KLOutput", "LogitTransform", "exact_kl"]
