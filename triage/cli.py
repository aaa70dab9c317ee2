"""The command line: `triage predict`, `rescore`, `evaluate`, and the groups `triage rules`, `profile` and `models`."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from triage import __version__
from triage.errors import InputError, OutputError, StoppedError, TriageError

if TYPE_CHECKING:
    from triage.backlog import Outcome, Progress
    from triage.changes import Changes
    from triage.engine import Triager
    from triage.gate import Comparison
    from triage.records import Decision, HelpRequest
    from triage.registry import Registry
    from triage.rules.report import RuleReport
    from triage.sources import BadRow

EXIT_BAD_ROWS, EXIT_INPUT, EXIT_SETUP, EXIT_STOPPED, EXIT_REFUSED = 1, 2, 3, 4, 5
CHUNK = 256
COLOURS = {"critical": "bold white on red", "urgent": "bold red", "priority": "yellow", "routine": "green"}


class _Group(click.Group):
    """Turns our errors into one line on stderr and a documented exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, OutputError) as error:
            click.echo(f"triage: {error}", err=True)
            sys.exit(EXIT_INPUT)
        except StoppedError as error:
            click.echo(f"triage: {error}", err=True)
            sys.exit(EXIT_STOPPED)
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
    2 wrong use, unreadable input or an output that is not ours; 3 a faulty model, rule or profile, a missing extra;
    4 a run stopped before its end: the same command again continues it; 5 a model may not come into force.
    """


_MODEL = "a model folder, in-force, or a registered model's fingerprint; default the shipped one"


def _model_folder(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is None or value.exists():
        return value
    from triage.registry import Registry

    return Registry().find(str(value))


def _setup_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--rules", type=click.Path(path_type=Path, exists=True, file_okay=False), help="rules laid over the shipped"
        ),
        click.option("--profile", default="zhengzhou", show_default=True, help="a shipped profile or a .toml file"),
        click.option("--model", type=click.Path(path_type=Path), callback=_model_folder, help=_MODEL),
    ):
        command = option(command)
    return command


def _file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    forms = click.Choice(["jsonl", "csv", "tsv", "lines", "parquet"])
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


@main.command()
@click.argument("source")
@click.option("--out", required=True, help="file, folder/, - or database URL; the suffix tells format and compression")
@_setup_options
@_file_options
@click.option("--encoding", help="of text files; default told by content")
@click.option("--table", help="a database source: the table to read")
@click.option("--query", help="a database source: the query to read")
@click.option("--out-table", help="a database sink: the table to write; the source's own has results written back")
@click.option("--out-format", "out_form", type=click.Choice(["jsonl", "csv", "tsv", "parquet"]))
@click.option("--results", type=click.Choice(["columns", "json"]), default="columns", show_default=True)
@click.option(
    "--before", multiple=True, metavar="HEAD=COLUMN", help="where an earlier urgency, category, department stands"
)
@click.option("--duplicates", type=click.Choice(["near", "exact", "off"]), default="near", show_default=True)
@click.option("--person", help="a column that tells who wrote: others' requests are never copies")
@click.option("--chunk", default=1024, show_default=True, help="rows that become lasting together")
@click.option("--follow", is_flag=True, help="go on with what comes into a folder or table, until SIGTERM")
@click.option("--restart", is_flag=True, help="begin anew and replace what an earlier run wrote")
@click.option("--engine", type=click.Choice(["local", "spark"]), default="local", show_default=True)
@click.option("--master", default="local[*]", show_default=True, help="the Spark master")
def rescore(
    source: str, out: str, model: Path | None, profile: str, rules: Path | None, form: str | None, text_column: str,
    id_column: str, before: Sequence[str], engine: str, master: str, **options: Any,
) -> None:  # fmt: skip
    """Score every row of SOURCE again and write it to --out with its decision; a run that was interrupted is continued.

    SOURCE is a file (JSONL, CSV, TSV, lines, Parquet; gzip, zstd), a folder, a glob, - or a database URL. Report and logs
    stand in the folder OUT.rescore. docs/rescore.md tells all.
    """
    if wrong := [b for b in before if b.partition("=")[0] not in ("urgency", "category", "department", "flags")]:
        raise InputError(
            f"--before {wrong[0]}: give urgency=COLUMN, category=COLUMN, department=COLUMN or flags=COLUMN"
        )
    words = {**options, "form": form, "text_column": text_column, "id_column": id_column,
             "before": dict(b.split("=", 1) for b in before if "=" in b)}  # fmt: skip
    if engine == "spark":
        from triage import spark

        outcome = spark.rescore_files(source, out, master=master, model=model, profile=profile, rules=rules, **words)
    else:
        from triage.backlog import rescore as run
        from triage.engine import Triager

        triager = Triager.load(model, profile=profile, rules=rules)
        with _stoppable() as stop, _progress(tell_bad=out == "-") as progress:
            outcome = run(source, out, triager=triager, stop=stop, progress=progress, **words)
    for note in outcome.notes:
        click.echo(f"triage: {note}", err=True)
    _print_outcome(outcome, None if out == "-" else outcome.folder)
    sys.exit(EXIT_BAD_ROWS if outcome.bad else 0)


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C let the chunk in hand be finished; the second one ends at once."""
    stop = threading.Event()

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    kept = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def _progress(tell_bad: bool) -> Iterator[Callable[[Progress], None]]:
    """Show rate, time left and counts by urgency: a bar on a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = [BarColumn(20), TextColumn("{task.fields[told]}"), TimeRemainingColumn()]
    began, first, said = time.monotonic(), -1, time.monotonic()
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, told="")

        def show(p: Progress) -> None:
            nonlocal said, first
            now = time.monotonic()
            if first < 0:  # what an earlier run did is no part of this one's rate
                first = p.rows
            rate = (p.rows - first) / max(now - began, 1e-9)
            levels = ", ".join(f"{level} {p.urgency.get(level, 0):,}" for level in COLOURS)
            told = f"{p.rows:,} rows, {rate:,.0f} a second; {levels}"
            bar.update(task, total=None if p.share is None else 1.0, completed=p.share or 0, told=told)
            if not console.is_terminal and now - said > 30:
                said = now
                click.echo(f"triage: {told}" + ("" if p.share is None else f"; {p.share:.0%}"), err=True)
            for row in p.bad if tell_bad else ():
                click.echo(f"triage: {row}", err=True)

        yield show


def _print_outcome(outcome: Outcome, folder: Path | None) -> None:
    """Tell on stderr what was done and what it changed."""
    from rich.console import Console
    from rich.table import Table

    tally, console = outcome.changes, Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{outcome.answered:,} answered, {outcome.bad:,} bad row(s), {outcome.copies:,} copies", markup=False)
    if tally.compared:
        levels = list(COLOURS)
        table = Table(r"before \ now", *levels, title=f"urgency of {tally.compared:,} requests that had one")
        for old in levels:
            table.add_row(old, *(str(tally.heads["urgency"][old, new] or "") for new in levels))
        console.print(table)
        console.print(
            f"raised {tally.moved['raised']:,} ({tally.to_critical:,} to critical), lowered {tally.moved['lowered']:,}, "
            f"another department only {tally.moved['elsewhere']:,}"
        )
    if folder:
        console.print(f"report and logs: {folder}", markup=False)


@main.command()
@click.argument("data")
@_setup_options
@_file_options
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="write the figures here as well"
)
@click.option("--bootstrap/--no-bootstrap", default=True, help="95 % intervals from 1,000 resamples; default with")
def evaluate(
    data: str, model: Path | None, profile: str, rules: Path | None, form: str | None, text_column: str, id_column: str,
    json_path: Path | None, bootstrap: bool,
) -> None:  # fmt: skip
    """Measure the decisions on the labelled requests of DATA: all measures, groups, calibration.

    DATA is a file as for predict, with columns urgency, category, department, co_departments, flags, districts (any of them;
    several codes with commas between). Who is told by a column `voice` counts for the groups, `pair` ties contrast pairs.
    """
    from rich.console import Console

    from triage.engine import Triager
    from triage.evaluation import RESAMPLES, Report, answers, read_labelled

    triager = Triager.load(model, profile=profile, rules=rules)
    examples, faults = read_labelled(data, triager.profile, form, text_column, id_column)
    for fault in faults:
        click.echo(f"triage: {fault}", err=True)
    if not examples:
        raise InputError(f"{data}: no row can be measured; give text and at least one label")
    resamples = RESAMPLES if bootstrap else 0
    report = Report.of(examples, answers(triager, [x.text for x in examples]), resamples=resamples)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for grid in report.grids(Path(data).name):
        console.print(grid.rich())
    if json_path:
        content = {"data": Path(data).name, "fingerprints": triager.fingerprints, **report.to_dict()}
        json_path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
    sys.exit(EXIT_BAD_ROWS if faults else 0)


@main.group()
def rules() -> None:
    """Look at the rules: check them, or see what they find in a text."""


@rules.command()
@click.option("--rules", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--profile", default="zhengzhou", show_default=True, help="a shipped profile or a .toml file")
def check(folder: Path | None, profile: str) -> None:
    """Load all rules, try each on its own hit and miss sentences, match its codes with the profile's.

    Notes name the rules that another one makes superfluous.
    """
    from triage.profile import load_profile
    from triage.rules.book import load_rules
    from triage.rules.lint import shadowed

    book = load_rules(*([folder] if folder else []), check=True)
    book.check_against(load_profile(profile))
    for line in shadowed(book.rules):
        click.echo(f"note: {line}", err=True)
    click.echo(f"{len(book.rules)} rules, fingerprint {book.fingerprint}: all examples hold")


@rules.command()
@click.argument("text")
@click.option("--rules", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def explain(text: str, folder: Path | None) -> None:
    """Show every finding in TEXT: rule, words, whether it holds, and the cue that decided it; then what was dropped, and why."""
    from rich.console import Console
    from rich.table import Table

    from triage.rules.book import load_rules
    from triage.text import clean

    book, cleaned = load_rules(*([folder] if folder else [])), clean(text)
    table = Table("characters", "words", "rule", "status", "cue", "says")
    for f in book.apply(cleaned):
        says = ", ".join(x for x in (f.flag, f.urgency, f.category, f.department) if x)
        table.add_row(
            f"{f.start}-{f.end}", f.text, f.rule, f.status.value, f.cue, says + (" (floor)" if f.red_flag else "")
        )
    for d in book.dropped(cleaned):
        table.add_row(f"{d.start}-{d.end}", text[d.start : d.end], d.rule, "dropped", "", d.reason, style="dim")
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


@main.group(name="profile")
def profile_() -> None:
    """Labels, routing and places of a city or an emergency: begin a profile of your own, or check one."""


@profile_.command()
@click.argument("name")
@click.option("--like", default="flood", show_default=True, help="the shipped profile to begin from")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="the file to write; default NAME.toml")
def new(name: str, like: str, out: Path | None) -> None:
    """Write a commented profile NAME.toml to be changed; a file that exists is left alone."""
    from triage.profile import new_profile

    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise click.BadParameter("lower-case letters, digits, - and _ only, a letter first")
    path, text = out or Path(f"{name}.toml"), new_profile(name, like)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path}: exists; choose another name, or --out FILE") from None
    click.echo(f"{path}: change it, then `triage profile check {path}`")


@profile_.command(name="check")
@click.argument("profile")
def check_profile(profile: str) -> None:
    """Load PROFILE, a shipped name or a TOML file, name all its faults at once, or count what it holds."""
    from triage.profile import load_profile
    from triage.rules.book import load_rules

    city = load_profile(profile)
    counts = ", ".join(f"{len(names)} {head}" for head, names in city.labels.items())
    click.echo(f"{city.name} ({city.title}): {counts}; {len(city.districts)} districts; fingerprint {city.fingerprint}")
    if lacking := [category for category in city.labels["category"] if category not in city.routing]:
        click.echo(f"[routing] lacks {', '.join(lacking)}: rules alone cannot send these to anybody")
    flags = {rule.flag for rule in load_rules(profile=city).rules if rule.flag}
    known = [code for code in city.labels["flag"] if code in flags]
    click.echo(f"shipped rules speak for {len(known)} of {len(city.labels['flag'])} flags: {', '.join(known)}")


@main.group()
def models() -> None:
    """Which model is in force: compare a candidate, promote it, or go back."""


def _registry_option(command: Callable[..., Any]) -> Callable[..., Any]:
    def open_it(context: click.Context, parameter: click.Parameter, value: Path | None) -> Registry:
        from triage.registry import Registry

        return Registry(value)

    return click.option("--registry", type=click.Path(path_type=Path, file_okay=False), callback=open_it,
                        help="folder of models; default $TRIAGE_MODELS, else in the user's data directory")(command)  # fmt: skip


def _gate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    file = click.Path(path_type=Path, exists=True, dir_okay=False)
    for option in (
        _registry_option,
        click.option("--rules", type=click.Path(path_type=Path, exists=True, file_okay=False), help="for both models"),
        click.option("--profile", default="zhengzhou", show_default=True, help="a shipped profile or a .toml file"),
        click.option("--suite", metavar="MODULE:FUNCTION", help="behaviour tests, as training.behaviour:run"),
        click.option("--golden", type=file, help="requests that must come out right; default those of Zhengzhou"),
        click.option("--data", type=file, required=True, help="labelled requests, as for evaluate"),
    ):
        command = option(command)
    return command


def _compare(
    before: Path, after: Path, data: Path, golden: Path | None, suite: str | None, profile: str, rules: Path | None
) -> Comparison:
    """Compare two model folders, print the table and why the second is refused, if it is."""
    from rich.console import Console

    from triage.engine import Triager
    from triage.evaluation import read_labelled
    from triage.gate import GOLDEN, compare, load_golden

    old, new = (Triager.load(folder, profile=profile, rules=rules) for folder in (before, after))
    examples, faults = read_labelled(str(data), old.profile)
    if faults:  # half a file proves nothing
        raise InputError("\n".join(faults))
    must_hold = load_golden(golden or GOLDEN, old.profile)
    found = compare(old, new, examples, must_hold, _suite(suite) if suite else None)
    names = (f"before: {old.fingerprints['model']}", f"candidate: {new.fingerprints['model']}")
    Console(width=None if sys.stdout.isatty() else 140).print(found.grid(data.name, names).rich())
    for refusal in found.refusals:
        click.echo(f"refused: {refusal.why}")
        for row in refusal.rows:
            click.echo(f"  {row}")
    return found


def _suite(name: str) -> Any:
    """Import MODULE:FUNCTION, also from the folder the command is run in."""
    from importlib import import_module

    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"--suite {name}: cannot be imported ({error}); give MODULE:FUNCTION") from None


@models.command(name="list")
@_registry_option
def list_(registry: Registry) -> None:
    """Show the models that are kept, which of them is in force, and how that came to be."""
    from rich.console import Console
    from rich.table import Table

    now, before = registry.in_force(), registry.before()
    kept = Table("model", "state", "kind", "made with", title=str(registry.folder))
    for path in (registry.find("shipped"), *(registry.folder / m for m in registry.models())):
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))
        state = "in force" if path == now else f"before, {before.index(path.name) + 1}" if path.name in before else ""
        name = "shipped" if path == registry.find("shipped") else path.name
        kept.add_row(name, state, str(manifest.get("kind", "")), str(manifest.get("made with", "")))
    steps = Table("when", "what", "model", "data", "why", title="history")
    for step in registry.history():
        why = step.get("forced") or "; ".join(r["why"] for r in step.get("comparison", {}).get("refusals", []))
        steps.add_row(step["when"], step["what"], step["model"], step.get("data", ""), why)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(kept)
    console.print(steps)


@models.command(name="compare")
@click.argument("before")
@click.argument("candidate")
@_gate_options
def compare_(registry: Registry, before: str, candidate: str, **gate: Any) -> None:
    """Measure two models on the same labelled requests; exit code 5 when CANDIDATE may not replace BEFORE.

    Each is a model folder, in-force, shipped, or the fingerprint of a registered model. CANDIDATE is refused when critical recall
    or under-triage is worse by more than chance, when a golden request comes out wrong, or when it does worse in the suite.
    """
    found = _compare(registry.find(before), registry.find(candidate), **gate)
    sys.exit(EXIT_REFUSED if found.refusals else 0)


@models.command()
@click.argument("model")
@_gate_options
@click.option("--force", metavar="REASON", help="put it in force even if it is refused; the reason is kept")
def promote(registry: Registry, model: str, force: str | None, data: Path, **gate: Any) -> None:
    """Compare MODEL with what is in force and put it in force, unless it is refused (see compare). MODEL is copied."""
    from hashlib import sha256

    candidate = registry.add(registry.find(model))
    found = _compare(registry.in_force(), candidate.path, data=data, **gate)
    proof = {"data": data.name, "sha256": sha256(data.read_bytes()).hexdigest(), "comparison": found.to_dict()}
    if found.refusals and not force:
        registry.refuse(candidate.fingerprint, **proof)
        sys.exit(EXIT_REFUSED)
    forced = {"forced": force} if found.refusals else {}
    registry.promote(candidate.fingerprint, replaces=found.fingerprints[0]["model"], **forced, **proof)
    click.echo(f"{candidate.fingerprint} is in force")


@models.command()
@_registry_option
def rollback(registry: Registry) -> None:
    """Return to the model that was in force before this one."""
    click.echo(f"{registry.rollback()} is in force")


if __name__ == "__main__":
    main()
