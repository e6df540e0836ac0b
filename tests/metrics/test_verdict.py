"""The verdict: harm where there is harm, no where there is no effect, unclear where the data cannot tell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nomadiff.data.digits import blurred_and_shifted, read_digits
from nomadiff.errors import UsageError
from nomadiff.metrics.recommendation import Step
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.trained import are_like, why_untrained
from nomadiff.metrics.verdict import judge
from nomadiff.tables import Table
from nomadiff.workflows.verdict import verdict as verdict_of

BASE = {"fd_digits": 100.0, "precision": 0.7, "recall": 0.8, "coverage": 0.7, "replication": 0.2, "composition_tv": 0.1}


def rows(arms: dict[tuple[str, str], dict[str, float]], seeds: int = 4, noise: float = 0.01) -> list[dict]:
    """Rows whose metrics are the base's times or plus the arm's change, and noise that differs from seed to seed."""
    random = np.random.default_rng(0)
    result = []
    for (method, source), change in {("dm", ""): {}, **arms}.items():
        for seed in range(seeds):
            row = {"method": method, "source": source, "seed": seed, "images_seen": 1000}
            for name, value in BASE.items():
                scale = value if name == "fd_digits" else 1
                row[name] = value + scale * (change.get(name, 0.0) + noise * random.standard_normal())
            result.append(row)
    return result


def test_help_without_harm_is_recommended() -> None:
    verdict = judge(rows({("casd", "close"): {"fd_digits": -0.4, "replication": -0.15}}))
    assert verdict.find("no harm", "casd", "close").answer == "yes"
    utility = verdict.find("utility", "casd", "close")
    assert utility.answer == "yes" and utility.text.startswith("Closer to real images by 40% (fd_digits 60.1 against")
    assert "fewer copies of training images" in utility.text and "recall" not in utility.text
    assert verdict.find("adaptability", "casd").answer == "not measured"
    assert verdict.recommendation == "Use casd with source 'close': it helps and does no harm."
    assert verdict.step == Step("use", ("casd", "close"))


def test_harm_is_said_and_its_source_dropped() -> None:
    verdict = judge(
        rows(
            {
                ("casd", "close"): {"fd_digits": -0.3},
                ("casd", "style"): {"fd_digits": 0.5},
                ("sda", "style"): {"fd_digits": 3},
            }
        )
    )
    harm = verdict.find("no harm", "sda", "style")
    assert harm.answer == "no" and harm.text.startswith("Harm: farther from real images by 300% (fd_digits 4")
    assert verdict.find("adaptability", "casd").answer == "no"
    assert verdict.recommendation.startswith("Use casd with source 'close'")
    assert "Drop source 'style': it does harm with every method that was tried." in verdict.recommendation


def test_a_harmful_method_is_named_where_another_makes_the_source_useful() -> None:
    verdict = judge(rows({("casd", "style"): {"fd_digits": -0.3}, ("sda", "style"): {"fd_digits": 3}}))
    assert verdict.recommendation == (
        "Use casd with source 'style': it helps and does no harm. Do not use sda with source 'style': it does harm."
    )


def controlled(arms: dict[tuple[str, str], dict[str, float]], controls: dict[str, str]) -> list[dict]:
    return [
        {**row, **({"control": controls[row["method"]]} if row["method"] in controls else {})} for row in rows(arms)
    ]


def test_a_method_without_a_source_is_judged_by_its_name_alone() -> None:
    verdict = judge(controlled({("sims", ""): {"fd_digits": -0.3}, ("neon", ""): {"fd_digits": 2}}, {"sims": "dm"}))
    assert verdict.recommendation == "Use sims: it helps and does no harm. Do not use neon: it does harm."
    assert "\nsims: it helps. Closer to" in verdict.text() and "over all sources" not in verdict.text()
    assert {each.principle for each in verdict.statements} == {"no harm", "utility"}
    worse = judge(rows({("neon", ""): {"fd_digits": 2}})).recommendation
    assert (
        worse
        == "Train on real images only (dm): nothing that was tried helps without harm. Do not use neon: it does harm."
    )


@pytest.mark.parametrize(("own", "answer"), [(-0.5, "yes"), (-0.1, "no")])
def test_a_guided_base_must_be_better_than_that_base_trained_as_long(own: float, answer: str) -> None:
    """Of casd+sims that is casd, not dm: casd alone is better than dm, which proves nothing of SIMS."""
    same = {"fd_digits": own} if own != -0.1 else dict.fromkeys(BASE, -0.1) | {"fd_digits": own, "replication": 0.1}
    arms = {("casd", "close"): {"fd_digits": -0.3}, ("casd+sims", "close"): same}
    verdict = judge(controlled(arms, {"casd+sims": "casd"}))
    gain = verdict.find("gain", "casd+sims", "close")
    assert gain.answer == answer and gain.evidence[0].baseline == pytest.approx(70, rel=0.05)
    assert verdict.find("utility", "casd+sims", "close").answer == "yes"
    with pytest.raises(UsageError, match="no statement"):
        verdict.find("gain", "casd", "close")
    alone = judge([row for row in controlled(arms, {"casd+sims": "casd"}) if row["method"] != "casd"])
    assert "gain" not in {each.principle for each in alone.statements}


def test_class_bias_is_harm_though_the_distance_falls() -> None:
    verdict = judge(rows({("sda", "biased"): {"fd_digits": -0.3, "composition_tv": 0.2}}))
    assert verdict.find("no harm", "sda", "biased").answer == "no"
    assert "farther from the real class shares by 0.2" in verdict.find("no harm", "sda", "biased").text
    assert verdict.find("utility", "sda", "biased").answer == "yes"
    assert verdict.recommendation.startswith("Train on real images only (dm)")


def test_what_a_gain_costs_is_said() -> None:
    table = rows({("casd", "x"): {"fd_digits": -0.3, "replication": -0.15, "precision": -0.2}})
    verdict = judge(table)
    assert "At a price: fewer samples look real by 0.2" in verdict.find("utility", "casd", "x").text
    assert not any("replicate training images" in note for note in verdict.notes)
    for row in table:
        row["replication"] += 0.6
    assert any("of real-only training's samples replicate" in note for note in judge(table).notes)


def test_worse_for_sure_but_by_less_than_the_margin_is_not_harm_yet() -> None:
    table = []
    for seed, change in enumerate([1.03, 1.04, 1.045]):
        table.append({"method": "dm", "source": "", "seed": seed, "fd_digits": 10.0})
        table.append({"method": "casd", "source": "x", "seed": seed, "fd_digits": 10.0 * change})
    item = judge(table).find("no harm", "casd", "x").evidence[0]
    assert 0 < item.low < item.worse < 0.05 < item.high
    assert judge(table).find("no harm", "casd", "x").answer == "unclear"


def test_style_is_harm_and_counts_from_zero() -> None:
    table = rows({("sda", "x"): {"fd_digits": -0.3}, ("casd", "x"): {"fd_digits": -0.3}})
    for row in table:
        if row["source"]:
            row["style"] = (0.3 if row["method"] == "sda" else 0.0) + 0.01 * row["seed"]
    verdict = judge(table)
    assert verdict.find("no harm", "sda", "x").answer == "no"
    assert "more like the synthetic source by 0.3" in verdict.find("no harm", "sda", "x").text
    assert verdict.find("no harm", "casd", "x").answer == "yes"


def test_of_two_sources_each_is_set_against_its_own_style_in_real_only_training() -> None:
    """It was set against the mean over both: a source that real images look like by themselves was called harm."""
    table = rows({("casd", "a"): {}, ("casd", "b"): {}}, noise=0.001)
    for row in table:
        jitter = 0.001 * row["seed"]
        if row["method"] == "dm":
            row |= {"style": 0.25 + jitter, "style of a": 0.40 + jitter, "style of b": 0.10 + jitter}
        else:
            row["style"] = {"a": 0.42, "b": 0.20}[row["source"]] + 2 * jitter
    verdict = judge(table)
    assert verdict.find("no harm", "casd", "a").answer == "yes"
    assert verdict.find("no harm", "casd", "b").answer == "no"
    assert "more like the synthetic source by 0.1 " in verdict.find("no harm", "casd", "b").text


def test_a_sure_difference_within_the_margin_is_no_harm() -> None:
    verdict = judge(rows({("casd", "x"): {"fd_digits": 0.02, "coverage": 0.1}}, noise=0.002))
    harm = verdict.find("no harm", "casd", "x")
    assert harm.evidence[0].low > 0 and harm.answer == "yes" and "5% of fd_digits" in harm.text


def test_it_can_say_no_and_unclear() -> None:
    nothing = judge(
        rows(
            {
                ("casd", "x"): {
                    "fd_digits": 0.01,
                    "precision": -0.05,
                    "recall": -0.05,
                    "coverage": -0.05,
                    "replication": 0.05,
                }
            },
            noise=0.003,
        )
    )
    assert nothing.find("utility", "casd", "x").answer == "no"
    assert nothing.recommendation.startswith("Train on real images only (dm)")
    noisy = judge(rows({("casd", "x"): {"fd_digits": -0.2}}, seeds=3, noise=0.15))
    assert noisy.find("no harm", "casd", "x").answer == "unclear"
    assert "Do not decide yet" in noisy.recommendation
    alone = judge(rows({("casd", "x"): {"fd_digits": -0.9}}, seeds=1))
    assert alone.find("utility", "casd", "x").answer == "unclear" and "one seed" in alone.text()
    assert any("With 1 seed only" in note for note in alone.notes)


def test_seeds_that_would_settle_it_are_estimated() -> None:
    few = rows({("casd", "x"): {"fd_digits": -0.1}}, seeds=4, noise=0.08)
    verdict = judge(few)
    item = verdict.find("utility", "casd", "x").evidence[0]
    if item.needed is None:
        assert item.high < 0 or item.worse >= 0
    else:
        assert item.needed > 4
    settled = judge(rows({("casd", "x"): {"fd_digits": -0.1}}, seeds=60, noise=0.08))
    assert settled.find("utility", "casd", "x").answer == "yes"


@pytest.mark.parametrize(
    ("arms", "noise", "step"),
    [
        ({("casd", "close"): {"fd_digits": 1.0}}, 0.01, Step("use", ("dm", ""))),
        ({("casd", "close"): {"fd_digits": -0.06}}, 0.08, Step("seeds", seeds=7)),
        ({("casd", "close"): {"fd_digits": -0.4, "replication": -0.15}}, 0.01, Step("use", ("casd", "close"))),
    ],
)
def test_what_to_do_is_a_step_too(arms: dict, noise: float, step: Step) -> None:
    assert judge(rows(arms, noise=noise)).step == step


def test_arms_that_are_no_models_yet_are_to_be_trained_longer() -> None:
    table = rows({("casd", "close"): {}, ("sda", "close"): {"fd_digits": -0.4, "replication": -0.15}})
    for row in table:
        row |= {"untrained": "why"} if row["method"] == "casd" else {}
    assert judge(table).step == Step("use", ("sda", "close"))  # one that helps is there all the same
    assert judge([row | {"untrained": "why"} for row in table]).step == Step("longer")
    assert judge([row for row in table if row["method"] != "sda"]).step == Step("longer")


def test_a_true_difference_of_nothing_is_rarely_called_one() -> None:
    wrong = 0
    for trial in range(100):
        random = np.random.default_rng(trial)
        table = [
            {
                "method": method,
                "source": source,
                "seed": seed,
                "fd_digits": 100 * np.exp(0.2 * random.standard_normal()),
            }
            for (method, source), seed in itertools.product([("dm", ""), ("casd", "x")], range(4))
        ]
        wrong += judge(table).find("no harm", "casd", "x").answer == "no"
    assert wrong <= 8  # 2.5 expected


def test_pairs_by_seed_and_takes_the_last_snapshot() -> None:
    table = []
    for seed, level in enumerate([10.0, 100.0, 1000.0]):  # seeds differ wildly, the pairs do not
        table.append({"method": "dm", "source": None, "seed": seed, "images_seen": 5, "fd_digits": 7777.0})
        table.append({"method": "dm", "source": None, "seed": seed, "images_seen": 10, "fd_digits": level})
        table.append(
            {"method": "casd", "source": "x", "seed": seed, "images_seen": 10, "fd_digits": level * (0.5 + seed / 100)}
        )
    verdict = judge(table)
    assert verdict.find("utility", "casd", "x").answer == "yes"
    assert verdict.find("no harm", "casd", "x").evidence[0].worse == pytest.approx(-0.49, abs=0.001)
    assert any("Not measured: composition_tv, style" in note for note in verdict.notes)
    assert not any("different numbers" in note for note in verdict.notes)
    table[-1]["images_seen"] = 20
    assert any("different numbers of images" in note for note in judge(table).notes)


def test_table_and_text_hold_everything() -> None:
    verdict = judge(rows({("casd", "close"): {"fd_digits": -0.4}, ("casd", "style"): {"fd_digits": -0.2}}))
    table = verdict.table()
    assert {row["principle"] for row in table.rows} == {"no harm", "utility", "adaptability"}
    assert table.meta["recommendation"] == verdict.recommendation
    first = table.rows[0]
    assert first["metric"] == "fd_digits" and first["low"] < first["worse"] < first["high"] < 0
    assert "casd over all sources: it adapts to every source tried. It helps" in verdict.text()


def test_harm_on_a_style_shift_and_not_on_fresh_real_data() -> None:
    """Sample sets made from real digits: a stand-in for models that have learnt exactly what they were given."""
    pool, against = read_digits("digits:pool").images, ReferenceSet(read_digits("digits:reference").images)
    table = []
    for seed in range(4):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(1000))
        alone, fresh, other = pool[order[:300]], pool[order[300:600]], pool[order[600:900]]
        arms = {
            ("dm", ""): alone,
            ("sda", "fresh"): torch.cat([alone[:150], fresh[:150]]),
            ("sda", "style"): torch.cat([alone[:150], blurred_and_shifted(other[:150])]),
        }
        for (method, source), samples in arms.items():
            row = against.evaluate(samples)
            metrics = {name: value for name, value in row.items() if isinstance(value, float)}
            table.append({"method": method, "source": source, "seed": seed, "images_seen": 1, **metrics})
    verdict = judge(table)
    assert verdict.find("no harm", "sda", "style").answer == "no"
    assert verdict.find("no harm", "sda", "fresh").answer != "no"
    assert "Drop source 'style'" in verdict.recommendation


def two_seeds(random: np.random.Generator, arms: int, spreads: list[float], of_seed: float = 0.0) -> list[dict]:
    """Distances without any difference between arms; runs of an arm have a spread (of the logarithm) of its own."""
    seeds = of_seed * random.standard_normal(2)
    names = [("dm", ""), *(("casd", f"s{number}") for number in range(1, arms))]
    return [
        {
            "method": method,
            "source": source,
            "seed": seed,
            "fd": 10 * np.exp(seeds[seed] + s * random.standard_normal()),
        }
        for (method, source), s in zip(names, spreads)
        for seed in (0, 1)
    ]


@pytest.mark.parametrize("arms", [2, 5])
@pytest.mark.parametrize(
    ("spreads", "of_seed"), [([1] * 5, 0), ([1] * 5, 2), ([1, 3, 1, 1, 1], 0), ([3, 1, 1, 1, 1], 0)]
)
def test_an_interval_over_two_seeds_is_finite_and_covers(arms: int, spreads: list[float], of_seed: float) -> None:
    """More trials in benchmarks/intervals.py."""
    covered, widths = 0, []
    for trial in range(150):
        table = two_seeds(np.random.default_rng(trial), arms, [0.1 * s for s in spreads], 0.1 * of_seed)
        item = judge(table, distance="fd").find("no harm", "casd", "s1").evidence[0]
        covered += item.low <= 0 <= item.high
        widths.append(np.log1p(item.high) - np.log1p(item.low))
    assert covered >= 150 * 0.88  # 95 % is meant; 92.5 % where one arm's runs differ three times as much
    assert np.median(widths) < 2 if max(spreads) > 1 or of_seed else np.median(widths) < 0.95  # Student's t of one: 1.7


def test_runs_are_shown_where_they_are_few() -> None:
    table = rows({("casd", "x"): {"fd_digits": -0.4}, ("sda", "x"): {}}, seeds=2)
    text = judge(table).find("utility", "casd", "x").text
    runs = [[row["fd_digits"] for row in table if row["method"] == method] for method in ("casd", "dm")]
    shown = " against ".join(", ".join(f"{value:.3g}" for value in arm) for arm in runs)
    assert f"(fd_digits {shown}; change -" in text
    one = judge(rows({("casd", "x"): {}}, seeds=1)).text()
    assert "one seed, so no interval" in one and "inf" not in one


def test_a_run_is_not_surer_than_its_samples() -> None:
    """Two seeds that agree by chance: the resampling error inside a run is the least a run can vary by."""
    table = [
        {"method": method, "source": source, "seed": seed, "fd": value, "fd_low": value * 0.8, "fd_high": value * 1.2}
        for method, source, value in (("dm", "", 10.0), ("casd", "x", 9.0), ("sda", "x", 9.5))
        for seed in (0, 1)
    ]
    item = judge(table, distance="fd").find("utility", "casd", "x").evidence[0]
    assert item.low < -0.3 and item.high > 0.1
    bare = [{name: value for name, value in row.items() if name[-4:] not in ("_low", "high")} for row in table]
    assert judge(bare, distance="fd").find("utility", "casd", "x").answer == "yes"


def test_copies_are_what_is_said_first() -> None:
    table = rows({("casd", "close"): {"replication": -0.7, "fd_digits": 0.02}, ("sda", "close"): {"fd_digits": 3}}, 2)
    for row in table:
        row["replication"] += 0.7
    verdict = judge(table)
    assert verdict.recommendation.startswith("Training on real images only (dm) copies: 89% of its samples repeat a")
    assert " image (casd with source 'close' 19%, sda with source 'close' 90%). casd" in verdict.recommendation
    assert "ntil then train on real images only" not in verdict.recommendation
    nothing = judge([{**row, "replication": 0.9} for row in table if row["method"] != "casd"])
    assert "Get more real images: no synthetic source helps without harm." in nothing.recommendation


def raw(table: list[dict], *methods: str) -> list[dict]:
    return [{**row, "untrained": "its warm-up is not over"} if row["method"] in methods else row for row in table]


def test_arms_that_are_not_yet_models_get_no_verdict() -> None:
    table = rows({("casd", "close"): {"fd_digits": -0.4}, ("sda", "close"): {"fd_digits": -0.2}})
    nothing = judge(raw(table, "dm", "casd", "sda"))
    assert nothing.recommendation == (
        "Nothing here is yet a model (its warm-up is not over): train longer (a larger --budget) before you compare."
    )
    assert {each.answer for each in nothing.statements if each.principle != "adaptability"} == {"unclear"}
    base = judge(raw(table, "dm"))
    assert base.recommendation.startswith("dm: not yet a model") and "Use" not in base.recommendation
    one = judge(raw(table, "casd"))
    assert one.find("utility", "casd", "close").answer == "unclear"
    assert one.recommendation.startswith("casd with source 'close': not yet a model")
    assert one.recommendation.endswith("Use sda with source 'close': it helps and does no harm.")


def test_nothing_is_recommended_where_nothing_was_judged() -> None:
    """Real-only training was a model and every other arm none: "no synthetic source helps without harm", it said."""
    table = rows({("casd", "close"): {"fd_digits": -0.4}, ("sda", "close"): {"fd_digits": 3}})
    nothing = judge(raw(table, "casd", "sda"))
    assert "train longer" in nothing.recommendation and "helps without harm" not in nothing.recommendation
    assert nothing.step == Step("longer")
    one = judge(raw(table, "casd"))  # that casd does harm with it is not known
    assert "Drop source" not in one.recommendation and "Do not use sda with source 'close'" in one.recommendation


def test_arms_that_are_no_models_do_not_tell_how_models_differ() -> None:
    table = rows({("casd", "close"): {"fd_digits": -0.2}}, seeds=2)
    wild = [{"method": "sda", "source": "close", "seed": seed, "fd_digits": 60 * 5**seed} for seed in range(2)]
    alone = judge(table).find("utility", "casd", "close")
    assert judge(raw([*table, *wild], "sda")).find("utility", "casd", "close") == alone


def test_noise_is_no_model_and_a_bad_model_is_one() -> None:
    against = ReferenceSet(read_digits("digits:reference").images)
    floor = against.floor(count=400)
    noise = torch.randint(0, 256, (400, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    real = read_digits("digits:pool").images[:400]
    assert "precision 0.15, coverage 0.02" in why_untrained(against.evaluate(noise), floor)
    assert "precision 0.00" in why_untrained(against.evaluate(torch.zeros_like(noise)), floor)
    assert not are_like(noise, real, against)
    blurred = blurred_and_shifted(real)  # another style is as far from real images as noise, but not from its source
    assert why_untrained(against.evaluate(blurred), floor) and are_like(blurred[:200], blurred[200:], against)
    bad = [real[:20].repeat(20, 1, 1, 1), torch.cat([real[:100], noise[:300]]), real]
    assert [why_untrained(against.evaluate(images), floor) for images in bad] == [""] * 3
    assert why_untrained({"fd_digits": 99.0}, floor) == "" and why_untrained(against.evaluate(noise), {}) == ""


def test_bad_tables_are_told() -> None:
    good = rows({("casd", "x"): {}})
    for table, options, words in [
        (good[4:], {}, "no rows of 'dm' without a source"),
        (good[:4], {}, "no rows but those of 'dm'"),
        ([{"method": "dm"}], {}, "needs the fields method and seed"),
        (good, {"distance": "fid"}, "no distance 'fid'"),
        (good, {"level": 95}, "between 0 and 1"),
    ]:
        with pytest.raises(UsageError, match=words):
            judge(table, **options)


def test_studies_that_were_judged_otherwise_are_not_judged_together() -> None:
    """Of two studies with the same seeds the last one's dm was set against the first one's casd."""
    found = rows({("casd", "close"): {"fd_digits": -0.4}})
    known = {"detector": "digits", "detector_sha256": "a", "reference_sha256": "b", "count": 1000, "k": 5}

    def study(**change: object) -> Table:
        return Table(found, {"evaluation": {**known, **change}})

    more = [{**row, "seed": row["seed"] + 4} for row in found]
    both = verdict_of(study(), Table(more, {"evaluation": known}))
    assert both.find("utility", "casd", "close").evidence[0].seeds == 8
    verdict_of(study(), Table(more))  # a table that does not say
    for change, told in (
        ({"reference_sha256": "c"}, r"not comparable, reference differs \(table 1: b, table 2: c\)"),
        ({"count": 50}, "count differs"),
        ({"detector": "wavelets"}, "detector differs"),
    ):
        with pytest.raises(UsageError, match=told):
            verdict_of(study(), study(**change))
    with pytest.raises(UsageError, match=r"numbers of real images \(table 1: 100, table 2: 1,000\)"):
        verdict_of(study(train_count=100), study(train_count=1000))
    other = [{**row, "fd_digits": row["fd_digits"] / 2} for row in found]
    with pytest.raises(UsageError, match="table 1 and table 2 both have dm of seed 0, with other figures"):
        verdict_of(study(), Table(other, {"evaluation": known}))
    assert verdict_of(study(), study()).statements == verdict_of(study()).statements
