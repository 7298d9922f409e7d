"""Write one of every document that this version writes, with hardly a field at rest."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from tests.documents import KINDS
from tests.golden.reading import GOLDEN
from tests.made import made_study
from tests.security import NOW
from tests.unit.test_consortium import ANN as SHARED
from tests.unit.test_model_file import made as made_model

from dflmoe import __version__
from dflmoe.core.site import Expert, SiteState
from dflmoe.data.check import Check
from dflmoe.data.declared import Declared
from dflmoe.data.findings import Finding
from dflmoe.data.schema import Column
from dflmoe.node.node import RoundSummary
from dflmoe.node.status import Peer, Status
from dflmoe.node.store import BLOBS, DATABASE, Store
from dflmoe.pilot.cost import Prices
from dflmoe.pilot.plan import Options
from dflmoe.pilot.run import run
from dflmoe.security.audit import Facts
from dflmoe.simulation.group import Seat
from dflmoe.wire.frames import Want, framed
from dflmoe.wire.parcel import packed
from dflmoe.wire.payload import digest

DECLARED = Declared(
    name="ann",
    kind="table",
    classes=("no", "yes"),
    shape=(4,),
    range=(0.0, 1.0),
    what="a table",
    columns={"age": Column(centre=50.0, scale=10.0), "sex": Column(levels=("f", "m")), "x": None},
)
CHECK = Check(
    name="ann",
    path="rows.csv",
    rows=40,
    findings=(Finding(check="labels", verdict="warning", found="few", fix="name more"),),
    declared=DECLARED,
)
ROUND = RoundSummary(
    number=2,
    own_loss=0.5,
    mixture_loss=0.4,
    own_score=0.8,
    mixture_score=0.9,
    used=True,
    share={"ann": 0.7, "bob": 0.3},
    quarantined=("cleo",),
    heard=("bob", "cleo"),
    missing={"dan": "nothing was heard"},
    outage="all peers were away",
)
STATUS = Status(
    site="ann",
    federation="Hearts",
    pid=7,
    doing="waiting",
    at=NOW,
    last=ROUND,
    roster=(3, "valid"),
    peers=(
        Peer(
            site="bob",
            relay=False,
            state="used",
            connected=True,
            head_round=2,
            head_kind="head",
            head_age_s=5.0,
            share=0.3,
            quarantined=False,
            problem="",
        ),
    ),
    sent=10,
    received=20,
    refused=1,
)
STATE = SiteState(
    "ann",
    3,
    {"head": {"weight": torch.tensor([[0.1, -0.0], [1e-40, 3.0]])}, "mixture": {}},
    {"bob": Expert({"bias": torch.ones(1, 2).half()}, 2, 1, anchors=torch.zeros(1, 2, 3))},
)

RULES = """name = "Hearts of four hospitals"
task = "heart disease"
classes = ["no", "yes"]
kind = "table"
shape = [13]
network = "plain"
"""


def stored() -> Mapping[str, bytes]:
    """Return the files of a store in which something of everything lies."""
    envelope, payload = KINDS["envelope"].sound, KINDS["payload"].sound
    seat = Seat(STATE, torch.Generator().manual_seed(5).get_state()).as_bytes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(folder)
        store.note("begin", {"site": "ann"}, NOW)
        facts: Facts = {"site": "bob", "seq": 7}
        store.keep_head("bob", 7, envelope, payload, NOW, blob=digest(payload), facts=facts)
        store.keep_evidence("cleo", 8, envelope, NOW)
        store.keep_lent(9, digest(payload), {"round": 1}, NOW)
        store.keep_round(2, seat, ROUND.signed(), NOW)
        store.refused("envelope", "it is no envelope", NOW)
        store.moved("sent", "bob", 100, NOW)
        backup = folder / "backup"
        store.backup(backup)
        store.close()
        blobs = {f"{BLOBS}/{p.name}": p.read_bytes() for p in (backup / BLOBS).iterdir()}
        return {DATABASE: (backup / DATABASE).read_bytes(), **blobs}


def written() -> Mapping[str, bytes]:
    """Return every document, by the path that it has in a version's folder."""
    options = Options(folds=2, repeats=1, resamples=100)
    report = run(made_study(rows=48), options, prices=Prices(per_decision=5.0, decisions=10))
    assert report is not None
    return {
        **{f"{kind}.bin": one.sound for kind, one in KINDS.items()},
        "parcel.bin": packed(KINDS["envelope"].sound, KINDS["payload"].sound),
        "frame.bin": framed(Want(number=1, site="bob", payload="1" * 64, blob="", at=0)),
        "rules.bin": RULES.encode(),
        **{f"store/{path}": raw for path, raw in stored().items()},
        "check.json": CHECK.signed(),
        "declared.json": DECLARED.signed(),
        "round.json": ROUND.signed(),
        "status.json": STATUS.signed(),
        "share.json": SHARED.signed(),
        "report.json": json.dumps(json.loads(report.model_dump_json())).encode(),
        "model.safetensors": made_model().to_bytes(),
    }


if __name__ == "__main__":
    for path, raw in written().items():
        file = GOLDEN / __version__ / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_bytes(raw)
            print(file)  # noqa: T201 - this is what a person asked for
