"""`Triager` ties the parts together; the module functions only open one, once, with everything as shipped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from triage.cascade import Cascade
from triage.decide import Policy, decide
from triage.models.base import Backend
from triage.profile import Profile, load_profile
from triage.records import Decision
from triage.rules.book import RuleBook, load_rules
from triage.text import clean

SLICE = (
    16  # texts that one worker takes at a time: enough to make handing them out cheap, few enough to share them evenly
)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Triager:
    """Rules, model, profile and decision policy, ready to decide. Safe to share between threads.

    workers: slices of texts decided side by side, default one a core (the network runs outside Python's lock).
    cascade: the first stage that may answer before `backend`; None sends every text to `backend`.
    """

    def __init__(
        self,
        backend: Backend,
        rules: RuleBook,
        profile: Profile,
        policy: Policy,
        *,
        cascade: Cascade | None = None,
        workers: int | None = None,
    ) -> None:
        self.backend, self.rules, self.profile, self.policy, self.cascade = backend, rules, profile, policy, cascade
        self._workers = workers or usable_cores()

    @property
    def fingerprints(self) -> dict[str, str]:
        """What names the exact model, rules and profile in force; stands in every decision."""
        return self._fingerprints(self.rules)

    def _fingerprints(self, rules: RuleBook) -> dict[str, str]:
        return {"model": self.backend.model_id, "rules": rules.fingerprint, "profile": self.profile.fingerprint}

    @classmethod
    def load(
        cls,
        model: str | Path | Backend | None = None,
        *,
        profile: str | Path = "zhengzhou",
        rules: str | Path | None = None,
        workers: int | None = None,
        cascade: bool = True,
    ) -> Triager:
        """Load a triager.

        model: a model folder, a backend, or None for the shipped model. profile: a shipped name or a TOML file.
        rules: a folder laid over the shipped rules by id. workers: slices of texts decided side by side, default one a core.
        cascade: False sends every text to the BERT, also those that the model's first stage is certain of.
        Raises ModelError, ProfileError, RuleError naming what is wrong.
        """
        used_profile, policy, first = load_profile(profile), Policy(), None
        if model is None or isinstance(model, str | Path):
            from triage.models.folder import SHIPPED, ModelFolder
            from triage.models.mixture import open_models

            folder = ModelFolder.open(model if model is not None else SHIPPED)
            policy = Policy.from_dict(folder.read_json("decision.json"))
            model, ngrams = open_models(folder)
            if ngrams and cascade:
                first = Cascade(ngrams, float(folder.read_json("cascade.json")["certain"]))
        model.labels.check_against(used_profile)
        book = load_rules(*([Path(rules)] if rules else []), profile=used_profile)
        book.check_against(used_profile)
        return cls(model, book, used_profile, policy, cascade=first, workers=workers)

    def reload_rules(self) -> bool:
        """Read the rules again from where they came, in a running process; returns whether anything changed.

        Requests being decided finish under the old rules, later ones see only the new. Every rule is first tried on its own
        sentences. Raises RuleError that lists every fault; the old rules are then still in force.
        """
        book = load_rules(*self.rules.folders, check=True, profile=self.profile)
        book.check_against(self.profile)
        changed = book.fingerprint != self.rules.fingerprint
        self.rules = book  # one assignment: no request ever sees half of it
        return changed

    def predict(self, text: str) -> Decision:
        """Decide on one request. Raises TypeError for anything but a string."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, not {type(text).__name__}")
        return self.predict_many([text])[0]

    def predict_many(self, texts: Iterable[str]) -> list[Decision]:
        """Decide on many requests, in order; each decision is the one `predict` gives. Raises TypeError."""
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise TypeError(f"texts must be an iterable of str, not {type(texts).__name__}")
        texts = list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{i}] must be a str, not {type(text).__name__}")
        slices = [texts[at : at + SLICE] for at in range(0, len(texts), SLICE)]
        rules = self.rules  # one book for all, also when another one comes into force meanwhile
        if len(slices) == 1 or self._workers == 1:
            return [d for part in slices for d in self._decide(part, rules)]
        with ThreadPoolExecutor(self._workers) as pool:
            return [d for part in pool.map(self._decide, slices, [rules] * len(slices)) for d in part]

    def _decide(self, texts: Sequence[str], rules: RuleBook) -> list[Decision]:
        cleaned, fingerprints = [clean(t) for t in texts], self._fingerprints(rules)
        plain, findings = [c.text for c in cleaned], [rules.apply(c) for c in cleaned]
        first = self.cascade.answers(plain, findings) if self.cascade else [None] * len(texts)
        rest = iter(self.backend.score([t for t, known in zip(plain, first, strict=True) if known is None]))
        return [
            decide(
                one,
                found,
                known or next(rest),
                self.profile.find_districts(one),
                self.profile,
                self.policy,
                fingerprints,
            )
            for one, found, known in zip(cleaned, findings, first, strict=True)
        ]


@lru_cache(maxsize=1)
def default_triager() -> Triager:
    """Return the triager with everything as shipped, loaded at the first call."""
    return Triager.load()


def predict(text: str) -> Decision:
    """Decide on one request with everything as shipped. Raises TypeError for anything but a string."""
    return default_triager().predict(text)


def predict_many(texts: Iterable[str]) -> list[Decision]:
    """Decide on many requests with everything as shipped, in order. Raises TypeError."""
    return default_triager().predict_many(texts)
