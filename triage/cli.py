"""The command line: `triage predict`, `triage rules check | explain | report | suggest`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triage import __version__
from triage.errors import InputError, TriageError

if TYPE_CHECKING:
    from triage.changes import Changes
    from triage.engine import Triager
    from triage.records import Decision, HelpRequest
    from triage.rules.report import RuleReport
    from triage.sources import BadRow

EXIT_BAD_ROWS, EXIT_INPUT, EXIT_SETUP = 1, 2, 3
CHUNK = 256
COLOURS = {"critical": "bold white on red", "urgent": "bold red", "priority": "yellow", "routine": "green"}


class _Group(click.Group):
    """Turns our errors into one line on stderr and a documented exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"triage: {error}", err=True)
            sys.exit(EXIT_INPUT)
        except TriageError as error:
            click.echo(f"triage: {error}", err=True)
            sys.exit(EXIT_SETUP)
        except BrokenPipeError:  # the reader of our output has gone; nothing is wrong
            sys.stderr.close()
            sys.exit(0)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Read citizens' requests for help, in Chinese: what about, how urgent, who must act, and why.

    Exit codes: 0 all answered; 1 some rows were bad (named on stderr), the others are answered;
    2 wrong use or unreadable input; 3 a faulty model, rule or profile.
    """


def _setup_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--rules", type=click.Path(path_type=Path, exists=True, file_okay=False), help="rules laid over the shipped"
        ),
        click.option("--profile", default="zhengzhou", show_default=True, help="a shipped profile or a .toml file"),
        click.option("--model", type=click.Path(path_type=Path), help="a model folder; default the shipped one"),
    ):
        command = option(command)
    return command


def _file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    forms = click.Choice(["jsonl", "csv", "tsv", "lines"])
    for option in (
        click.option("--id-column", default="id", show_default=True),
        click.option("--text-column", default="text", show_default=True),
        click.option("--format", "form", type=forms, help="default: by suffix or content"),
    ):
        command = option(command)
    return command


def _labelled(
    data: str, form: str | None, text_column: str, id_column: str
) -> tuple[list[HelpRequest], int]:  # fmt: skip
    """Read labelled requests; name the bad ones on stderr. Returns the good ones and the exit code."""
    from triage.rules.report import Truth
    from triage.sources import read_requests, split_bad

    requests, bad = split_bad(list(read_requests(data, form, text_column, id_column)))
    faults, good = [str(row) for row in bad], []
    for request in requests:
        try:
            Truth.of(request)
        except InputError as error:
            faults.append(f"{data}: {error}")
        else:
            good.append(request)
    for fault in faults:
        click.echo(f"triage: {fault}", err=True)
    return good, EXIT_BAD_ROWS if faults else 0


@main.command()
@click.argument("source")
@_setup_options
@click.option("--json", "as_json", is_flag=True, help="JSON for a single text, too")
@_file_options
def predict(
    source: str, model: Path | None, profile: str, rules: Path | None, as_json: bool, form: str | None, text_column: str,
    id_column: str,
) -> None:  # fmt: skip
    """Triage SOURCE: a text, a file (JSONL, CSV, TSV, plain lines), or - for standard input.

    A text gives a card for people; a file gives JSONL on stdout, one object a request, in input order.
    """
    from triage.engine import Triager
    from triage.sources import read_requests

    is_file = source == "-" or Path(source).is_file() if len(source) < 4096 else False
    if not is_file and form is None and _looks_like_a_path(source):
        raise InputError(f"{source}: no such file; give an existing file, - or the text itself")
    if is_file or form is not None:
        items = list(read_requests(source, form, text_column, id_column))
        sys.exit(_predict_file(Triager.load(model, profile=profile, rules=rules), items))
    decision = Triager.load(model, profile=profile, rules=rules).predict(source)
    if as_json:
        click.echo(json.dumps(decision.to_dict(), ensure_ascii=False))
    else:
        _card(decision)


def _looks_like_a_path(source: str) -> bool:
    return Path(source).suffix.lower() in {".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".json", ".xlsx", ".parquet"}


def _predict_file(triager: Triager, items: Sequence[HelpRequest | BadRow]) -> int:
    """Write one JSON object a good row to stdout, bad rows to stderr; return the exit code."""
    from triage.sources import split_bad

    requests, bad = split_bad(items)
    for row in bad:
        click.echo(f"triage: {row}", err=True)
    for chunk in _with_progress([requests[i : i + CHUNK] for i in range(0, len(requests), CHUNK)], len(requests)):
        for request, decision in zip(chunk, triager.predict_many([r.text for r in chunk]), strict=True):
            click.echo(json.dumps({"id": request.id, **decision.to_dict()}, ensure_ascii=False))
    if bad:
        click.echo(f"triage: {len(requests)} answered, {len(bad)} bad row(s) left out", err=True)
    return EXIT_BAD_ROWS if bad else 0


def _with_progress(chunks: Sequence[Sequence[HelpRequest]], total: int) -> Iterator[Sequence[HelpRequest]]:
    if not sys.stderr.isatty():
        yield from chunks
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("triage"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("triage", total=total)
        for chunk in chunks:
            yield chunk
            progress.advance(task, len(chunk))


def _card(decision: Decision) -> None:
    """Print one decision for people: the request with its evidence marked, the labels, the reasons."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    body = Text(decision.text)
    for finding in decision.findings:
        body.stylize("bold reverse" if finding.holds else "dim strike", finding.start, finding.end)
    table = Table.grid(padding=(0, 2))
    urgency = decision.urgency
    table.add_row("紧急程度", Text(f" {urgency.name} ", COLOURS[urgency.code]) + f" {urgency.code} {urgency.score:.2f}")
    table.add_row("诉求类别", f"{decision.category.name} {decision.category.code} {decision.category.score:.2f}")
    others = "".join(f"，协办 {d.name} {d.code}" for d in decision.co_departments)
    table.add_row(
        "责任部门", f"{decision.department.name} {decision.department.code} {decision.department.score:.2f}{others}"
    )
    table.add_row("风险标签", "，".join(f"{f.name} {f.code} {f.score:.2f}" for f in decision.flags) or "-")
    table.add_row("属地", "，".join(decision.districts) or "-")
    table.add_row("人工复核", "需要" if decision.needs_review else "不需要")
    console = Console()
    console.print(Panel(body))
    console.print(table)
    for reason in decision.reasons:
        console.print(f"• {reason}", markup=False, highlight=False)


