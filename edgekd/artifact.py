"""An artifact: a sealed folder named by what went in and what came out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgekd import records
from edgekd.errors import IntegrityError

SCHEMA = 1
MANIFEST = "manifest.json"
HINT = "edgekd artifacts gc, then run again"
STEP = r"[a-z][a-z0-9_]*(/[A-Za-z0-9][A-Za-z0-9._@-]{0,199}){0,3}"  # a folder, or folders below one another
FOLDER = r"[0-9a-f]{8}-[0-9a-f]{8}(\.[0-9]{1,6})?"
ID = re.compile(f"{STEP}/{FOLDER}")
MATERIAL = (
    "stage",
    "version",
    "params",
    "plugin",
    "environment",
)  # of a manifest: what its key hashes beside the inputs
# A metric with one of these endings is a number.
UNITS = ("_percent", "_ms", "_s", "_second", "_seconds", "_pp", "_db", "_mib", "_bytes")


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8; the bytes that every key and digest hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def payload_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """What came out: SHA-256 over names and hashes of the payload files of a manifest's `files`, hex."""
    return hashlib.sha256(canonical({n: e["sha256"] for n, e in files.items() if e["payload"]})).hexdigest()


def material(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the key of a manifest hashes, as the manifest says it."""
    own = {name: manifest[name] for name in MATERIAL if name in manifest}
    return {**own, "inputs": {role: entry["digest"] for role, entry in manifest["inputs"].items()}}


def material_key(values: Mapping[str, Any]) -> str:
    """What went in: SHA-256 of the canonical JSON of key material, hex."""
    return hashlib.sha256(canonical(values)).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A sealed folder.

    Attributes:
        path: The folder.
        manifest: `manifest.json` as read.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> str:
        """The step that made it, e.g. `student` or `export/onnx`."""
        return str(self.manifest["step"])

    @property
    def key(self) -> str:
        """What went in: SHA-256, hex."""
        return str(self.manifest["key"])

    @property
    def digest(self) -> str:
        """What came out: SHA-256 over the payload, hex."""
        return str(self.manifest["digest"])

    @property
    def id(self) -> str:
        """`<step>/<key8>-<digest8>`, the name that people type."""
        return f"{self.step}/{self.path.name}"

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Figures with their units in their names."""
        return dict(self.manifest["metrics"])

    @property
    def inputs(self) -> Mapping[str, str]:
        """{role: artifact id} of what it was made from."""
        return {role: str(entry["id"]) for role, entry in self.manifest["inputs"].items()}

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(int(entry["bytes"]) for entry in self.manifest["files"].values())


def read(path: Path) -> Artifact:
    """The artifact in a folder.

    Raises:
        IntegrityError: Its manifest is no manifest, not the one that was sealed, or one of another folder.
    """
    where = "/".join((*path.parts[-3:], MANIFEST))  # <step>/<folder>, and a step may have two parts
    manifest = records.read_json(path / MANIFEST, where, HINT)
    try:
        found = _Manifest.model_validate(manifest)
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(str(part) for part in item["loc"]) or "the whole"
        raise IntegrityError(
            where, f"is damaged ({place:.80}: {item['msg']:.200})", f"manifest schema {SCHEMA}", HINT
        ) from error
    if found.seal != manifest_seal(manifest):
        raise IntegrityError(where, "has other contents than were sealed", "the bytes that were sealed", HINT)
    place = f"{found.step}/{found.key[:8]}-{found.digest[:8]}"
    if re.fullmatch(rf"(.*/)?{re.escape(place)}(\.[0-9]+)?", path.as_posix(), re.DOTALL) is None:
        raise IntegrityError(where, f"is that of {place}", "the manifest of its own folder", HINT)
    return Artifact(path, manifest)


def manifest_seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the manifest without its own seal."""
    return hashlib.sha256(canonical({k: v for k, v in manifest.items() if k != "seal"})).hexdigest()


def sealed_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as people read it, sealed by a hash over its contents."""
    sealed = {**manifest, "seal": manifest_seal(manifest)}
    return (json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _inner(name: str) -> str:
    """A file name below a folder, in its plainest spelling."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.as_posix() != name or name == "." or not name.isprintable():
        raise ValueError("not a file name below the artifact's folder")
    return name


def _measured(metrics: dict[str, Any]) -> dict[str, Any]:
    for name, value in metrics.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (name.endswith(UNITS) or name.startswith("n_")) and value is not None and not number:
            raise ValueError(f"{name:.80} is no number")
    return metrics


_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Step = Annotated[str, Field(pattern=f"^{STEP}$")]
_Id = Annotated[str, Field(pattern=f"^{ID.pattern}$")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _File(_Part):
    sha256: _Hash
    bytes: int = Field(ge=0)
    payload: bool


class _Input(_Part):
    id: _Id
    step: _Step
    key: _Hash
    digest: _Hash


class _Params(_Part):
    distill: dict[str, Any] | None = None
    fit: dict[str, Any] | None = None
    args: dict[str, Any] = {}
    roles: dict[str, int | None] = {}


class _Environment(_Part):
    processes: int = Field(1, ge=1)


class _Recipe(_Part):
    data: dict[str, Any] = {}
    teacher: dict[str, Any] | None = None
    student: dict[str, Any] | None = None
    distill: dict[str, Any] | None = None


class _Manifest(_Part):
    """What every reader of a manifest relies on; a stage adds to it."""

    schema_: Literal[1] = Field(alias="schema")
    step: _Step
    key: _Hash
    digest: _Hash
    seal: _Hash
    files: dict[Annotated[str, AfterValidator(_inner)], _File]
    inputs: dict[str, _Input]
    metrics: Annotated[dict[str, Any], AfterValidator(_measured)]
    params: _Params = _Params()
    sealed_at: str = ""
    serial: int = Field(0, ge=0)  # the one sealed last has the highest, whatever the clock said
    test_touches: int = 0
    environment: _Environment | None = None
    recipe: _Recipe = _Recipe()
    versions: dict[str, str] = {}
    source: dict[str, str] = {}
    host: dict[str, str] = {}
