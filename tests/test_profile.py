"""A profile names labels and places; the district of a request is where the help must go."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from triage.cli import main
from triage.errors import ProfileError
from triage.profile import SHIPPED, Profile, load_profile
from triage.text import clean


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_profile_loads_and_routes_every_category(path: Path) -> None:
    profile = load_profile(path)
    assert set(profile.routing) == set(profile.labels["category"])


def test_zhengzhou_has_all_sixteen_districts_and_hundreds_of_places(profile: Profile) -> None:
    assert len(profile.districts) == 16
    assert len(profile._places) > 800


@pytest.mark.parametrize(
    ("text", "districts"),
    [
        ("家住惠济区，家里有老人", ("惠济区",)),
        ("管城區的，出不去", ("管城回族区",)),
        ("我在富士康上班", ("航空港区",)),
        ("人在龙子湖校区", ("郑东新区",)),
        ("从中牟送到郑州七院", ("经开区", "中牟县")),
        ("急需从濮阳市油田医院到郑州第七人民医院手术治疗", ("经开区",)),
        ("登封市，急需止疼药", ("登封市",)),
        ("没有说在哪里", ()),
    ],
)
def test_the_district_is_found(profile: Profile, text: str, districts: tuple[str, ...]) -> None:
    assert profile.find_districts(clean(text)) == districts


def test_all_faults_of_a_profile_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[category]\na="甲"\n[urgency]\ncritical="特急"\nurgent="紧急"\npriority="较急"\nroutine="一般"\n'
                    '[department]\nd="部"\n[flag]\nf="旗"\n[routing]\nb="d"\n[[district]]\nname="东区"\nplaces=["桥"]\n'
                    '[[district]]\nname="西区"\nplaces=["桥"]\n', "utf-8")  # fmt: skip
    with pytest.raises(ProfileError) as error:
        load_profile(path)
    assert "routing: b = 'd'" in str(error.value)
    assert "'桥' lies in both 东区 and 西区" in str(error.value)


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProfileError, match=r"no profile 'atlantis'; shipped are .*zhengzhou"):
        load_profile("atlantis")


@pytest.mark.parametrize("like", ["flood", "zhengzhou"])
def test_a_new_profile_is_begun_loads_as_it_is_and_is_never_overwritten(tmp_path: Path, like: str) -> None:
    path = tmp_path / "quake.toml"
    ask = ["profile", "new", "quake", "--like", like, "--out", str(path)]
    assert CliRunner().invoke(main, ask).exit_code == 0
    begun = path.read_text("utf-8")
    assert "# Begun" not in begun
    assert begun.startswith("# quake, begun from")
    profile = load_profile(path)
    assert profile.name == "quake"
    assert profile.labels == load_profile(like).labels
    assert len(profile.districts) == 1
    path.write_text("mine", "utf-8")
    again = CliRunner().invoke(main, ask)
    assert again.exit_code == 2
    assert "exists" in again.output
    assert path.read_text("utf-8") == "mine"


@pytest.mark.parametrize("name", ["地震", "../quake", "Quake", ""])
def test_a_profile_has_a_plain_name(tmp_path: Path, name: str) -> None:
    assert CliRunner().invoke(main, ["profile", "new", name, "--out", str(tmp_path / "x.toml")]).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_profile_is_counted_and_its_faults_are_named(tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["profile", "check", "flood"])
    assert told.exit_code == 0
    assert "11 category" in told.output
    assert "cardiac" in told.output
    (tmp_path / "half.toml").write_text("[category]\na = '甲'\n", "utf-8")
    told = CliRunner().invoke(main, ["profile", "check", str(tmp_path / "half.toml")])
    assert told.exit_code == 3
    assert "[urgency] is missing" in told.output
    assert "[flag] is missing" in told.output