@main.group()
def rules() -> None:
    """Look at the rules: check them, or see what they find in a text."""


@rules.command()
@click.option("--rules", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--profile", default="zhengzhou", show_default=True, help="a shipped profile or a .toml file")
def check(folder: Path | None, profile: str) -> None:
    """Load all rules, try each on its own hit and miss sentences, and match its codes with the profile's."""
    from triage.profile import load_profile
    from triage.rules.book import load_rules

    book = load_rules(*([folder] if folder else []), check=True)
    book.check_against(load_profile(profile))
    click.echo(f"{len(book.rules)} rules, fingerprint {book.fingerprint}: all examples hold")


@rules.command()
@click.argument("text")
@click.option("--rules", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def explain(text: str, folder: Path | None) -> None:
    """Show every finding in TEXT: rule, words, whether it holds, and the cue that decided it."""
    from rich.console import Console
    from rich.table import Table

    from triage.rules.book import load_rules
    from triage.text import clean

    table = Table("characters", "words", "rule", "status", "cue", "says")
    for f in load_rules(*([folder] if folder else [])).apply(clean(text)):
        says = ", ".join(x for x in (f.flag, f.urgency, f.category, f.department) if x)
        table.add_row(
            f"{f.start}-{f.end}", f.text, f.rule, f.status.value, f.cue, says + (" (floor)" if f.red_flag else "")
        )
    Console().print(table)


@rules.command()
@click.argument("data", type=click.Path(exists=True, dir_okay=False))
@_setup_options
@_file_options
@click.option(
    "--json", "as_json", is_flag=True, help="one object a rule, with the ids of wrong requests; last, the changes"
)
@click.option("--least", default=1, show_default=True, help="leave out rules that hold in fewer requests")
def report(
    data: str, model: Path | None, profile: str, rules: Path | None, form: str | None, text_column: str, id_column: str,
    as_json: bool, least: int,
) -> None:  # fmt: skip
    """Measure every rule on the labelled requests of DATA; with --rules, show as well what decisions they change.

    DATA is a file as for predict, with columns urgency, category, department, flags (any of them).
    """
    from triage.profile import load_profile
    from triage.rules.book import load_rules
    from triage.rules.report import report as measure

    requests, code = _labelled(data, form, text_column, id_column)
    book = load_rules(*([rules] if rules else []))
    book.check_against(load_profile(profile))
    measured = measure(book, requests)
    shown = sorted((r for r in measured if r.holds >= least), key=lambda r: (-r.holds, r.rule))
    changes = _changes(model, profile, rules, requests) if rules else None
    if as_json:
        for row in shown:
            click.echo(json.dumps(row.to_dict(), ensure_ascii=False))
        if changes:
            click.echo(json.dumps({"changes": changes.to_dict()}, ensure_ascii=False))
    else:
        _print_report(shown, measured, requests)
        if changes:
            _print_changes(changes, requests)
    sys.exit(code)


def _changes(model: Path | None, profile: str, rules: Path, requests: Sequence[HelpRequest]) -> Changes:
    """Compare the decisions with and without a folder of rules; the model is loaded once."""
    from triage.changes import compare
    from triage.engine import Triager

    texts = [r.text for r in requests]
    before = Triager.load(model, profile=profile)
    after = Triager.load(before.backend, profile=profile, rules=rules)
    after.policy = before.policy
    return compare(before.predict_many(texts), after.predict_many(texts))


def _print_report(shown: Sequence[RuleReport], measured: Sequence[RuleReport], requests: Sequence[HelpRequest]) -> None:
    from rich.console import Console
    from rich.table import Table

    from triage.rules.report import HEADS, totals

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    table = Table(
        "rule", "holds", "silenced", "only it", *HEADS, "against", title=f"{len(requests)} requests; share right"
    )
    table.columns[0].no_wrap = True
    for r in shown:
        table.add_row(r.rule, str(r.holds), str(r.silenced), str(r.only), *(share(r.precision(h)) for h in HEADS),
                      ", ".join(f"{other} {n}" for other, n in r.against.most_common(1)))  # fmt: skip
    table.add_section()
    table.add_row("all", "", "", "", *(share(v) for v in totals(measured).values()), "")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _print_changes(changes: Changes, requests: Sequence[HelpRequest]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("head", "before", "after", "requests", title=f"what the folder changes in {changes.total} decisions")
    for head in ("urgency", "category", "department"):
        for (old, new), n in getattr(changes, head).most_common():
            table.add_row(head, old, new, str(n))
    for flag, n in sorted(changes.flags.items()):
        table.add_row("flag", *(("", flag[1:]) if flag[0] == "+" else (flag[1:], "")), str(n))
    for name, indices in (("raised", changes.raised), ("lowered", changes.lowered)):
        if indices:
            table.add_row(name, "", ", ".join(requests[i].id for i in indices[:20]), str(len(indices)))
    Console().print(table)


@rules.command()
@click.argument("data", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--label", required=True, help="what the words should tell: flag=cardiac, urgency=critical, category=care ..."
)
@click.option("--rules", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_file_options
@click.option("--most", default=30, show_default=True)
def suggest(
    data: str, label: str, folder: Path | None, form: str | None, text_column: str, id_column: str, most: int
) -> None:
    """Show words that speak for a label in the labelled requests of DATA and that no rule knows."""
    from rich.console import Console
    from rich.table import Table

    from triage.rules.book import load_rules
    from triage.rules.suggest import suggest as find

    head, _, wanted = label.partition("=")
    requests, code = _labelled(data, form, text_column, id_column)
    table = Table("word", "with the label", "in all", "chi-square", title=f"{label}: {len(requests)} requests")
    for s in find(load_rules(*([folder] if folder else [])), requests, head, wanted, most):
        table.add_row(s.word, str(s.right), str(s.told), f"{s.chi2:.1f}")
    Console().print(table)
    sys.exit(code)


if __name__ == "__main__":
    main()
