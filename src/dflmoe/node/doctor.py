"""Look a site over before it runs: keys, clock, roster, ports, machine, rows, peers, and a trial.

Each check says what it found and, where something is wrong, what to do. None changes anything that
is kept, and none stops the others.
"""

import asyncio
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import grpc
import numpy as np
import torch

from dflmoe.core.algorithm import run_round
from dflmoe.core.site import LEADING, CrossFit, Lent, SiteData
from dflmoe.data.findings import Finding, Verdict, duplicates, enough, features
from dflmoe.data.source import SETTINGS
from dflmoe.errors import DflmoeError, ExchangeError, RunningError
from dflmoe.metrics.resampling import auc_samples
from dflmoe.node.agreed import method_of, network_of, spec_of
from dflmoe.node.baseline import baseline, rows_of
from dflmoe.node.home import KEYS, Home
from dflmoe.node.life import alone_in
from dflmoe.node.link import probed, reason
from dflmoe.node.network import Network
from dflmoe.node.replica import Replica
from dflmoe.node.settings import Settings
from dflmoe.node.store import STORE, Store
from dflmoe.security.charter import Charter
from dflmoe.security.roster import Member, Roster
from dflmoe.types import generator
from dflmoe.wire.manifest import now
from dflmoe.wire.payload import decode, digest, encode

SOON, SKEW = timedelta(days=14), timedelta(minutes=5)
ROOM_BYTES, MEMORY_BYTES = 2**30, 2**30
TRIAL_ROWS = 60


def examined(home: Home, *, trial: bool = True, still: bool = False) -> Iterator[Finding]:
    """Yield what every check finds, in the order in which a newcomer would mend it.

    Args:
        home: The site's folder.
        trial: Also play a dummy round, and train what the site has alone.
        still: Only look: dial nobody, listen nowhere, read no rows, and keep no node from starting.
    """
    yield from _safely("keys", lambda: _keys(home))
    yield from _safely("store", lambda: _store(home))
    yield from _machine(home)
    settings: list[Settings] = []
    yield from _safely("settings", lambda: _settings(home, settings))
    rosters: list[Roster] = []
    yield from _safely("roster", lambda: _roster(home, rosters))
    yield from _safely("charter", lambda: _charter(home))
    if still:
        return
    if rosters and settings:
        yield from _safely("peers", lambda: _peers(home, rosters[0], settings[0]))
    elif rosters:
        yield Finding(check="peers", verdict="warning", found="not tried without settings")
    if not settings or (settings[0].data is None and _relays(home, rosters)):
        return
    yield from _safely("rows", lambda: _rows(home, settings[0]))
    if trial:
        yield from _safely("dummy round", lambda: _dummy(home.charter))
        yield from _safely("local baseline", lambda: _baseline(home, settings[0]))


