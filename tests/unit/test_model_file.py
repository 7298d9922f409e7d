"""A model's file: what was written is what is read, and anything else is refused in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from dflmoe.baselines.logistic import Logistic
from dflmoe.core.served import AsItIs, Served
from dflmoe.errors import DataFileError, ModelError, OptionError
from dflmoe.model.blocks import blocks_of
from dflmoe.model.card import card
from dflmoe.model.model import TOLD, Model, Predictions, load_model
from dflmoe.model.told import Judged, Measured, Operating, Told
from dflmoe.networks import plain

FOUND = Measured(value=0.8, low=0.7, high=0.9)


def made() -> Model:
    """Return the model of a site that has borrowed nothing yet."""
    alone = Logistic((3,), 2)
    with torch.no_grad():
        alone.linear.weight.copy_(torch.tensor([[0.0, 0, 0], [1, -2, 0]]))
        alone.linear.bias.zero_()
    served = Served("ann", AsItIs(), alone).requires_grad_(False).eval()
    network = plain(3, 2)
    told = Told(
        site="ann",
        federation="Hearts",
        task="ill or not",
        classes=("well", "ill"),
        kind="table",
        shape=(3,),
        round=0,
        serves="own",
        share={"ann": 1.0},
        set_aside=("bob",),
        rows=40,
        patients=None,
        class_rows={"well": 30, "ill": 10},
        judged=Judged(
            on="rows that were set aside",
            rows=10,
            patients=10,
            metric="AUC",
            alone=FOUND,
            served=FOUND,
            brier=0.2,
            points=(
                Operating(
                    name="90% sensitivity",
                    threshold=0.3,
                    sensitivity=FOUND,
                    specificity=Measured(value=None),
                ),
            ),
        ),
        blocks=blocks_of(served, network, network),
        software={"dflmoe": "0"},
    )
    return Model(told, served)


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    model, path = made(), tmp_path / "model.safetensors"
    model.save(path)
    again = load_model(path)
    rows = np.array([[0, 0, 0], [3, 0, 1], [0, 3, 1]], dtype=np.float32)
    assert again.told == model.told
    np.testing.assert_array_equal(again.predict(rows).probs, model.predict(rows).probs)
    assert again.predict(rows).likely.tolist()[1:] == [1, 0]
    assert load_model(str(path)).to_bytes() == path.read_bytes()


def changed(**values: object) -> bytes:
    """Return a model's file that says something else of itself."""
    model = made()
    told = {**json.loads(model.told.model_dump_json()), **values}
    return save(load(model.to_bytes()), metadata={TOLD: json.dumps(told)})


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a pickle": (lambda: b"\x80\x04}\x94\x8c\x01w\x94K\x01s.", "no model file"),
    "half a file": (lambda: made().to_bytes()[:-9], "no model file"),
    "nothing": (bytes, "no model file"),
    "weights alone": (lambda: save({"w": torch.zeros(2)}), "does not say of what model"),
    "another format": (lambda: changed(format="dflmoe-model-9"), "format"),
    "a word that nobody knows": (lambda: changed(trust="me"), "trust"),
    "weights of another model": (lambda: changed(shape=[5]), "cannot be made anew"),
    "a network that nobody knows": (
        lambda: changed(blocks={"network": "os.system", "own": None}),
        "cannot be made",
    ),
    "no JSON": (
        lambda: save(load(made().to_bytes()), metadata={TOLD: "{"}),
        "cannot be made anew",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_model_is_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    make, said = REFUSED[what]
    path = tmp_path / "model.safetensors"
    path.write_bytes(make())
    with pytest.raises(ModelError, match=said) as caught:
        load_model(path)
    assert "model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"gone\.safetensors cannot be read"):
        load_model(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("rows", [np.zeros((2, 4)), np.zeros(3), np.zeros((0, 3))])
def test_rows_of_another_shape_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(OptionError, match="rows"):
        made().predict(rows)


def test_a_model_abstains_where_no_class_is_likely_enough() -> None:
    said = Predictions(("a", "b"), np.array([[0.5, 0.5], [0.9, 0.1]]), {"ann": np.eye(2)})
    assert said.answered(0.6).tolist() == [False, True]
    assert said.answered(0.0).all()
    assert len(said) == 2


def test_agreement_spans_what_the_experts_say_of_the_likeliest_class() -> None:
    opinions = {"ann": np.array([[0.2, 0.8]]), "bob": np.array([[0.6, 0.4]])}
    said = Predictions(("a", "b"), np.array([[0.3, 0.7]]), opinions)
    assert said.agreement.tolist() == [[0.4, 0.8]]


def test_a_card_tells_data_scores_heads_and_limits() -> None:
    text = card(made().told, audit_head="ab12")
    for part in ("40 rows of ann", "set aside: it does harm here", "0.800 [0.700, 0.900]", "ab12"):
        assert part in text
    assert "Nobody named the patients" in text
    assert "90% sensitivity | 0.300 | 0.800 [0.700, 0.900] | -" in text
