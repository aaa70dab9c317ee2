"""Fixed scores, for users' own tests and for running on rules alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from triage.models.base import Labels
from triage.profile import Profile
from triage.records import URGENCY_LEVELS, Scores


class StubBackend:
    """Gives every text the same scores: by default it knows nothing (all labels of a head equally likely)."""

    def __init__(self, profile: Profile, scores: Scores | None = None) -> None:
        self.model_id = "stub"
        self.labels = Labels.of(profile)

        def even(labels: Iterable[str]) -> dict[str, float]:
            labels = tuple(labels)
            return dict.fromkeys(labels, 1 / len(labels))

        none = dict.fromkeys
        self._scores = scores or Scores(even(self.labels.category), even(URGENCY_LEVELS), even(self.labels.department),
                                        none(self.labels.department, 0.0), none(self.labels.flags, 0.0))  # fmt: skip

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Return the fixed scores once for each text."""
        return [self._scores for _ in texts]
