"""What `producer plan` prints."""

from dataclasses import asdict, fields
from typing import Any

from captioning.terminal import count
from producer.plan import Plan
from producer.plan.estimate import CONFIDENCE, Estimate
from producer.render import print_json, print_text

_LIMITS = {
    "reading": "reading the files is the limit",
    "decoding": "decoding is the limit",
    "model": "the model is the limit",
    "cores": "the processor's cores are the limit",
}
_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """Print how many images there are and how long they take."""
    if as_json:
        print_json(plan_json(plan))
        return
    print_text(_found_text(plan))
    if plan.estimate is None:
        print_text("Nothing to do.")
        return
    estimate = plan.estimate
    low, high = duration(estimate.low_seconds), duration(estimate.high_seconds)
    print_text(
        f"About {duration(estimate.seconds)} with {_machines(plan.workers)}"
        f" ({low} to {high}, {100 * CONFIDENCE:.0f} %)."
    )
    print_text(_rate_text(plan, estimate))


def _found_text(plan: Plan) -> str:
    known = plan.preview.known if plan.preview is not None else 0
    failed = plan.preview.failed_before if plan.preview is not None else 0
    text = f"{_counted(plan.found)} ({size(plan.bytes)})"
    parts = [f"{known:,} {'has a caption' if known == 1 else 'have captions'}"] if known else []
    parts += [f"{failed:,} failed before"] if failed else []
    return f"{text}, of which {' and '.join(parts)}." if parts else f"{text}."


def _rate_text(plan: Plan, estimate: Estimate) -> str:
    failed = f", of which {plan.failed} cannot be captioned" if plan.failed else ""
    rate = f"{_rate(estimate.images_per_second)} images/s; {_LIMITS[estimate.limit]}."
    return f"{rate} Measured: {_counted(plan.measured)}{failed}."


def _machines(workers: int) -> str:
    return "one worker on this machine" if workers == 1 else f"{count(workers, 'worker')} on machines like this one"


def _counted(images: int) -> str:
    return f"{images:,} image{'' if images == 1 else 's'}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def size(number: float) -> str:
    """Return bytes in the unit that fits, for people: `1.1 TB`."""
    unit = 0
    while number >= 999.5 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.1f} {_UNITS[unit]}" if unit and number < 9.95 else f"{number:.0f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Return seconds as precisely as an estimate is: `45 s`, `12 min`, `5 h 20 min`, `3 days 4 h`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, tens = divmod(round(minutes / 10), 6)
    if hours < 48:
        return f"{hours} h {tens}0 min" if tens else f"{hours} h"
    days, rest = divmod(round(seconds / 3600), 24)
    return f"{days} days {rest} h" if rest else f"{days} days"


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON has it. Times are null when nothing is to be captioned."""
    known = plan.preview
    return {
        "scanned": plan.found,
        "bytes": plan.bytes,
        "new": plan.to_caption,
        "known": None if known is None else known.known,
        "failed_before": None if known is None else known.failed_before,
        "workers": plan.workers,
        **_times(plan.estimate),
        "measured": plan.measured,
        "measured_failed": plan.failed,
        "skipped": sum(plan.skipped.values()),
        "skipped_kinds": dict(plan.skipped),
    }


def _times(estimate: Estimate | None) -> dict[str, Any]:
    values = dict.fromkeys((field.name for field in fields(Estimate)), None) if estimate is None else asdict(estimate)
    rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in values.items()}
    return rounded | {"confidence": CONFIDENCE}
