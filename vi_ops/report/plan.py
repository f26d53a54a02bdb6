"""A plan as a person reads it: findings, steps with reason and effect, what waits, what is right, the sum."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from rich.console import Console

from vi_ops.plan.step import Change, Effect, Finding, Param, Plan, Playbook, PveCall, Step, WaitUntil
from vi_ops.report.table import print_table
from vi_ops.report.text import Page, count

_AT_CYCLE = "at the next power cycle"


def show_plan(plan: Plan, console: Console) -> None:
    """Print one plan in full."""
    page = Page(console.width)
    page.head(plan.subject)
    _add_findings(page, plan.findings)
    if plan.is_blocked:
        _add_list(page, "Would be done", [step.title or step.key for step in plan.steps], "- ", "")
    else:
        _add_steps(page, plan.steps)
    _add_list(page, "Would be lost for good", plan.losses, "- ", "red")
    _add_list(page, "Waits for a power cycle", plan.waiting, "~ ", "yellow")
    _add_list(page, "Already right", plan.unchanged, "= ", "green")
    _add_list(page, "Not in this plan", plan.later, "> ", "cyan")
    page.gap()
    page.add(closing_line(plan), style="bold red" if plan.is_blocked else "bold")
    page.show(console)


def show_plans(plans: Sequence[Plan], console: Console) -> None:
    """Print several plans: a line for each, then the details of those that have any; one alone in full."""
    if len(plans) == 1:
        show_plan(plans[0], console)
        return
    rows = [
        (plan.subject, outcome_of(plan), str(len(plan.waiting) or "-"), ", ".join(_codes(plan)) or "-")
        for plan in plans
    ]
    print_table(console, ("VM", "PLAN", "WAITING", "FINDINGS"), rows)
    for plan in plans:
        if plan.steps or plan.findings or plan.waiting:
            console.print()
            show_plan(plan, console)


def outcome_of(plan: Plan) -> str:
    """A plan in two words: `blocked`, `nothing to do`, `3 changes`."""
    if plan.is_blocked:
        return "blocked"
    return done_words(plan, with_playbooks=not plan.changes)


def done_words(plan: Plan, *, with_playbooks: bool = True) -> str:
    """What a plan does, before it is carried out or after: `3 changes and the base playbook`."""
    words = [count(len(plan.changes), "change")] if plan.changes else []
    words += [f"the {name} playbook" for name in plan.playbooks if with_playbooks]
    return " and ".join(words) or "nothing to do"


def closing_line(plan: Plan) -> str:
    """The sum of a plan."""
    waits = f"{len(plan.waiting)} {'waits' if len(plan.waiting) == 1 else 'wait'} for a power cycle"
    if plan.is_blocked:
        blocking = sum(finding.blocks for finding in plan.findings)
        return f"blocked by {count(blocking, 'finding')}: nothing will be written"
    parts = [done_words(plan)] if plan.steps else []
    parts += [waits] if plan.waiting else []
    parts += [f"{len(plan.losses)} lost for good"] if plan.losses else []
    parts += [count(len(plan.findings), "finding")] if plan.findings else []
    if not plan.steps:
        nothing = "nothing to do" if plan.findings else f"nothing to do: {plan.subject} is as described"
        return "; ".join([nothing, *parts])
    return ", ".join(parts)


def _codes(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(finding.code for finding in plan.findings))


def _add_findings(page: Page, findings: Sequence[Finding]) -> None:
    if not findings:
        return
    page.head("Findings")
    for finding in sorted(findings, key=lambda one: not one.blocks):
        mark, style = ("x ", "bold red") if finding.blocks else ("! ", "yellow")
        page.add(f"[{finding.code}] {finding.message}", prefix=f"  {mark}", prefix_style=style)
        if finding.hint:
            page.add(finding.hint, prefix="    hint: ", prefix_style="dim")


def _add_list(page: Page, title: str, sentences: Sequence[str], mark: str, style: str) -> None:
    if sentences:
        page.head(title)
        for sentence in sentences:
            page.add(sentence, prefix=f"  {mark}", prefix_style=style)


def _add_steps(page: Page, steps: Sequence[Step]) -> None:
    if not steps:
        return
    page.head("Steps")
    for number, step in enumerate(steps, start=1):
        page.add(step.title or step.key, prefix=f" {number:2}  ", prefix_style="bold")
        page.add(step.because, prefix="     because ", prefix_style="dim", style="dim")
        if not isinstance(step.do, WaitUntil):
            page.add(_how(step), prefix="     ", style="dim")
        if step.changes:
            _add_changes(page, step.changes)
        elif isinstance(step.do, PveCall) and step.do.method != "DELETE":
            _add_params(page, step.do.shown_params)


def _how(step: Step) -> str:
    effects = {change.effect for change in step.changes} or {step.effect}
    when = "now" if Effect.NOW in effects else _AT_CYCLE
    if len(effects) > 1:
        when = f"now and {_AT_CYCLE}"
    if isinstance(step.do, PveCall):
        return f"{when}, by {step.do.method} {step.do.path}"
    return f"{when}, by playbook {step.do.name} on {step.do.host}" if isinstance(step.do, Playbook) else when


def _add_changes(page: Page, changes: Sequence[Change]) -> None:
    longest = max(len(change.key) for change in changes)
    for change in changes:
        words = f"{change.before or '(none)'} -> {change.after or '(none)'}"
        if change.effect is Effect.POWER_CYCLE:
            words += f", {_AT_CYCLE}"
        page.add(words, prefix=f"       {change.key:{longest}}  ", prefix_style="cyan")


def _add_params(page: Page, params: dict[str, Param]) -> None:
    longest = max((len(key) for key in params), default=0)
    for key, value in params.items():
        page.add(_words(key, value), prefix=f"       {key:{longest}}  ", prefix_style="cyan")


def _words(key: str, value: Param) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value)
    if key == "memory":
        return f"{value} MiB"
    if key == "sshkeys":
        return ", ".join(_short_key(line) for line in unquote(str(value)).splitlines() if line.strip())
    return str(value)


def _short_key(line: str) -> str:
    """`ssh-ed25519 ...HnJmcXo me@laptop`: enough to know a key by."""
    kind, key, *comment = line.split(maxsplit=2)
    return " ".join((kind, f"...{key[-8:]}", *comment))
