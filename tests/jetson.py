"""A Jetson Orin Nano as files: made up from public documentation (Jetson Linux Developer Guide, the kernel's sysfs files), read
from no board. What a test needs otherwise, it writes over."""

GPU = "sys/class/devfreq/17000000.gpu"
EMC = "sys/kernel/debug/bpmp/debug/clk/emc"
HWMON = "sys/class/hwmon"
RAILS = {"VDD_IN": (5000, 1000), "VDD_CPU_GPU_CV": (5000, 300), "VDD_SOC": (5000, 250)}  # millivolts, milliamperes

NVPMODEL_CONF = """# comment
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1

< POWER_MODEL ID=1 NAME=7W >
CPU_ONLINE CORE_0 1

< PM_CONFIG DEFAULT=0 >
"""


def files(locked=True):
    """{path under the root: text}: two cores, the GPU, the memory clock; locked as `jetson_clocks` leaves them, or free."""
    least, gpu_least, emc_least = (
        ("1510400", "624750000", "2133000000") if locked else ("729600", "306000000", "204000000")
    )
    found = {
        "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/loadavg": "0.10 0.05 0.01 1/200 4242\n",
        "proc/meminfo": "MemTotal:  8000000 kB\nMemAvailable:  4096000 kB\nSwapTotal: 4000000 kB\nSwapFree: 3900000 kB\n",
        "proc/stat": "cpu  1000 0 500 90000 0 0 0 0 0 0\n",
        "etc/nvpmodel.conf": NVPMODEL_CONF,
        "var/lib/nvpmodel/status": "pmode:0000",
        f"{GPU}/min_freq": gpu_least,
        f"{GPU}/max_freq": "624750000",
        f"{GPU}/cur_freq": "624750000" if locked else "306000000",
        f"{GPU}/governor": "nvhost_podgov",
        f"{EMC}/rate": "2133000000",
        f"{EMC}/min_rate": emc_least,
        f"{EMC}/max_rate": "2133000000",
        f"{EMC}/mrq_rate_locked": "1" if locked else "0",
        f"{HWMON}/hwmon3/name": "soctherm_oc",
    }
    for core in (0, 1):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        found |= {
            f"{folder}/scaling_governor": "schedutil",
            f"{folder}/scaling_min_freq": least,
            f"{folder}/scaling_max_freq": "1510400",
            f"{folder}/scaling_cur_freq": "1510400",
        }
    for i, (kind, state) in enumerate({"pwm-fan": 2, "cpu-throttle-alert": 0, "devfreq-17000000.gpu": 0}.items()):
        found |= {f"sys/class/thermal/cooling_device{i}/{k}": str(v) for k, v in (("type", kind), ("cur_state", state))}
    for i, (kind, degrees) in enumerate({"cpu-thermal": 48500, "gpu-thermal": 47000}.items()):
        found |= {f"sys/class/thermal/thermal_zone{i}/{k}": str(v) for k, v in (("type", kind), ("temp", degrees))}
    for event in ("oc1", "oc2", "oc3"):
        found |= {f"{HWMON}/hwmon3/{event}_event_cnt": "5", f"{HWMON}/hwmon3/{event}_throt_en": "1"}
    return found | rails(RAILS)


def rails(values):
    """The files of one INA3221: {rail: (mV, mA)}."""
    found = {f"{HWMON}/hwmon1/name": "ina3221"}
    for i, (rail, (mv, ma)) in enumerate(values.items(), 1):
        found |= {f"{HWMON}/hwmon1/{name}": str(value) for name, value in _channel(i, rail, mv, ma).items()}
    return found


def _channel(i, rail, mv, ma):
    return {f"in{i}_label": rail, f"in{i}_input": mv, f"curr{i}_input": ma}


def write(root, tree):
    """Lay files under a root; gives the root."""
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name(f".{path.name}.new")  # a reader sees the old file or the new one, as of sysfs
        whole.write_text(text)
        whole.replace(path)
    return root
