"""``nomadiff demo``."""

from __future__ import annotations

from pathlib import Path

from nomadiff.cli.answer import Answer, facts
from nomadiff.cli.options import Device, DryRun, Images, Out

__all__ = ["demo"]


def demo(
    *,
    out: Out = Path("demo-run"),
    seeds: tuple[int, ...] = (0, 1),
    budget: Images | None = None,
    workers: int | None = None,
    device: Device = "cpu",
    dry_run: DryRun = False,
) -> Answer:
    """Few real digits, many synthetic ones, three methods: trained, compared and reported in minutes.

    An example:

    nomadiff demo --out demo-run

    Trains dm, sda and casd on 100 real 8x8 digits with a close and a style-shifted synthetic source, and judges them by
    797 digits that no model saw.

    Args:
        out: runs, metrics.json and report.html.
        seeds: Seeds. Each draws its own 100 real digits.
        budget: Images each model sees, if not the demo's own.
        workers: Models trained side by side; by default one a CPU core.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.cli.compare import answer_of
    from nomadiff.files import check_output
    from nomadiff.reproduce.demo import demo_comparison, run_demo
    from nomadiff.workflows.compare import plan_comparison

    if not dry_run:
        check_output(out, "folder")
    comparison = demo_comparison(out, seeds=seeds, budget=budget, workers=workers, device=device)
    if dry_run:
        plan = plan_comparison(comparison)
        return Answer(text=plan, value=facts(plan))
    return answer_of(comparison, run_demo(comparison))
