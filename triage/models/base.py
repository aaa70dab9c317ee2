"""What every model backend shares: the protocol, the label set, and how logits become calibrated scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from triage.errors import ModelError
from triage.profile import Profile
from triage.records import URGENCY_LEVELS, Scores

Array = npt.NDArray[np.float32]


class Backend(Protocol):
    """A model that scores cleaned texts. `model_id` names the exact weights; it stands in every decision."""

    model_id: str
    labels: Labels

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Return the scores of each cleaned text, in order; the same text gets the same scores in any batch."""
        ...


@dataclass(frozen=True)
class Labels:
    """Codes of each head in the order of the logits, and the temperature each head's logits are divided by.

    A row of logits holds: category (softmax), urgency (three cumulative logits: at least priority, urgent, critical;
    Frank & Hall 2001), department (softmax), co-departments and flags (one sigmoid each).
    """

    category: tuple[str, ...]
    department: tuple[str, ...]
    flags: tuple[str, ...]
    temperature: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, profile: Profile) -> Labels:
        """Return all labels of a profile, not calibrated."""
        codes = profile.labels
        return cls(tuple(codes["category"]), tuple(codes["department"]), tuple(codes["flag"]))

    def alike(self, other: Labels) -> bool:
        """Whether both mean the same by a row of logits, however they are calibrated."""
        return (self.category, self.department, self.flags) == (other.category, other.department, other.flags)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of logits of each head, in order."""
        return {"category": len(self.category), "urgency": len(URGENCY_LEVELS) - 1, "department": len(self.department),
                "co_departments": len(self.department), "flags": len(self.flags)}  # fmt: skip

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each head stands in a row of logits."""
        ends = accumulate(self.sizes.values())
        return {h: slice(e - n, e) for (h, n), e in zip(self.sizes.items(), ends, strict=True)}

    @property
    def total(self) -> int:
        """Length of a row of logits."""
        return sum(self.sizes.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form kept in a model folder."""
        return {"category": list(self.category), "department": list(self.department), "flags": list(self.flags),
                "temperature": dict(self.temperature)}  # fmt: skip

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Labels:
        """Read the JSON form. Raises ModelError when a head is missing."""
        try:
            return cls(tuple(raw["category"]), tuple(raw["department"]), tuple(raw["flags"]), dict(raw["temperature"]))
        except (KeyError, TypeError) as error:
            raise ModelError(f"the labels of the model lack {error}; export it again") from None

    def check_against(self, profile: Profile) -> None:
        """Raise ModelError when the profile lacks a name for one of the model's codes."""
        for head, codes in (("category", self.category), ("department", self.department), ("flag", self.flags)):
            if missing := [c for c in codes if c not in profile.labels[head]]:
                raise ModelError(
                    f"profile {profile.name} has no {head} {', '.join(missing)}, which the model knows; "
                    "add the name(s) to the profile or train a model for it"
                )

    def probabilities(self, row: Sequence[float]) -> dict[str, list[float]]:
        """Turn one row of logits into calibrated probabilities per head; urgency becomes four, ascending levels.

        Plain floats: for sixty numbers they are five times faster than arrays, and the same in every batch.
        """
        heads = {h: [x / self.temperature.get(h, 1.0) for x in row[s]] for h, s in self.slices.items()}
        at_least = [1.0, *accumulate(map(sigmoid, heads["urgency"]), min), 0.0]
        return {
            "category": softmax(heads["category"]),
            "urgency": [a - b for a, b in pairwise(at_least)],
            "department": softmax(heads["department"]),
            "co_departments": [sigmoid(x) for x in heads["co_departments"]],
            "flags": [sigmoid(x) for x in heads["flags"]],
        }

    def scores(self, windows: Array) -> Scores:
        """Combine the logits of one text's windows (n, total), n ≥ 1, into its scores.

        A fact counts wherever it stands: flags and the urgency's "at least" take their highest window; what the request
        is about (category, departments) is the mean over the windows, each weighted by how grave it is.
        """
        each = [self.probabilities(row) for row in windows.tolist()]
        p = each[0]
        if len(each) > 1:
            at_least = [list(accumulate(reversed(w["urgency"])))[::-1] for w in each]
            steps = [*map(max, zip(*at_least, strict=True)), 0.0]
            gravity = [math.exp(3.0 * sum(levels[1:])) for levels in at_least]
            p = {head: [sum(g * x for g, x in zip(gravity, column, strict=True)) / sum(gravity)
                        for column in zip(*(w[head] for w in each), strict=True)]
                 for head in ("category", "department", "co_departments")}  # fmt: skip
            p["urgency"] = [a - b for a, b in pairwise(steps)]
            p["flags"] = [max(column) for column in zip(*(w["flags"] for w in each), strict=True)]
        return Scores(
            dict(zip(self.category, p["category"], strict=True)),
            dict(zip(URGENCY_LEVELS, p["urgency"], strict=True)),
            dict(zip(self.department, p["department"], strict=True)),
            dict(zip(self.department, p["co_departments"], strict=True)),
            dict(zip(self.flags, p["flags"], strict=True)),
        )


def softmax(x: Sequence[float]) -> list[float]:
    """Return the probabilities of a choice from its logits."""
    top = max(x)
    e = [math.exp(v - top) for v in x]
    total = sum(e)
    return [v / total for v in e]


def sigmoid(x: float) -> float:
    """Logistic function, safe for any logit."""
    return 0.5 * (1.0 + math.tanh(0.5 * x))
