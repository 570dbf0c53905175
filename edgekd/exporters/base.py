"""What an exporter is: a graph or quantized artifact in, the files of one target out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from edgekd.artifact import Artifact
from edgekd.params import ExportParams


class Exporter(ABC):
    """Writes one file format. One file in this folder = one exporter; its constructor's arguments are a target's `args`.

    Attributes:
        VERSION: Raised when the same inputs give other files.
        files: Names of the files that it writes: the payload of the step.
    """

    VERSION: ClassVar[int]
    files: ClassVar[tuple[str, ...]]

    @abstractmethod
    def export(self, source: Artifact, out: Path, *, target: ExportParams) -> Path:
        """Write the files of a target.

        Args:
            source: A `graph` or `quantized/<scheme>` artifact.
            out: The folder to write into.
            target: What is asked for.

        Returns:
            The network's own file in `out`.

        Raises:
            StageFailed: The format cannot hold the network.
            IntegrityError: The source is damaged.
        """