def _safely(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Let a check fail without stopping the others."""
    try:
        yield from look()
    except (DflmoeError, OSError, RuntimeError, FloatingPointError) as error:
        yield Finding(check=check, verdict="failed", found=str(error), fix="do as it says")


def _keys(home: Home) -> Iterator[Finding]:
    keys = home.keys
    mode = (home.folder / KEYS).stat().st_mode & 0o777
    yield Finding(check="keys", verdict="ok", found=f"{home.site.name}; file mode {mode:o}")
    begins, ends = keys.certificate.not_valid_before_utc, keys.certificate.not_valid_after_utc
    until = f"{begins:%Y-%m-%d} to {ends:%Y-%m-%d}"
    if not begins <= now() <= ends:
        yield Finding(
            check="certificate",
            verdict="failed",
            found=f"valid from {until}, and it is {now():%Y-%m-%d}",
            fix="set the clock, or run: dflmoe site renew",
        )
    elif ends - now() < SOON:
        yield Finding(
            check="certificate",
            verdict="warning",
            found=f"valid from {until}",
            fix="dflmoe site renew",
        )
    else:
        yield Finding(check="certificate", verdict="ok", found=f"valid from {until}")


def _store(home: Home) -> Iterator[Finding]:
    if not (home.folder / STORE).exists():
        yield Finding(check="store", verdict="ok", found="none yet; the node makes it")
        return
    store = Store(home.folder / STORE, reads=True)
    try:
        wrong = store.check()
        found = "; ".join(wrong) or f"{len(store.heads())} heads, {len(store.rounds())} rounds"
    finally:
        store.close()
    fix = "restore a backup; heads that are lost will be asked for again" if wrong else ""
    yield Finding(check="store", verdict="failed" if wrong else "ok", found=found, fix=fix)


def _machine(home: Home) -> Iterator[Finding]:
    free = shutil.disk_usage(home.folder if home.folder.exists() else Path.home()).free
    yield _enough("disk", free, ROOM_BYTES, "free some, or move the site's folder")
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield _enough("memory", memory, MEMORY_BYTES, "end other programs")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    found = f"{os.cpu_count()} cores, {gpu}; PyTorch {torch.__version__}; nodes compute on the CPU"
    yield Finding(check="device", verdict="ok", found=found)


def _enough(check: str, there: int, wanted: int, fix: str) -> Finding:
    found = f"{there / 2**30:.1f} GiB free"
    if there >= wanted:
        return Finding(check=check, verdict="ok", found=found)
    return Finding(check=check, verdict="warning", found=found, fix=fix)


def _settings(home: Home, into: list[Settings]) -> Iterator[Finding]:
    into.append(Settings.load(home.folder / SETTINGS))
    rows = into[0].data.shown if into[0].data else "no rows"
    found = f"listens at {into[0].bind or 'nothing, dials only'}; {rows}"
    yield Finding(check="settings", verdict="ok", found=found)


def _roster(home: Home, into: list[Roster]) -> Iterator[Finding]:
    charter, roster = home.charter, home.roster(now())
    if roster is None:
        yield Finding(
            check="roster",
            verdict="failed",
            found=f"{charter.name!r} has none yet",
            fix="let a second site join: dflmoe federation invite",
        )
        return
    into.append(roster)
    standing = roster.standing(now())
    found = f"version {roster.version}, {standing} until {roster.expires:%Y-%m-%d}"
    if home.site.name not in roster.members:
        yield Finding(
            check="roster",
            verdict="failed",
            found=f"{found}; {home.site.name} does not belong",
            fix="ask a member to approve this site's request",
        )
    elif standing != "valid" or roster.expires - now() < SOON:
        lapsed: Verdict = "failed" if standing == "lapsed" else "warning"
        renew = "ask an approver for: dflmoe federation renew"
        yield Finding(check="roster", verdict=lapsed, found=found, fix=renew)
    else:
        yield Finding(check="roster", verdict="ok", found=found)


def _charter(home: Home) -> Iterator[Finding]:
    charter = home.charter
    network = network_of(charter)
    numbers = sum(p.numel() for p in network.head.parameters())
    found = f"{charter.digest[:12]}; {charter.network}, a head of {numbers} numbers"
    yield Finding(check="charter", verdict="ok", found=found)


def _relays(home: Home, rosters: list[Roster]) -> bool:
    member = rosters[0].members.get(home.site.name) if rosters else None
    return member is not None and member.relay


def _peers(home: Home, roster: Roster, settings: Settings) -> Iterator[Finding]:
    """Dial every peer, and let it dial back; meanwhile this site listens, unless its node does."""
    with ExitStack() as open_, tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        open_.callback(store.close)
        replica = Replica(home, store)
        try:
            open_.enter_context(alone_in(home.folder))
        except RunningError:
            yield Finding(check="port", verdict="ok", found="a node of this site runs and listens")
        else:
            network = Network(replica, settings.bind)
            try:
                network.start()
            except ExchangeError as error:
                yield Finding(check="port", verdict="failed", found=str(error), fix="do as it says")
            else:
                open_.callback(network.stop)
                found = f"{settings.bind} can be listened at" if settings.bind else "dials only"
                yield Finding(check="port", verdict="ok", found=found)
        own = roster.members.get(home.site.name)
        if own is not None:
            yield from _advertised(own, settings)
        for site, member in sorted(roster.members.items()):
            if site != home.site.name:
                yield _peer(replica, member, reached=own is not None and bool(own.card.endpoints))


def _advertised(own: Member, settings: Settings) -> Iterator[Finding]:
    """Compare where peers are told to dial with where this site listens."""
    if own.card.endpoints and settings.bind is None:
        yield Finding(
            check="address",
            verdict="failed",
            found=f"peers are told to dial {', '.join(own.card.endpoints)}; nothing listens",
            fix=f"set bind in {SETTINGS}",
        )
    for endpoint in own.card.endpoints:
        host = endpoint.rsplit(":", 1)[0].strip("[]")
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            yield Finding(
                check="address",
                verdict="failed",
                found=f"{endpoint}, where peers dial, has no address: {error.strerror or error}",
                fix="mend the name service, or let the roster say another address",
            )


def _peer(replica: Replica, member: Member, *, reached: bool) -> Finding:
    """Return whether a peer can be dialled, dials back, and has the same time."""
    verdict: Verdict = "warning"
    fix = ""
    if not member.card.endpoints:
        verdict, found = "ok", "dials only; its heads come as it dials"
    else:
        try:
            said = asyncio.run(probed(replica, member))
        except (grpc.aio.AioRpcError, OSError, ValueError) as error:
            found = f"cannot be dialled at {', '.join(member.card.endpoints)}: {reason(error)}"
            fix = (
                "see that its node runs and that the firewall lets this site out; its heads come "
                "through other members meanwhile"
            )
        else:
            skew = abs(said.clock - now())
            if skew > SKEW:
                found = f"answers; its clock differs by {skew.total_seconds():.0f} s"
                fix = "set both clocks by a time server"
            elif not reached:
                verdict, found = "ok", "answers; this site dials only"
            elif said.back:
                found = f"answers, and cannot dial back: {said.back}"
                fix = "open the port that this site listens at; dialling alone does, too"
            else:
                verdict, found = "ok", "answers, and dials back"
    return Finding(check=f"peer {member.site}", verdict=verdict, found=found, fix=fix)


def _rows(home: Home, settings: Settings) -> Iterator[Finding]:
    if settings.data is None:
        yield Finding(
            check="rows",
            verdict="failed",
            found=f"{SETTINGS} has no section [data]",
            fix="say where the rows are",
        )
        return
    charter, where = home.charter, settings.data
    rows = rows_of(charter, where, home.site.name)
    yield enough(rows, charter.classes, test_folds=where.test_folds, min_rows=charter.min_rows)
    yield duplicates(rows)
    yield features(rows)


def _dummy(charter: Charter) -> Iterator[Finding]:
    """Play a round on made-up rows, over the wire format, with the own head as the peer's."""
    began = time.monotonic()
    rng = generator(0, "doctor")
    y = torch.arange(TRIAL_ROWS) % len(charter.classes)
    fold = (torch.arange(TRIAL_ROWS) // len(charter.classes)) % charter.inner_folds
    data = SiteData(
        x=torch.randn(1, TRIAL_ROWS, *charter.shape, generator=rng),
        y=y,
        crossfit=CrossFit(fold[None]),
        group=torch.arange(TRIAL_ROWS),
        anchors=torch.randn(TRIAL_ROWS, *charter.shape, generator=rng) if charter.anchors else None,
    )
    method = method_of(charter, network_of(charter))
    state = method.init("here", data, rng)
    sizes: list[int] = []

    def swap(lent: Lent) -> list[Lent]:
        payload = encode(lent.tensors, charter.dtype, leading=LEADING[lent.kind])
        sizes.append(len(payload))
        tensors = decode(payload, digest(payload), spec_of(charter, lent), lent.site)
        return [Lent("there", lent.round, lent.kind, lent.width, tensors)]

    run_round(method, state, swap, data, rng)
    took = time.monotonic() - began
    found = f"trained, lent {sizes[0]} bytes, borrowed and mixed in {took:.1f} s"
    yield Finding(check="dummy round", verdict="ok", found=found)


def _baseline(home: Home, settings: Settings) -> Iterator[Finding]:
    """Train what the site has alone, and test it on the rows that are set aside."""
    if settings.data is None:
        return
    had = baseline(home.charter, settings.data, home.site.name, seed=settings.seed)
    asked = had.splits.test[0].numpy()
    probs, y = had.alone.said[0].double().exp().numpy()[asked], had.rows.y[asked]
    weights = np.ones((1, len(y)))
    score = float(auc_samples(probs[None], y, weights)[0]) if len(np.unique(y)) > 1 else np.nan
    kind = "logistic regression" if had.alone.logistic else home.charter.network
    found = f"{kind} alone: AUC {score:.3f} on {len(y)} rows that were set aside"
    yield Finding(check="local baseline", verdict="ok", found=found)
