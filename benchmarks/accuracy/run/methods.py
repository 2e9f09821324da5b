"""The methods of the comparison: settings that differ from a data set's.

A method is a line of `--set` settings of the trainer, so what is compared here is what users run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from benchmarks.accuracy.run.ablations import ABLATIONS, Ablation
from trainer.config.readout_names import HEAD_RETRAINED, NEAREST_IMAGES_BALANCED
from trainer.losses.registry import LOSSES

Group = Literal["classic", "cluster", "ours", "ablation"]
OURS = "clmle"
"""The method that the others are compared with, and that ablations change."""
_TABLES = 1.4  # with embedding and clustering


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to train."""

    group: Group
    """classic = one embedding or score a class; cluster = others' losses on several clusters a
    class; ours = CLMLE and its variants; ablation = CLMLE with one choice changed."""
    settings: Mapping[str, Any]
    """Dotted settings, as in `--set`."""
    readout: str
    """Used where no recipe has chosen one; by an ablation where CLMLE's does not exist."""
    cost: float = 1.0
    """Seconds per image relative to softmax, for estimates before anything was measured."""
    ablation: Ablation | None = None
    """What is changed of CLMLE, after its recipe."""

    @property
    def uses_tables(self) -> bool:
        """Whether it trains on cluster tables."""
        return self.group != "classic"


def _method(group: Group, loss: str, *, cost: float = 1.0, **settings: Any) -> Method:
    """A loss with other settings, sections and names parted by two underscores."""
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return Method(
        group=group,
        settings={"loss.name": loss, **dotted},
        readout=LOSSES[loss].readout,
        cost=cost,
    )


def _classic(loss: str = "softmax", **settings: Any) -> Method:
    return _method("classic", loss, **settings)


def _ablated(base: Method, ablation: Ablation) -> Method:
    readout = ablation.readout or base.readout
    return replace(base, group="ablation", readout=readout, ablation=ablation)


_CLMLE = replace(
    _method("ours", "clmle", cost=_TABLES, recipe="long_tail"),
    readout=NEAREST_IMAGES_BALANCED,
)

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        # Other images
        "softmax": _classic(),
        "class_balanced": _classic(sampler__sampling="class_balanced"),
        "square_root": _classic(sampler__sampling="square_root"),
        "under": _classic(sampler__sampling="under"),
        "progressive": _classic(sampler__sampling="progressive"),
        # Other costs
        "class_costs": _classic(loss__class_weight="inverse"),
        "effective_number": _classic(loss__class_weight="effective_number"),
        "focal": _classic("focal"),
        "balanced_softmax": _classic("balanced_softmax"),
        "ldam_drw": _classic(
            "ldam", loss__class_weight="effective_number", loss__reweight_from=0.8
        ),
        "crt": replace(_classic(train__classifier_share=0.2), readout=HEAD_RETRAINED),
        # Other geometry
        "arcface": _classic("arcface"),
        "arcface_balanced": _classic("arcface", sampler__sampling="class_balanced"),
        "cosface": _classic("cosface"),
        "subcenter_arcface": _classic("subcenter_arcface"),
        "softtriple": _classic("softtriple"),
        "triplet": _classic("triplet"),
        "supcon": _classic("supcon"),
        # Several clusters a class
        "magnet": _method("cluster", "magnet", cost=_TABLES),
        "lmle": _method("cluster", "lmle", cost=_TABLES),
        # The equation alone: neighbourhoods, means of the batch, margins.
        "clmle_plain": _method("ours", "clmle", cost=_TABLES),
        OURS: _CLMLE,
        **{name: _ablated(_CLMLE, ablation) for name, ablation in ABLATIONS.items()},
    }
)
