"""Where a site's rows are: the section ``[data]`` of ``site.toml``."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from dflmoe.errors import SettingsError
from dflmoe.toml import toml_of
from dflmoe.wire.manifest import faults_of

SETTINGS = "site.toml"

Form = Literal["table", "arrays", "images", "dicom", "nifti", "edf"]
"""What files hold the rows."""

Whole = Annotated[int, Field(ge=1)]

READ_BY = frozenset({"form", "size", "channels", "range", "transforms", "dicom", "nifti", "edf"})
"""Settings that decide what a row is: the same rows are the same only where these are."""

URL = re.compile(r"^[a-z0-9+]+://")
"""How the address of a database begins."""

SECRET = re.compile(r"://.*@|\?.*$", re.DOTALL)
"""What of such an address may hold a password."""

SQLITE = re.compile(r"(sqlite(?:\+pysqlite)?:///)([^?]+)")
"""The address of a file of SQLite."""


class Dicom(BaseModel, frozen=True, extra="forbid"):
    """How DICOM files are read.

    Attributes:
        modality: The only one that is accepted, for example ``CT``; whichever all files have if
            not given.
        window: Centre and width, in the units that the modality's table gives (Hounsfield units
            for CT); as each file says if not given, and all of its numbers where it says nothing.
        frames: Which frames of a file with several are rows.
    """

    modality: str | None = None
    window: tuple[float, Annotated[float, Field(gt=0)]] | None = None
    frames: Literal["all", "first", "middle"] = "all"


class Nifti(BaseModel, frozen=True, extra="forbid"):
    """How NIfTI volumes are read, turned to the nearest axes of right, anterior, superior.

    Attributes:
        slices: ``middle`` for one slice a volume, ``all`` for every slice, or ``volume`` for small
            volumes as they are, their slices as channels.
        axis: Along which slices are cut: 0 sagittal, 1 coronal, 2 axial.
        mask: Values that masks may hold, where the files are masks; they are volumes if not given.
    """

    slices: Literal["all", "middle", "volume"] = "middle"
    axis: Annotated[int, Field(ge=0, le=2)] = 2
    mask: Annotated[tuple[int, ...], Field(min_length=1)] | None = None


class Edf(BaseModel, frozen=True, extra="forbid"):
    """How EDF and EDF+ recordings are read.

    Attributes:
        channels: Names of the signals to take, in order; all if not given, and then every file must
            have the same.
        rate: Samples a second that all signals are brought to.
        epoch: Seconds of one row.
        stages: From the texts of annotations to classes; those of Sleep-EDF if not given. Epochs
            with other texts are left out.
        wake_minutes: Wake that is kept before the first and after the last epoch of sleep; all if
            not given. Studies of Sleep-EDF keep 30.
    """

    channels: tuple[str, ...] = ()
    rate: Annotated[float, Field(gt=0)] = 100.0
    epoch: Annotated[float, Field(gt=0)] = 30.0
    stages: dict[str, str] | None = None
    wake_minutes: Annotated[float, Field(ge=0)] | None = None


class OwnEncoder(BaseModel, frozen=True, extra="forbid"):
    """A site's own encoder, which stays as it is, in front of a linear map that learns.

    Attributes:
        weights: Safetensors file (``dflmoe body convert``).
        network: Of the catalogue, or ``package.module:factory`` of this site's own code.
        head_from: First layer of it that is not the encoder's.
    """

    weights: Path
    network: str
    head_from: str | None = None


class Transform(BaseModel, frozen=True, extra="allow"):
    """A deterministic array transform of MONAI by its class name, with its arguments."""

    name: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$")]


class Source(BaseModel, frozen=True, extra="forbid"):
    """Where rows are, what they are called, and what is made of them; they are only ever read.

    Attributes:
        path: A file, a folder, or the address of a database (``sqlite:///cohort.db``); with
            ``query`` for those.
        form: What the files are; found from their names if not given.
        query: What to ask of a database.
        schema_file: Agreed columns, units and levels of a table.
        drop: Columns of a table that are left out.
        labels: Table that names the label of each file; the folders' names are the classes if there
            is none and the files say nothing themselves.
        file: Its column with the file, relative to ``path``; the name alone, or without its ending,
            does too.
        label: Column of the label.
        patient: Column of the patient; DICOM and EDF files name theirs themselves. Two people of
            one name are one, as nobody can tell: their rows stay together.
        site: Column of the site, where there are several.
        classes: What the label column may hold, in order; all that it holds, sorted, if not given.
        test_folds: One of so many parts, by patient, is set aside and tells what lending gains.
        size: Height and width (or the length of a series) that rows are brought to; they must agree
            already if not given.
        channels: 1 for grey, 3 for colour; as the files are if not given.
        range: Values that become -1 and 1; the format's own if not given.
        transforms: MONAI transforms, before ``size`` and ``range``.
        cache: A folder for decoded rows and features; nothing is copied if not given.
        memory_mb: Rows that need more are read as they are needed.
        skip_unreadable: Go on without files that cannot be read, and say which.
        dicom: For ``form = "dicom"``.
        nifti: For ``form = "nifti"``.
        edf: For ``form = "edf"``.
        encoder: The site's own, where the charter's exchange leaves bodies to the sites.
        public_body: Safetensors file of the public weights, if the charter names some.
        anchors: An ``.npz`` with the public rows ``x``, if the charter names some.
    """

    path: Path | str
    form: Form | None = None
    query: str | None = None
    schema_file: Annotated[Path | None, Field(alias="schema")] = None
    drop: tuple[str, ...] = ()
    labels: Path | None = None
    file: str = "file"
    label: str = "label"
    patient: str | None = None
    site: str | None = None
    classes: tuple[str, ...] = ()
    test_folds: Annotated[int, Field(ge=2, le=20)] = 5
    size: Annotated[tuple[Whole, ...], Field(max_length=2)] = ()
    channels: Literal[1, 3] | None = None
    range: tuple[float, float] | None = None
    transforms: tuple[Transform, ...] = ()
    cache: Path | None = None
    memory_mb: Whole = 512
    skip_unreadable: bool = False
    dicom: Dicom = Dicom()
    nifti: Nifti = Nifti()
    edf: Edf = Edf()
    encoder: OwnEncoder | None = None
    public_body: Path | None = None
    anchors: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("range is from the lower value to the higher")
        if (self.query is not None) != self.database:
            raise ValueError("a database is asked by a query, and nothing else is; give both")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is named twice")
        return self

    @property
    def database(self) -> bool:
        """Whether the rows are in a database."""
        return bool(URL.match(str(self.path)))

    @property
    def shown(self) -> str:
        """The path for people: of a database without what may hold a password."""
        address = str(self.path)
        return (
            SECRET.sub(lambda found: "://" if found[0].startswith(":") else "", address)
            if self.database
            else address
        )

    @property
    def where(self) -> Path:
        """The file or folder; of a database the last of its names, which no password is in."""
        return Path(self.shown.rpartition("/")[2] if self.database else self.path)

    def relative_to(self, folder: Path) -> Self:
        """Return the same with paths relative to a folder spelt out."""
        named = ["schema_file", "labels", "cache", "public_body", "anchors"]
        named += [] if self.database else ["path"]
        spelt: dict[str, Path | str | OwnEncoder] = {
            name: folder / Path(path).expanduser()
            for name in named
            if (path := getattr(self, name)) is not None
        }
        if found := SQLITE.fullmatch(str(self.path)):
            spelt["path"] = f"{found[1]}{folder / Path(found[2]).expanduser()}"
        if self.encoder is not None:
            weights = folder / self.encoder.weights.expanduser()
            spelt["encoder"] = self.encoder.model_copy(update={"weights": weights})
        return self.model_copy(update=spelt)


class _File(BaseModel, frozen=True, extra="ignore"):
    data: Source


def read_settings(path: Path) -> Source:
    """Return the section ``[data]`` of a ``site.toml``; the rest of it is for the node.

    Raises:
        SettingsError: The file is missing, is not TOML, or the section breaks a rule.
    """
    try:
        table: dict[str, Any] = toml_of(path.read_bytes())
        return _File.model_validate(table).data.relative_to(path.parent)
    except ValidationError as error:
        raise SettingsError(f"{path} cannot be followed: {faults_of(error)}") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
