"""Who reads each document, and what of it must come back as it was written."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.documents import KEY, SPEC
from tests.security import FEDERATION, NOW

from dflmoe.data.check import Check
from dflmoe.data.declared import Declared
from dflmoe.model.model import load_model
from dflmoe.node.audit import Line
from dflmoe.node.node import RoundSummary
from dflmoe.node.settings import Settings
from dflmoe.node.status import Status
from dflmoe.report.schema import Report
from dflmoe.report.share import Share
from dflmoe.security.card import requested
from dflmoe.security.charter import Charter
from dflmoe.security.invitation import invited
from dflmoe.security.policy import Policy
from dflmoe.security.roster import Roster, bundled, checked, trust_of
from dflmoe.wire.envelope import HEAD, opened
from dflmoe.wire.frames import unframed
from dflmoe.wire.manifest import Document, Manifest
from dflmoe.wire.parcel import unpacked
from dflmoe.wire.payload import decode, digest
from dflmoe.wire.wrapper import unwrapped

GOLDEN = Path(__file__).parent

SIGNED: Mapping[str, type[Document]] = {
    "charter.bin": Charter,
    "manifest.bin": Manifest,
    "line.bin": Line,
    "check.json": Check,
    "declared.json": Declared,
    "round.json": RoundSummary,
    "status.json": Status,
    "share.json": Share,
}
"""Documents of fields: each field that was written is still there, with its value."""

DIGESTED = {"charter.bin", "manifest.bin", "line.bin"}
"""Those of which a digest stands elsewhere: what is written again is what was read."""


def _roster(file: Path) -> Roster:
    bundle = bundled(file.read_bytes())
    return checked(bundle, trust_of(bundle), now=NOW)


def _envelope(file: Path) -> Manifest:
    keys = _roster(file.with_name("roster.bin")).keys
    return Manifest.read(opened(file.read_bytes(), HEAD, keys, "it").payload, "it")


def _payload(file: Path) -> object:
    raw = file.read_bytes()
    return decode(raw, digest(raw), SPEC, "ann")


READERS: Mapping[str, Callable[[Path], object]] = {
    "invitation.bin": lambda file: invited(file.read_bytes(), site="cleo", now=NOW),
    "request.bin": lambda file: requested(file.read_bytes()),
    "roster.bin": _roster,
    "envelope.bin": _envelope,
    "payload.bin": _payload,
    "wrapper.bin": lambda file: unwrapped(file.read_bytes(), FEDERATION, "ann", KEY, "it"),
    "parcel.bin": lambda file: unpacked(file.read_bytes(), "it"),
    "frame.bin": lambda file: unframed(file.read_bytes()),
    "policy.bin": Policy.load,
    "settings.bin": Settings.load,
    "rules.bin": Charter.found,
    "report.json": lambda file: Report.model_validate(json.loads(file.read_bytes())),
    "model.safetensors": load_model,
}
"""Who reads the others."""
