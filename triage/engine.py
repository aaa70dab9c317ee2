"""`Triager` ties the parts together; the module functions only open one, once, with everything as shipped."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from triage.decide import Policy, decide
from triage.models.base import Backend
from triage.profile import Profile, load_profile
from triage.records import Decision
from triage.rules.book import RuleBook, load_rules
from triage.text import clean

CHUNK = 256  # texts scored at a time: enough to fill every core, little enough to stay small


class Triager:
    """Rules, model, profile and decision policy, ready to decide. Safe to share between threads."""

    def __init__(self, backend: Backend, rules: RuleBook, profile: Profile, policy: Policy) -> None:
        self.backend, self.rules, self.profile, self.policy = backend, rules, profile, policy

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
    ) -> Triager:
        """Load a triager.

        model: a model folder, a backend, or None for the shipped model. profile: a shipped name or a TOML file.
        rules: a folder laid over the shipped rules by id. workers: windows scored side by side, default one a core.
        Raises ModelError, ProfileError, RuleError naming what is wrong.
        """
        used_profile, policy = load_profile(profile), Policy()
        if model is None or isinstance(model, str | Path):
            from triage.models.folder import SHIPPED, ModelFolder
            from triage.models.onnx import OnnxBackend

            folder = ModelFolder.open(model if model is not None else SHIPPED)
            policy = Policy.from_dict(folder.read_json("decision.json"))
            model = OnnxBackend(folder, workers)
        model.labels.check_against(used_profile)
        book = load_rules(*([Path(rules)] if rules else []))
        book.check_against(used_profile)
        return cls(model, book, used_profile, policy)

    def reload_rules(self) -> bool:
        """Read the rules again from where they came, in a running process; returns whether anything changed.

        Requests being decided finish under the old rules, later ones see only the new. Every rule is first tried on its own
        sentences. Raises RuleError that lists every fault; the old rules are then still in force.
        """
        book = load_rules(*self.rules.folders, check=True)
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
        rules = self.rules
        fingerprints, decisions = self._fingerprints(rules), list[Decision]()
        for at in range(0, len(texts), CHUNK):
            cleaned = [clean(t) for t in texts[at : at + CHUNK]]
            for one, scores in zip(cleaned, self.backend.score([c.text for c in cleaned]), strict=True):
                findings, districts = rules.apply(one), self.profile.find_districts(one)
                decisions.append(decide(one, findings, scores, districts, self.profile, self.policy, fingerprints))
        return decisions


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
