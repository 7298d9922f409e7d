"""Bodies that learn without labels: what they are shown, and what comes of it."""

import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from tests.made import noise
from torch import Tensor, nn

from dflmoe.core.pretraining import (
    LOOKED_AT,
    Pretraining,
    nt_xent,
    pretrained,
    spread_of,
    told_apart,
)
from dflmoe.core.stacking import initial, stacked_call
from dflmoe.core.views import view
from dflmoe.data.formats import FORMS, Part
from dflmoe.data.pretraining import MIN_ROWS, pretrained_body
from dflmoe.data.source import Source
from dflmoe.data.weights import read_weights, write_weights
from dflmoe.data.without_labels import without_labels
from dflmoe.errors import (
    ColumnError,
    DataFileError,
    DflmoeError,
    NetworkError,
    PickleError,
    TrainingError,
)
from dflmoe.networks import build
from dflmoe.networks.public import public_body
from dflmoe.types import Params, generator

SIDE, LONG = 20, 96
QUICK = Pretraining(steps=3, batch=8)
Made = Callable[[int, int], tuple[Tensor, Tensor]]


def blobs(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy images of a disc or a ring, of any size and brightness and at any place."""
    rng = generator(seed, "blobs")
    y = torch.arange(rows) % 2
    across, down, radius, light = torch.rand(4, rows, 1, 1, generator=rng)
    at = torch.arange(SIDE) + 0.5
    across, down = (SIDE * (0.3 + 0.4 * middle) for middle in (across, down))
    radius = SIDE * (0.14 + 0.14 * radius)
    away = ((at - across) ** 2 + (at[:, None] - down) ** 2).sqrt()
    inside = (away < radius) & ((away > 0.55 * radius) | (y == 0)[:, None, None])
    x = inside * (0.4 + 0.8 * light) - 0.5 + 0.5 * torch.randn(rows, SIDE, SIDE, generator=rng)
    return x[:, None], y


def waves(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy series of a round or a square wave, of any pitch, phase and loudness."""
    rng = generator(seed, "waves")
    y = torch.arange(rows) % 2
    phase, pitch, loud = torch.rand(3, rows, 1, generator=rng)
    wave = torch.sin(2 * math.pi * ((4 + 2 * pitch) * torch.arange(LONG) / LONG + phase))
    wave = torch.where(y[:, None] == 1, 0.8 * wave.sign(), wave)
    x = torch.stack([wave, 0.6 * wave.roll(2, 1)], 1) * (0.5 + loud[:, None])
    return x + 0.3 * torch.randn(x.shape, generator=rng), y


def probed(body: nn.Module, weights: Params, made: Made, seed: int) -> float:
    """Return the accuracy, out of sample, of logistic regression on features of 60 rows."""

    def features(x: Tensor) -> NDArray[np.float32]:
        with torch.no_grad():
            stacked = {name: p[None] for name, p in weights.items()}
            return np.asarray(stacked_call(body, stacked, x[None])[0])

    (x, y), (new, truth) = made(60, seed), made(400, seed + 100)
    learnt = features(x)
    middle, spread = learnt.mean(0), learnt.std(0) + 1e-6
    model = LogisticRegression(max_iter=1000).fit((learnt - middle) / spread, y)
    return float(model.score((features(new) - middle) / spread, truth))


@pytest.mark.parametrize(
    ("made", "network", "shape", "plan"),
    [
        pytest.param(
            blobs, "resnet5", (1, SIDE, SIDE), Pretraining(steps=80, batch=32), id="images"
        ),
        pytest.param(waves, "cnn1d", (2, LONG), Pretraining(steps=300), id="series"),
    ],
)
def test_a_body_that_saw_no_label_tells_classes_better_than_a_random_one(
    made: Made, network: str, shape: tuple[int, ...], plan: Pretraining
) -> None:
    body = build(network, shape, 2).body
    gains = []
    for seed in range(3 if made is blobs else 2):
        x, _ = made(300, seed + 200)
        random = {n: p[0] for n, p in initial(body, 1, generator(seed, "body")).items()}
        learnt = pretrained(body, x.__getitem__, len(x), plan, generator(seed, "body"))
        assert learnt.spread > learnt.spread_before
        assert learnt.told > 0.6
        gains.append(probed(body, learnt.weights, made, seed) - probed(body, random, made, seed))
    assert min(gains) > 0.05
    assert np.mean(gains) > 0.1


# --- views ---


@settings(deadline=None)
@given(seed=st.integers(0, 99), times=st.floats(0.1, 100), plus=st.floats(-100, 100))
def test_it_does_not_matter_in_which_units_images_are(seed: int, times: float, plus: float) -> None:
    x = noise(seed, 3, 2, 9, 7).double()
    one, other = (view(rows, generator(seed)) for rows in (x, times * x + plus))
    torch.testing.assert_close(other, times * one + plus)


@settings(deadline=None)
@given(seed=st.integers(0, 99), times=st.floats(0.1, 100))
def test_it_does_not_matter_how_loud_series_are(seed: int, times: float) -> None:
    x = noise(seed, 3, 2, 30).double()
    one, other = (view(rows, generator(seed)) for rows in (x, times * x))
    torch.testing.assert_close(other, times * one)


@settings(deadline=None)
@given(seed=st.integers(0, 99))
def test_nothing_is_seen_where_there_is_nothing(seed: int) -> None:
    for shape in ((4, 1, 8, 6), (4, 1, 20)):
        flat = torch.full(shape, 0.5)
        seen = view(flat, generator(seed)).flatten(2)
        torch.testing.assert_close(seen, seen[..., :1].expand_as(seen))


def test_views_are_of_the_shape_of_rows_differ_and_come_from_the_seed() -> None:
    for shape in ((5, 3, 12, 9), (5, 2, 40)):
        x = noise(0, *shape)
        one, again, other = (view(x, generator(seed)) for seed in (0, 0, 1))
        assert one.shape == x.shape
        assert torch.equal(one, again)
        assert not torch.allclose(one, other)


def test_a_table_has_no_views() -> None:
    with pytest.raises(ValueError, match="images or series"):
        view(noise(0, 5, 3), generator(0))


# --- what is learnt ---


def test_views_are_told_from_those_of_other_rows_and_not_from_themselves() -> None:
    views = torch.eye(2)  # of two rows, orthogonal
    expected = math.log(math.e + 2) - 1  # own: cosine 1; both of the other row: 0
    assert float(nt_xent(views, 3 * views, 1.0)) == pytest.approx(expected)
    assert nt_xent(views, views.flip(0), 1.0) > expected


def test_views_that_are_liker_to_those_of_other_rows_are_counted() -> None:
    views = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    assert told_apart(views, views) == 1
    assert told_apart(views, views.flip(0)) == pytest.approx(2 / 6)  # only the middle one is right


def test_spread_tells_whether_rows_are_told_apart() -> None:
    assert spread_of(torch.ones(9, 4)) == pytest.approx(0, abs=1e-6)
    assert spread_of(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(1)
    one = torch.tensor([[1.0, 0], [0, 1]])  # at a right angle: the mean is 1 / sqrt(2) long
    assert spread_of(one) == pytest.approx(math.sqrt(1 / 2))
    assert spread_of(5 * one) == pytest.approx(spread_of(one))


def test_a_seed_decides_all_and_rows_are_read_in_batches() -> None:
    body, x = build("resnet5", (1, 8, 8), 2).body, noise(0, 300, 1, 8, 8)
    asked: list[Tensor] = []

    def read(numbers: Tensor) -> Tensor:
        asked.append(numbers)
        return x[numbers]

    plan = Pretraining(steps=50, batch=8)  # 37 fill a pass
    one, again, other = (
        pretrained(body, read, 300, plan, generator(seed)).weights for seed in (0, 0, 1)
    )
    assert all(torch.equal(p, again[name]) for name, p in one.items())
    assert not all(torch.equal(p, other[name]) for name, p in one.items())
    first, *batches = asked[:51]
    assert len(first) == LOOKED_AT
    assert all(len(batch) == 8 for batch in batches)
    assert len(torch.cat(batches[:37]).unique()) == 37 * 8


def test_maps_of_features_are_averaged_over_places() -> None:
    body = build("small_cnn", (1, 16, 16), 2, at="block2").body
    x = noise(0, 40, 1, 16, 16)
    learnt = pretrained(body, x.__getitem__, 40, QUICK, generator(0))
    assert learnt.weights.keys() == dict(body.named_parameters()).keys()


# --- from a site's files ---


class Dots:
    """A format for tests: a file is one grey image of 32 x 32 bytes."""

    extent = (0.0, 255.0)

    def __init__(self, _: Source) -> None:
        """Need no settings."""

    def belongs(self, file: Path) -> bool:
        return file.suffix == ".dot"

    def parts(self, file: Path) -> list[Part]:
        if file.stat().st_size != 1024:
            raise DataFileError(f"{file.name} is damaged")
        return [Part(0, (1, 32, 32), "dots")]

    def read(self, file: Path, at: int) -> NDArray[np.float32]:
        assert at == 0
        return np.fromfile(file, np.uint8).reshape(1, 32, 32).astype(np.float32)


@pytest.fixture
def dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of 300 images that nobody has labelled, and of one that is damaged."""
    module = ModuleType("dflmoe.data.formats.dots")
    module.Dots = Dots  # type: ignore[attr-defined]  # a module is made of what it is given
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(FORMS, "images", ("dots", "Dots", frozenset({".dot"})))
    rng = np.random.default_rng(0)
    for number in range(300):
        rng.integers(0, 256, 1024, dtype=np.uint8).tofile(tmp_path / f"{number:03}.dot")
    (tmp_path / "damaged.dot").write_bytes(b"half")
    return tmp_path


def test_what_does_not_fit_into_memory_teaches_the_very_same(dots: Path) -> None:
    source = Source(path=dots, form="images", skip_unreadable=True)
    small = source.model_copy(update={"memory_mb": 1})  # 300 rows of 4 kB are 1.2 MB
    told: list[str] = []
    held, streamed = (
        pretrained_body(one, "resnet5", QUICK, told=lambda what: lambda *_: told.append(what))
        for one in (source, small)
    )
    assert all(torch.equal(p, streamed.learnt.weights[n]) for n, p in held.learnt.weights.items())
    assert (held.rows.rows, held.rows.left_out, held.rows.shape) == (300, 1, (1, 32, 32))
    assert set(told) == {"rows", "steps"}


def test_a_damaged_file_is_told_before_anything_is_learnt(dots: Path) -> None:
    with pytest.raises(DataFileError, match=r"damaged\.dot is damaged.*--skip-unreadable"):
        pretrained_body(Source(path=dots, form="images"), "resnet5", QUICK)


def arrays(folder: Path, **held: NDArray[np.generic]) -> Source:
    path = folder / "rows.npz"
    np.savez(path, **held)  # type: ignore[arg-type]  # its stub takes no such mapping
    return Source(path=path)


def test_arrays_are_taken_as_a_node_takes_them_or_as_a_pilot_does_if_they_name_sites(
    tmp_path: Path,
) -> None:
    x = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8)).astype(np.float32)
    nodes = without_labels(arrays(tmp_path, x=x))
    np.testing.assert_array_equal(nodes.read(torch.tensor([2, 3])), x[2:4])
    pixels = x[:, 0].astype(np.uint8)
    pilots = without_labels(arrays(tmp_path, x=pixels, site=np.arange(30) % 2))
    assert pilots.shape == (1, 8, 8)
    np.testing.assert_allclose(pilots.read(torch.tensor([2]))[0], x[2] / 127.5 - 1, atol=1e-6)


def test_labels_are_not_looked_at(tmp_path: Path) -> None:
    x = noise(0, 30, 1, 8, 8).numpy()
    without = pretrained_body(arrays(tmp_path, x=x), "resnet5", QUICK)
    odd = np.array([np.nan] * 30)
    with_labels = pretrained_body(arrays(tmp_path, x=x, y=odd), "resnet5", QUICK)
    for name, p in without.learnt.weights.items():
        assert torch.equal(p, with_labels.learnt.weights[name])


def test_what_was_learnt_is_a_public_body_and_says_where_it_comes_from(tmp_path: Path) -> None:
    source = arrays(tmp_path, x=noise(0, 30, 1, 8, 8).numpy())
    made = pretrained_body(source, "resnet8", QUICK, at="block2")
    path = tmp_path / "body.safetensors"
    write_weights(path, made.learnt.weights, made.origin)
    network = build("resnet8", (1, 8, 8), 5, at="block2")
    public = public_body(network, read_weights(path))
    assert public.common
    assert made.origin["network"] == "resnet8"
    assert made.origin["head_from"] == "block2"


FLAT = np.zeros((MIN_ROWS, 1, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("held", "error", "says"),
    [
        pytest.param({"y": np.zeros(3)}, ColumnError, "no array 'x'", id="no rows"),
        pytest.param({"x": FLAT[:3]}, DataFileError, "3 rows", id="few rows"),
        pytest.param({"x": FLAT[:, 0, 0]}, DataFileError, "images.*or series", id="a table"),
        pytest.param({"x": FLAT.astype(str)}, DataFileError, "images.*or series", id="text"),
        pytest.param({"x": FLAT + np.nan}, DataFileError, "NaN", id="NaN"),
        pytest.param({"x": FLAT.astype(object)}, PickleError, "pickled", id="objects"),
        pytest.param({"x": FLAT[:, 0]}, NetworkError, "takes inputs", id="series, for images"),
        pytest.param({"x": FLAT}, TrainingError, "the same of every row", id="rows all alike"),
        pytest.param(
            {"x": FLAT + 3e38 * np.sign(noise(0, 8, 8).numpy())},
            TrainingError, "not a finite number; look for extreme", id="extreme values",
        ),
    ],
)  # fmt: skip
def test_rows_that_teach_nothing_are_told(
    tmp_path: Path, held: dict[str, NDArray[np.generic]], error: type[DflmoeError], says: str
) -> None:
    with pytest.raises(error, match=says) as told:
        pretrained_body(arrays(tmp_path, **held), "resnet5", QUICK)
    assert "\n" not in str(told.value)


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 2000), to=st.integers(0, 255), length=st.integers(0, 2000))
def test_an_npz_that_is_damaged_is_told(
    at: int, to: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=noise(0, MIN_ROWS, 1, 4, 4).numpy())
    raw = bytearray(stream.getvalue())
    raw[at % len(raw)] = to
    path = tmp_path_factory.getbasetemp() / "spoilt.npz"
    path.write_bytes(raw[: max(1, len(raw) - length // 10)])
    try:
        without_labels(Source(path=path))
    except DflmoeError as error:
        assert str(path) in str(error)  # noqa: PT017 - it need not be raised


def test_a_table_is_told_to_be_none_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataFileError, match="is a table"):
        without_labels(Source(path=path))
