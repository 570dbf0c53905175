"""`edgekd doctor --device D`: a board as its own runner sees it, and the line that mends what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from edgekd import devices
from edgekd.commands import output
from edgekd.commands.doctor import Finding
from edgekd.console import Console
from edgekd.errors import MissingTool
from edgekd.profiles import Device
from edgekd.stages import bench_link
from edgekd.transport.base import Transport

LOW_DISK_MIB, LOW_MEMORY_MIB = (
    512,
    512,
)  # a bundle of CIFAR-10 takes 32 MiB and a runner about 100; the rest is room for an engine
HOT_C = 85.0  # the modules begin to throttle above 90
LOCK = "sudo jetson_clocks  # after: sudo nvpmodel -m MODE"
NUMPY, PYTHON = "sudo apt-get install python3-numpy", (3, 8)


def doctor_device(name: str, json: bool) -> None:
    """Print what a device says of itself.

    Raises:
        RecipeError: No such device.
        MissingTool: It cannot be reached, or lacks what every bench needs.
    """
    console = Console()
    device = devices.resolve(name)
    said = devices.said(name, device)
    if said:
        console.log(said)
    way = bench_link.link_to(device)
    told = bench_link.probe(way, device.name, fresh=True)
    findings = [*_itself(device, told), *_state(told), *_tools(device, told), *_room(way, told)]
    missing = [f for f in findings if f.state == "missing"]
    error = None
    if missing:
        error = MissingTool(f"device {device.name}", ", ".join(f.what for f in missing), "all of them", missing[0].fix)
    following = f"edgekd bench --device {device.name}"
    if json:
        facts = {"device": device.name, "profile": device.profile or device.name, "host": device.host}
        shown = {**facts, "usable": error is None, "findings": [vars(f) for f in findings], "probe": told}
        if error is not None:
            output.fail(error, shown)
        output.print_json({**shown, "next": following})
        return
    output.print_table(("what", "", "found", "to mend"), [(f.what, f.state, f.found, f.fix) for f in findings])
    if error is not None:
        raise error
    output.next_command(following)


def _itself(device: Device, told: Mapping[str, Any]) -> Iterator[Finding]:
    machine = told["machine"]
    model = machine["board"]
    yield Finding("board", "ok", f"{model or 'no device tree'}, {machine['architecture']}, {machine['system']}")
    if device.match.device_tree and not (model or "").startswith(device.match.device_tree):
        found = f"{model or 'a machine without a device tree'} is no {device.profile or device.name}"
        fix = "edgekd devices add NAME --host ... --profile the right one"
        yield Finding("profile", "warn", f"{found} by its device tree", fix)
    yield Finding("processor", "ok", f"{machine['cpu']}, {machine['cores']} cores usable")
    if (gpu := told.get("gpu")) is not None:
        yield Finding("gpu", "ok", f"{gpu['gpu']}, compute capability {gpu['capability']}, driver {gpu['driver']}")
    elif "tensorrt" in device.runtimes:
        yield Finding("gpu", "warn", "no NVIDIA driver answers", "nvidia-smi; on a Jetson: cat /etc/nv_tegra_release")
    if told["emulated"]:
        yield Finding("emulated", "warn", f"{told['emulated']}: correctness only, its times are no latencies")


def _state(told: Mapping[str, Any]) -> Iterator[Finding]:
    now = told["state"]
    mode = told["power_mode"]
    yield Finding("power mode", "ok", mode or "none here (no nvpmodel)")
    limits: Mapping[str, Any] = now["limits_mhz"] or {}
    moving = [name for name, (low, high) in limits.items() if low != high]
    if not limits:
        yield Finding("clocks", "warn", "cannot be read: figures will be valid-unlocked")
    elif moving:
        spans = ", ".join(f"{name} {limits[name][0]:.0f} to {limits[name][1]:.0f} MHz" for name in moving[:3])
        yield Finding(
            "clocks", "warn", f"not locked: {spans}", LOCK if mode else "sudo cpupower frequency-set -g performance"
        )
    else:
        yield Finding("clocks", "ok", "locked: " + ", ".join(f"{name} {limits[name][0]:.0f} MHz" for name in limits))
    governors = now["governors"]
    yield Finding("governor", "ok", ", ".join(governors) if governors else "cannot be read")
    heat: Mapping[str, float] = now["temperature_c"] or {}
    if heat:
        hottest = max(heat, key=lambda zone: heat[zone])
        hot = heat[hottest] >= HOT_C
        found = f"{heat[hottest]:.1f} C ({hottest}, the hottest of {len(heat)})"
        yield Finding("temperature", "warn" if hot else "ok", found, "let it cool; see to its fan" if hot else "")
    load = now["load_average"]
    if load:
        yield Finding(
            "load", "ok" if load[0] < 1 else "warn", f"{load[0]:.2f} (1 minute)", "" if load[0] < 1 else "wait"
        )
    free, total, swap = now["memory_available_mib"], now["memory_total_mib"], now.get("swap_used_mib")
    if free is not None:
        low = free < LOW_MEMORY_MIB
        found = f"{free:.0f} of {total:.0f} MiB free, swap used: {'unknown' if swap is None else f'{swap:.0f} MiB'}"
        yield Finding("memory", "warn" if low else "ok", found, "close other programs, or add swap" if low else "")


def _tools(device: Device, told: Mapping[str, Any]) -> Iterator[Finding]:
    """Python, NumPy, and the runtimes of the profile: one of them must be there."""
    machine, engines = told["machine"], told["engines"]
    yield Finding("python", "ok", machine["python"])
    yield Finding("numpy", "ok", machine["numpy"])
    there = [name for name in device.runtimes if name in engines]
    for name, facts in device.runtimes.items():
        if name in engines:
            yield Finding(name, "ok", f"{engines[name]} ({facts.provider})")
            continue
        why = told["missing"].get(name) or {"found": "not known to the runner", "hint": ""}
        yield Finding(name, "warn" if there else "missing", why["found"], bench_link.needs(device, name, why["hint"]))
    for name in sorted(set(engines) - set(device.runtimes)):
        yield Finding(name, "ok", f"{engines[name]}; in no runtime of the profile")
    if device.power:
        use = str(device.power.get("use"))
        rails = told["probes"].get(use, "not known to the runner")
        found = ", ".join(rails) if isinstance(rails, dict) else str(rails)
        yield Finding(f"power ({use})", "ok" if isinstance(rails, dict) else "warn", found)
    yield Finding("image decoders", "ok", ", ".join(["PNG, PPM, BMP, NPY", *told["decoders"]]))


def _room(way: Transport, told: Mapping[str, Any]) -> Iterator[Finding]:
    facts = getattr(way, "facts", None)
    if facts is None:
        return
    said = cast("dict[str, Any]", facts())
    low = said["free"] < LOW_DISK_MIB * 2**20
    yield Finding(
        "disk",
        "warn" if low else "ok",
        f"{said['root']}: {output.size(said['free'])} free",
        "free some space on the board, or devices add --folder" if low else "",
    )
