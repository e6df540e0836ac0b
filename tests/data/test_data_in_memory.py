"""Sources from arrays and from data sets: what is taken, and that everything else is one line."""

import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, UsageError

RGB = torch.randint(0, 256, (6, 3, 10, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
GREY = RGB[:, :1]
OPEN = {"name": "mine", "synthetic": False}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (RGB, RGB),
        (RGB.numpy(), RGB),
        (RGB.permute(0, 2, 3, 1), RGB),
        (RGB.permute(0, 2, 3, 1).numpy(), RGB),
        (GREY[:, 0].numpy(), GREY),
    ],
)
def test_layouts_of_arrays(given, expected):
    source = ImageSource.from_array(given, **OPEN)
    assert torch.equal(source.images, expected) and source.labels is None
    assert source.content_hash == ImageSource("other", expected, None, {}).content_hash
    assert source.provenance["kind"] == "real" and source.provenance["count"] == 6


def test_an_array_is_copied():
    images = RGB.clone()
    source = ImageSource.from_array(images, **OPEN)
    images.zero_()
    assert torch.equal(source.images, RGB)


def test_labels_and_names_of_arrays():
    source = ImageSource.from_array(RGB, **OPEN, labels=[0, 1, 1, 0, 1, 1], class_names=["cat", "dog"])
    assert source.class_counts == {"cat": 2, "dog": 4}
    by_number = ImageSource.from_array(RGB, **OPEN, labels=torch.tensor([3, 3, 3, 5, 5, 5]))
    assert by_number.class_counts == {"3": 3, "5": 3}


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (RGB.float(), None),
        (RGB.numpy() / 255, None),
        (RGB[:, :2], None),
        (RGB[:, :, :4], None),
        (RGB[0, 0], None),
        (RGB[:0], None),
        (RGB, [0, 1]),
        (RGB, [-1] * 6),
        (RGB, [0.5] * 6),
    ],
)
def test_wrong_arrays_are_one_line(images, labels):
    with pytest.raises(DataError, match="^mine: [^\n]*$"):
        ImageSource.from_array(images, **OPEN, labels=labels)


def test_arrays_are_resized():
    assert ImageSource.from_array(RGB[:, :, :8], **OPEN, resolution=4).images.shape == (6, 3, 4, 4)


class Pairs(Dataset):
    """As torchvision's: a length, places and ``classes``; it does not raise IndexError at its end."""

    classes = ("cat", "dog")

    def __init__(self, image):
        self.image = image

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.image(RGB[index % 6]), index % 2


@pytest.mark.parametrize(
    "image",
    [
        lambda x: Image.fromarray(x.permute(1, 2, 0).numpy()),
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: x.permute(1, 2, 0).numpy(),
        lambda x: x.float() / 255,
        lambda x: Image.fromarray(x.permute(1, 2, 0).numpy()).convert("RGBA"),
    ],
)
def test_a_torch_dataset(image):
    source = ImageSource.from_dataset(Pairs(image), **OPEN)
    assert torch.equal(source.images, RGB)
    assert source.class_counts == {"cat": 3, "dog": 3} and source.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_iterables_of_images():
    assert torch.equal(ImageSource.from_dataset(list(RGB), **OPEN).images, RGB)
    assert torch.equal(ImageSource.from_dataset((x.numpy() for x in GREY[:, 0]), **OPEN).images, GREY)
    assert torch.equal(ImageSource.from_dataset(TensorDataset(RGB), **OPEN).images, RGB)
    named = ImageSource.from_dataset([(x, "dog" if i else "cat") for i, x in enumerate(RGB)], **OPEN)
    assert named.class_counts == {"cat": 1, "dog": 5}
    numbers = ImageSource.from_dataset([(x, torch.tensor(7)) for x in RGB], **OPEN)
    assert numbers.class_counts == {"7": 6}


class Stream(IterableDataset):
    """One with a length, which torch's base class gives places that it does not have."""

    def __len__(self):
        return 6

    def __iter__(self):
        return iter(RGB)


def test_an_iterable_dataset_with_a_length():
    assert torch.equal(ImageSource.from_dataset(Stream(), **OPEN).images, RGB)


def test_grey_and_colour_become_colour():
    assert ImageSource.from_dataset([GREY[0], RGB[1]], **OPEN).images.shape == (2, 3, 10, 10)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([RGB[0], RGB[1].float() / 127.5 - 1], "item 1"),
        ([RGB[0], (RGB[1], 1)], "no label"),
        ([RGB], "item 0"),  # a batch of a DataLoader
        ([RGB[0], RGB[1, :, :8, :8]], "item 1"),
        ([RGB[0, :, :8]], "item 0"),
        ([(RGB[0], 1, 2)], "item 0"),
        ([(RGB[0], 0.5)], "label"),
        (["photo.png"], "item 0"),
        ([RGB[0].float() * float("nan")], "item 0"),
        ([], "no images"),
        ({"image": RGB}, "item 0"),
    ],
)
def test_wrong_items_are_one_line_that_names_them(items, says):
    with pytest.raises(DataError, match=f"^mine[^\n]*{says}[^\n]*$"):
        ImageSource.from_dataset(items, **OPEN)


@pytest.mark.parametrize("given", [RGB, RGB.numpy(), Pairs(lambda x: x), [RGB[0]], 3])
def test_open_says_where_memory_belongs(given):
    with pytest.raises(UsageError, match=r"from_array[^\n]*from_dataset"):
        ImageSource.open(given, **OPEN)


def test_open_takes_a_source_as_it_takes_a_set():
    source = ImageSource.from_array(RGB, name="mine", synthetic=False, labels=[0, 1] * 3)
    assert ImageSource.open(source, **OPEN) is source
    part = ImageSource.open(source, name="real", synthetic=False, classes="1", subset="first:2", resolution=5)
    assert part.name == "real" and part.images.shape == (2, 3, 5, 5) and part.labels.tolist() == [1, 1]
    made = ImageSource.from_array(RGB, name="made", synthetic=True)
    with pytest.raises(UsageError, match="made: this source is synthetic"):
        ImageSource.open(made, name="reference", synthetic=False)
    forced = ImageSource.open(made, name="reference", synthetic=False, allow_synthetic_as_real=True)
    assert torch.equal(forced.images, RGB)


def test_sources_and_mixes_go_to_other_processes():
    real = ImageSource.from_array(RGB, **OPEN, labels=[0, 1] * 3, class_names=["cat", "dog"])
    other = pickle.loads(pickle.dumps(real))
    assert torch.equal(other.images, real.images) and torch.equal(other.labels, real.labels)
    assert (other.content_hash, other.class_counts) == (real.content_hash, real.class_counts)
    mix = SourceMix(real, [ImageSource.from_array(RGB, name="made", synthetic=True, labels=[0] * 6)])
    assert torch.equal(pickle.loads(pickle.dumps(mix)).batch(0, 8, 1).images, mix.batch(0, 8, 1).images)
