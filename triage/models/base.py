"""What every model backend shares: the protocol, the label set, and how logits become calibrated scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

    @property
    def sizes(self) -> dict[str, int]:
        """Number of logits of each head, in order."""
        return {"category": len(self.category), "urgency": len(URGENCY_LEVELS) - 1, "department": len(self.department),
                "co_departments": len(self.department), "flags": len(self.flags)}  # fmt: skip

    @property
    def slices(self) -> dict[str, slice]:
        """Where each head stands in a row of logits."""
        ends = np.cumsum(list(self.sizes.values()))
        return {h: slice(int(e) - n, int(e)) for (h, n), e in zip(self.sizes.items(), ends, strict=True)}

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

    def probabilities(self, logits: Array) -> dict[str, Array]:
        """Turn logits (n, total) into calibrated probabilities per head; urgency becomes (n, 4), ascending levels."""
        scaled = {h: logits[:, s] / self.temperature.get(h, 1.0) for h, s in self.slices.items()}
        at_least = np.minimum.accumulate(sigmoid(scaled["urgency"]), axis=1)
        edge = np.ones((len(logits), 1), np.float32)
        steps = np.concatenate([edge, at_least, 0 * edge], axis=1)
        return {
            "category": softmax(scaled["category"]),
            "urgency": steps[:, :-1] - steps[:, 1:],
            "department": softmax(scaled["department"]),
            "co_departments": sigmoid(scaled["co_departments"]),
            "flags": sigmoid(scaled["flags"]),
        }

    def scores(self, windows: Array) -> Scores:
        """Combine the logits of one text's windows (n, total), n ≥ 1, into its scores.

        A fact counts wherever it stands: flags and the urgency's "at least" take their highest window; what the request
        is about (category, departments) is the mean over the windows, each weighted by how grave it is.
        """
        p = self.probabilities(windows)
        if len(windows) == 1:
            category, department, co = p["category"][0], p["department"][0], p["co_departments"][0]
            urgency, flags = p["urgency"][0], p["flags"][0]
        else:
            at_least = np.cumsum(p["urgency"][:, ::-1], axis=1)[:, ::-1]
            steps = np.append(at_least.max(axis=0), 0.0)
            urgency = steps[:-1] - steps[1:]
            flags = p["flags"].max(axis=0)
            gravity = np.exp(3.0 * at_least[:, 1:].sum(axis=1))
            weight = (gravity / gravity.sum())[:, None]
            category, department, co = (
                (p[h] * weight).sum(axis=0) for h in ("category", "department", "co_departments")
            )
        return Scores(
            dict(zip(self.category, category.tolist(), strict=True)),
            dict(zip(URGENCY_LEVELS, urgency.tolist(), strict=True)),
            dict(zip(self.department, department.tolist(), strict=True)),
            dict(zip(self.department, co.tolist(), strict=True)),
            dict(zip(self.flags, flags.tolist(), strict=True)),
        )


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(x: Array) -> Array:
    """Logistic function, safe for large negative values."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float32)
