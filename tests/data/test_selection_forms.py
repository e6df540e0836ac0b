import numpy as np
import pytest

from nomadiff.data.selection import parse_subset
from nomadiff.errors import UsageError


def test_range_leaves_its_end_out_and_meets_first():
    assert parse_subset("range:3:6")(10, None).tolist() == [3, 4, 5]
    assert parse_subset("range:0:4")(10, None).tolist() == parse_subset("first:4")(10, None).tolist()


def test_each_takes_the_first_of_every_class_in_order():
    labels = np.array([2, 0, 2, 1, 0, 1, 2, 0])
    assert parse_subset("each:2")(8, labels).tolist() == [0, 1, 2, 3, 4, 5]
    assert parse_subset("each:1")(8, labels).tolist() == [0, 1, 3]


@pytest.mark.parametrize("text", ["range:5:5", "range:6:5", "range:3", "each:0", "each:", "first:0", "last:3", ""])
def test_malformed_subsets_are_refused(text):
    with pytest.raises(UsageError, match="expected first:N"):
        parse_subset(text)


def test_too_few_images_or_no_labels():
    with pytest.raises(UsageError, match="only 4 images"):
        parse_subset("range:2:5")(4, None)
    with pytest.raises(UsageError, match="a class has only 1"):
        parse_subset("each:2")(3, np.array([0, 0, 1]))
    with pytest.raises(UsageError, match="no class labels"):
        parse_subset("each:2")(3, None)
