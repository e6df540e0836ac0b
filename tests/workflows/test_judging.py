"""The first lines of a report: the verdict on each arm, with what decides it."""

from nomadiff.workflows.judging import _findings


def rows(**casd):
    """Four seeds of real-only training and of CASD, with a little spread."""
    base = {"fd_digits": 20.0, "precision": 0.8, "recall": 0.8, "coverage": 0.8, "replication": 0.4, "style": 0.02}
    found = []
    for seed, change in enumerate((0.99, 1.0, 1.0, 1.01)):
        for method, source, values in (("dm", "", base), ("casd", "made", {**base, **casd})):
            scaled = {name: value * change for name, value in values.items()}
            found.append({"method": method, "source": source, "seed": seed, "images_seen": 10, **scaled})
    return found


def test_harm_is_told_with_the_metric_that_shows_it():
    texts = [finding.text for finding in _findings(rows(style=0.4, replication=0.0))[0]]
    (told,) = [text for text in texts if text.startswith("CASD")]
    assert "harm, though it helps in part" in told
    assert "style 0.4 against 0.02" in told and "replication 0 against 0.4" in told


def test_metrics_that_decide_nothing_are_left_to_the_table():
    (told,) = [finding.text for finding in _findings(rows(fd_digits=10.0))[0] if finding.text.startswith("CASD")]
    assert "no harm" in told and "fd_digits 10 against 20" in told and "style" not in told
