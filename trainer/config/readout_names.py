"""Names of the read-outs, as in reports and `clmle classify --readout`. No torch.

A new read-out needs no line here, only one in `trainer.evaluation.registry`.
"""

from __future__ import annotations

KNC_MARGIN = "knc_margin"
KNC_SOFT = "knc_soft"
KNC_BALANCED = "knc_balanced"
NEAREST_CLASS_MEAN = "ncm"
BLEND = "blend"
NEAREST_IMAGES = "knn"
NEAREST_IMAGES_BALANCED = "knn_balanced"
HEAD = "head"
HEAD_TAU = "head_tau"
HEAD_ADJUSTED = "head_adjusted"
HEAD_RETRAINED = "head_crt"

READOUT_ORDER = (
    KNC_MARGIN,
    KNC_SOFT,
    KNC_BALANCED,
    NEAREST_CLASS_MEAN,
    BLEND,
    NEAREST_IMAGES,
    NEAREST_IMAGES_BALANCED,
    HEAD,
    HEAD_TAU,
    HEAD_ADJUSTED,
    HEAD_RETRAINED,
)
"""In the order of every table, which shows others after them."""
