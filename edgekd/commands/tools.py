"""`edgekd tools ls | install | doctor | remove`: tool environments, made when asked for and never otherwise."""

from __future__ import annotations

import sys
from typing import Any

import typer

from edgekd.commands import output
from edgekd.console import Console
from edgekd.errors import EdgekdError, MissingTool, UsageError
from edgekd.tools import catalogue, place
from edgekd.tools import install as installing
from edgekd.tools.catalogue import Tool

COLUMNS = ("tool", "state", "disk MiB", "torch", "pinned for", "what it is")


def ls(json: bool) -> None:
    """The tools, what each takes, and whether it is installed."""
    facts = [_facts(tool) for tool in catalogue.tools().values()]
    if json:
        output.print_json({"root": str(place.root()), "tools": facts})
        return
    rows = [
        (f["tool"], f["state"], f["installed_mib"], f["torch"] or "", f["pinned_for"], f["description"]) for f in facts
    ]
    output.print_table(COLUMNS, rows, right=("disk MiB",))
    output.say(f"in {place.root()}")
    missing = next((f["tool"] for f in facts if f["state"] != "installed" and f["supported"]), None)
    output.next_command(f"edgekd tools install {missing}" if missing else "edgekd formats")


def install(name: str, yes: bool, force: bool, json: bool) -> None:
    """Install one tool; its size is said, and agreed to, first.

    Raises:
        UsageError: Nobody is there to agree.
        EdgekdError: See `edgekd.tools.install.install`.
    """
    tool = catalogue.find(name)
    tool.require_supported()
    path = place.root() / name
    console = Console()
    if force or not (path / place.MARKER).is_file() or place.fault(tool, path) is not None:
        _agree(tool, yes, console)
        path = installing.install(tool, console, force)
    marker = place.read_marker(path)
    if json:
        output.print_json({"tool": name, "path": str(path), **marker})
        return
    output.say(f"{name}: {len(marker['freeze'])} packages, {output.size(marker['bytes'])} in {path}")
    output.next_command("edgekd formats")


def doctor(name: str | None, json: bool) -> None:
    """Look at the installed tools, or at one: every pinned package in its version.

    Raises:
        MissingTool: One is broken, or the named one is not installed.
    """
    chosen = [catalogue.find(name)] if name else list(catalogue.tools().values())
    facts = [_facts(tool) for tool in chosen]
    bad = [f for f in facts if f["state"] in ("broken", "half installed") or (name and f["state"] != "installed")]
    error = _fault(bad[0]) if bad else None
    if json:
        if error is not None:
            output.fail(error, {"tools": facts})
        output.print_json({"tools": facts})
        return
    rows = [(f["tool"], f["state"], f["found"], f["expected"]) for f in facts]
    output.print_table(("tool", "state", "found", "expected"), rows)
    if error is not None:
        raise error
    output.next_command("edgekd formats")


def remove(name: str, json: bool) -> None:
    """Delete a tool's environment."""
    freed = installing.remove(catalogue.find(name))
    if json:
        output.print_json({"tool": name, "bytes": freed})
        return
    output.say(f"{name}: removed, {output.size(freed)} freed" if freed else f"{name}: was not installed")
    output.next_command("edgekd tools ls")


def _agree(tool: Tool, yes: bool, console: Console) -> None:
    fetched, taken = installing.size_mib(tool)
    version = tool.host_torch()
    torch = (
        "" if tool.torch is None else f"; torch: {version or tool.torch.own}, {'the host' if version else 'its own'}"
    )
    console.log(f"{tool.name}: {tool.source}; {len(tool.pins())} packages, exact versions and SHA-256{torch}")
    console.log(f"licence: {tool.licence}")
    console.log(f"fetches up to {fetched} MiB, takes {taken} MiB in {place.root() / tool.name}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"tool {tool.name}", "nobody is there to agree", "--yes", f"edgekd tools install {tool.name} --yes"
        )
    if not typer.confirm("install it?", default=True, err=True):
        raise UsageError(f"tool {tool.name}", "not agreed to", "yes", f"edgekd tools install {tool.name}")


def _facts(tool: Tool) -> dict[str, Any]:
    path = place.root() / tool.name
    state, found, expected = "not installed", "", ""
    if (path / place.MARKER).is_file():
        fault = place.fault(tool, path)
        state = "installed" if fault is None else "broken"
        found, expected = fault if fault is not None else (f"{len(tool.pins())} packages as pinned", "")
    elif path.is_dir():
        state, found, expected = "half installed", f"no {place.MARKER}", "a whole environment"
    try:
        tool.require_supported()
        supported = True
    except MissingTool as error:
        supported = False
        state = "unsupported" if state == "not installed" else state
        found, expected = found or error.found, expected or error.expected
    version = tool.host_torch()
    return {
        "tool": tool.name,
        "state": state,
        "found": found,
        "expected": expected,
        "supported": supported,
        "installed_mib": installing.size_mib(tool)[1],
        "download_mib": installing.size_mib(tool)[0],
        "torch": None if tool.torch is None else f"{version} of the host" if version else f"{tool.torch.own}, its own",
        "pinned_for": f"Python {', '.join(tool.python)} on {', '.join(tool.platforms)}",
        "licence": tool.licence,
        "description": tool.description,
    }


def _fault(facts: dict[str, Any]) -> EdgekdError:
    name, state = facts["tool"], facts["state"]
    hint = place.repair(name) if state in ("broken", "half installed") else f"edgekd tools install {name}"
    return MissingTool(
        f"tool {name}", f"{state}: {facts['found']}".rstrip(": "), facts["expected"] or "installed", hint
    )
